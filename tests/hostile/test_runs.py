"""Runs whose files were damaged, swapped or lost: found and told, and the rest goes on."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
import torch
from raw_zoos import SEED_ZOO, make_zoo
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.builders.sources.run import RunSource
from zoo_datasets.cli.app import app
from zoo_datasets.errors import DamagedError, RunError
from zoo_datasets.evaluation.verify.run import verify_run
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.runs import Run
from zoo_datasets.training import train_zoo
from zoo_datasets.training.population.parents import open_parents

ZOO = plain.tiny_zoo(activation=("tanh", "relu"), seeds=2)
DATA = plain.tiny_images(train=20)


def train(folder, epochs=2, observer=None):
    return train_zoo(ZOO, folder, DATA, epochs=epochs, observer=observer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two cohorts of two models at epochs 0 to 2."""
    return train(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture(scope="module")
def grown(trained, tmp_path_factory):
    """The same to epoch 3."""
    return train(shutil.copytree(trained, tmp_path_factory.mktemp("grown") / "run"), 3).path


@pytest.fixture
def run(trained, tmp_path):
    """A copy to damage."""
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def strip(run):
    """Make it a run of an earlier version: the same content without records."""
    for file in run.rglob("*.safetensors"):
        epoch = next(iter(safe_open(file, "pt").metadata().values())).split(",")[0].removeprefix("epoch ")
        # Copied, as the file is mapped and now written over.
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        save_file(tensors, file, {"epoch": epoch} if file.stem == "resume" else None)
    for file in run.rglob("metrics.parquet"):
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    value = json.loads((run / "zoo.json").read_text())
    del value["record"]
    (run / "zoo.json").write_text(json.dumps(value))


def use(run):
    """All that building and training read: the complaints, and what a build would write."""
    complaints, states = [], {}
    try:
        source = RunSource.open(run)
        for block in source.blocks():
            for item in source.read(block):
                if isinstance(item, LeftOut):
                    complaints.append(item.reason)
                    continue
                figures = np.stack([np.asarray(column) for column in item.figures.values()], axis=1)
                for model, epoch, weights, row in zip(item.models, item.epochs, item.weights, figures, strict=True):
                    states[model.model_id, epoch] = weights.numpy().tobytes() + row.tobytes()
        for cohort in source.run.cohorts():
            complaints.append(cohort.setback())
            cohort.read_resume()
        complaints += source.notes({}).lines()
    except RunError as error:
        complaints.append(str(error))
    return [complaint for complaint in complaints if complaint], states


def damage(run, rng):
    """One fault at random; gives its kind."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    kind = rng.choice(["flip"] * 6 + ["cut", "swap", "delete"])
    file = rng.choice(files)
    size = file.stat().st_size
    if kind == "flip":
        # Half of the time in what surrounds the values.
        flip(file, rng.randrange(8 * size) if rng.random() < 0.5 else 8 * size - 1 - rng.randrange(min(8 * size, 8000)))
    elif kind == "cut":
        os.truncate(file, rng.randrange(size))
    elif kind == "delete":
        file.unlink()
    else:
        others = [other for other in files if other.suffix == file.suffix and other.read_bytes() != file.read_bytes()]
        other = rng.choice(others)
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
    return kind


def test_no_fault_of_a_seeded_fuzz_is_silent(trained, tmp_path):
    complaints, sound = use(trained)
    assert (complaints, len(sound)) == ([], 12)
    rng = random.Random(20)
    tried, detected, silent = Counter(), Counter(), []
    for attempt in range(120):
        run = shutil.copytree(trained, tmp_path / str(attempt))
        kind = damage(run, rng)
        tried[kind] += 1
        complaints, states = use(run)
        # What is read all the same is as it was.
        assert states.items() <= sound.items()
        detected[kind] += bool(complaints)
        if not complaints:
            silent.append((attempt, kind))
        shutil.rmtree(run)
    print(f"tried {dict(tried)}, detected {dict(detected)}, silent {len(silent)}")
    assert silent == []
    assert min(tried[kind] for kind in ("flip", "cut", "swap", "delete")) >= 8


HEADER = "import sys; from pathlib import Path; from test_runs import use; import json\n"
READ_ALL = "for line in sys.stdin:\n    print(json.dumps([*map(len, use(Path(line.strip())))]), flush=True)\n"


def test_odd_metrics_of_an_older_run_never_stop_the_others(run, tmp_path):
    strip(run)
    rng = random.Random(3)
    folders = []
    for attempt in range(42):
        folders.append(shutil.copytree(run, tmp_path / f"old{attempt}"))
        file = folders[-1] / "cohort-0000" / "metrics.parquet"
        if attempt % 6:
            flip(file, rng.randrange(8 * file.stat().st_size))
        else:
            os.truncate(file, rng.randrange(file.stat().st_size))
    # What Arrow makes of broken files may be a crash.
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    reader = subprocess.run(
        [sys.executable, "-c", HEADER + READ_ALL],
        input="\n".join(map(str, folders)),
        text=True,
        capture_output=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
    )
    assert reader.returncode == 0, reader.stderr
    results = [json.loads(line) for line in reader.stdout.splitlines()]
    assert len(results) == 42
    assert all(states >= 6 for _, states in results)
    assert sum(complaints > 0 for complaints, _ in results) >= 14


@pytest.mark.parametrize("change", [
    lambda table: table.drop_columns(["epoch"]),
    lambda table: table.set_column(1, "epoch", [[-1] * len(table)]),
    lambda table: table.set_column(1, "epoch", [[2**31 - 1] * len(table)]),
    lambda table: table.set_column(3, "train_acc", [[7.0] * len(table)]),
    lambda table: table.set_column(2, "train_loss", [["low"] * len(table)]),
    lambda table: table.set_column(0, "model_id", [[None] * len(table)]),
])  # fmt: skip
def test_absurd_metrics_are_left_out_with_a_reason(run, tmp_path, change):
    strip(run)
    file = run / "cohort-0000" / "metrics.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    result = build_repository(run, tmp_path / "repo")
    assert result.rows == 6
    (reason,) = {entry.reason for entry in result.left_out}
    assert reason.startswith("cohort-0000/metrics.parquet could not be read: ")


def test_a_run_without_checksums_is_read_with_one_note(run, grown, tmp_path):
    strip(run)
    result = build_repository(run, tmp_path / "repo")
    assert result.rows == 12
    assert [w for w in result.warnings if "checksums" in w] == [
        "files of this run carry no checksums, as earlier versions wrote them: damage in these cannot be seen "
        "(12 states)"
    ]
    assert verify_run(run, images=DATA).ok
    assert not open_parents(run).checked
    train(run, 3)
    for number in range(2):
        one, two = (Run.open(path).cohort(number).weights(3) for path in (run, grown))
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["resume.safetensors", "epoch-0002.safetensors", "metrics.parquet", "members.json"])
def test_training_refuses_a_damaged_file_trains_the_others_and_goes_on_as_told(run, grown, name):
    file = run / "cohort-0000" / name
    flip(file, 4 * file.stat().st_size)
    with pytest.raises(
        RunError, match=rf"cohort-0000/{name}.*delete .*(trains these models again from epoch 0|writes)"
    ):
        train(run, 3)
    other = "cohort-0001/epoch-0003.safetensors"
    assert (run / other).read_bytes() == (grown / other).read_bytes()
    (run / "cohort-0000" / ("resume.safetensors" if name.startswith("epoch") else name)).unlink()
    train(run, 3)
    assert contents(run)["cohort-0000/epoch-0003.safetensors"] == contents(grown)["cohort-0000/epoch-0003.safetensors"]
    assert verify_run(run, images=DATA).ok


def test_swapped_epochs_are_refused_by_training_and_left_out_of_a_build(run, tmp_path):
    first, last = (run / "cohort-0000" / f"epoch-000{epoch}.safetensors" for epoch in (0, 2))
    one, two = first.read_bytes(), last.read_bytes()
    first.write_bytes(two)
    last.write_bytes(one)
    result = build_repository(run, tmp_path / "repo")
    assert result.rows == 12 - 4
    assert "epoch-0000.safetensors was written after epoch 2, expected epoch 0" in " ".join(result.warnings)
    with pytest.raises(DamagedError, match=r"epoch-0002.*was written after epoch 0, expected epoch 2"):
        train(run, 3)


class Listener:
    def __init__(self):
        self.epochs = Counter()

    def begin(self, run, cohorts):
        self.setbacks = [cohort.setback() for cohort, _ in cohorts]

    def epoch(self, report):
        self.epochs[report.cohort] += 1


@pytest.mark.parametrize("kept", [None, 1])
def test_lost_figures_are_made_again_and_never_hidden(run, grown, tmp_path, kept):
    """Training begins at epoch 0 again: no other file has the running averages of training."""
    file = run / "cohort-0001" / "metrics.parquet"
    if kept is None:
        file.unlink()
    else:  # an older copy, restored by hand
        older = train(tmp_path / "older", 1)
        shutil.copy(older.path / "cohort-0001" / "metrics.parquet", file)
    result = build_repository(run, tmp_path / "repo")
    assert result.rows == (6 if kept is None else 10)
    assert all("its figures are lost: metrics.parquet has none" in entry.reason for entry in result.left_out)
    listener = Listener()
    train(run, 3, listener)
    assert listener.setbacks == [None, f"metrics.parquet has lost the figures of epochs {'0–2' if kept is None else 2}"]
    assert listener.epochs == {"cohort-0000": 1, "cohort-0001": 4}
    assert contents(run).keys() == contents(grown).keys()
    for name, content in contents(run).items():
        assert name == "zoo.json" or content == contents(grown)[name], name
    assert build_repository(run, tmp_path / "repo").rows == 16


def test_no_epoch_is_written_over_lost_figures(run):
    cohort = Run.open(run).cohort(0)
    metrics, tensors = cohort.figures(2), cohort.tensors(2)
    (cohort.path / "metrics.parquet").unlink()
    before = contents(run)
    with pytest.raises(RunError, match="no figures of epochs 0–1 any more; nothing was written"):
        cohort.write_epoch(2, tensors, metrics)
    assert contents(run) == before


def test_the_command_says_what_was_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "digits_cnn_s", "--models", "4", "--limit-train", "30", "--limit-val", "20", "--limit-test",
               "20", "--epochs"]  # fmt: skip
    assert CliRunner().invoke(app, [*command, "1"]).exit_code == 0
    Path("runs/digits_cnn_s/cohort-0000/metrics.parquet").unlink()
    again = CliRunner().invoke(app, [*command, "2"])
    assert again.exit_code == 0
    assert again.output.count("metrics.parquet has lost the figures of epochs 0–1") == 2
    assert Run.open(Path("runs/digits_cnn_s")).cohort(0).epochs() == [0, 1, 2]


@pytest.mark.parametrize("renames", range(1, 8))
def test_a_stop_between_any_two_renames_leaves_no_file_that_is_refused(tmp_path, trained, monkeypatch, renames):
    replace, calls = Path.replace, []

    def stopping(self, target):
        calls.append(target)
        if len(calls) > renames:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_zoo(ZOO, tmp_path / "run", DATA, threads=1)
    monkeypatch.undo()
    assert use(tmp_path / "run")[0].count("damaged") == 0
    train(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(trained)


@pytest.mark.parametrize("change", [
    lambda entries: [entries[0] | {"seed": 99}, *entries[1:]],
    lambda entries: [entries[0] | {"model_id": "stranger"}, *entries[1:]],
    lambda entries: [entries[0] | {"model_id": ["x"]}, *entries[1:]],
    lambda entries: [],
    lambda entries: "\ud800",
])  # fmt: skip
def test_a_cohort_with_odd_members_is_left_out_and_told(run, tmp_path, change):
    file = run / "cohort-0001" / "members.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    result = build_repository(run, tmp_path / "repo")
    assert result.rows == 6
    assert any(warning.startswith("cohort-0001 is left out: cohort-0001/members.json") for warning in result.warnings)
    assert {len(entry.epochs) for entry in result.left_out} == {3}


def test_conditions_on_figures_do_not_hide_damaged_ones(run, tmp_path):
    from zoo_datasets.builders import Reading
    from zoo_datasets.repository.where import parse_where

    file = run / "cohort-0000" / "metrics.parquet"
    flip(file, 4 * file.stat().st_size)
    result = build_repository(run, tmp_path / "repo", reading=Reading(where=parse_where("test_acc >= 0")))
    assert result.rows == 6
    assert {len(entry.epochs) for entry in result.left_out} == {3}


def test_damaged_parents_have_no_twins(run):
    file = run / "cohort-0000" / "epoch-0002.safetensors"
    flip(file, 4 * file.stat().st_size)
    parents = open_parents(run)
    assert len(parents.members) == 2
    assert {reason.split(" is damaged")[0] for reason in parents.left_out.values()} == {str(file)}


@pytest.mark.parametrize(("fault", "check"), [
    (lambda run: flip(run / "cohort-0000" / "epoch-0001.safetensors", 50_000), "checksums"),
    (lambda run: flip(run / "cohort-0000" / "resume.safetensors", 50_000), "checksums"),
    (lambda run: flip(run / "cohort-0000" / "metrics.parquet", 9_000), "checksums"),
    (lambda run: flip(run / "cohort-0000" / "members.json", 900), "members"),
    (lambda run: flip(run / "zoo.json", 900), "manifest"),
    (lambda run: (run / "cohort-0000" / "epoch-0001.safetensors").unlink(), "epochs"),
    (lambda run: (run / "cohort-0000" / "metrics.parquet").unlink(), "epochs"),
    (lambda run: (run / "cohort-0000" / "resume.safetensors").unlink(), "epochs"),
])  # fmt: skip
def test_verify_names_each_fault_of_a_run(run, fault, check):
    assert verify_run(run).ok
    fault(run)
    result = verify_run(run)
    assert check in {difference.check for difference in result.differences}
    assert not next(found for found in result.checks if found.name == check).passed


def test_verify_recomputes_figures_and_looks_at_weights(run):
    assert verify_run(run, images=DATA, sample=8).recomputed == 8
    cohort = Run.open(run).cohort(0)
    tensors = {name: tensor.clone() for name, tensor in cohort.tensors(2).items()}
    tensors["conv1.weight"][0] *= -3  # signed anew, as someone would who wants to hide it
    tensors["conv1.weight"][1, 0, 0, 0] = float("nan")
    cohort.write_epoch(2, tensors, cohort.figures(2))
    result = verify_run(run, images=DATA)
    messages = [(difference.check, difference.message) for difference in result.differences]
    first, second = (member.model_id for member in cohort.members)
    assert any(check == "figures" and f"model {first} at epoch 2" in message for check, message in messages)
    assert ("weights", f"cohort-0000: model {second} at epoch 2: weights are not finite, diverged is False") in messages
    other = plain.dataclasses.replace(DATA, fingerprint="another")
    assert "these are not the images of the run" in str(verify_run(run, images=other).differences)


def test_the_verify_command_takes_runs_and_says_what_else_it_was_given(run, tmp_path):
    def verify(*arguments):
        return CliRunner().invoke(app, ["verify", *map(str, arguments)])

    sound = verify(run, "--files-only")
    assert sound.exit_code == 0
    assert f"{ZOO.name}: 12 states, 0 recomputed: what was checked is as it says" in sound.output
    flip(run / "cohort-0000" / "epoch-0001.safetensors", 50_000)
    assert verify(run, "--files-only").exit_code == 1
    assert "leave out 'x'" in str(verify(run, "x").exception)
    (tmp_path / "empty").mkdir()
    make_zoo(tmp_path / SEED_ZOO, models=1)
    for path, text in (
        ("gone", "does not exist"),
        ("empty", "an empty folder"),
        (SEED_ZOO, "a raw zoo"),
        ("run/zoo.json", "a file of"),
        ("run/cohort-0000", "holds 'epoch-0000.safetensors'"),
    ):
        assert text in str(verify(tmp_path / path).exception)


def test_half_a_character_in_a_raw_zoo_does_not_stop_the_others(tmp_path):
    first, second, *_ = make_zoo(tmp_path / SEED_ZOO)
    file = first / "params.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model::init_type": "uni\ud800form"}))
    (second / "result.json").unlink()
    second.rename(os.fsdecode(os.fsencode(second) + b"\xff"))
    result = build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    assert result.rows == 5 * 3
    assert [entry.reason for entry in result.left_out] == ["the folder holds no result.json"]
