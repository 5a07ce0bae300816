"""An import says what is there: no value is invented, no figure shifted, no row lost, and every note has a code."""

import json
import math
import shutil
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_zoos import (
    PARAMS,
    SEED_ZOO,
    make_twins,
    make_zoo,
    result_line,
    saved,
    state_dict,
    tarred,
    trial_name,
    weights_of,
    write_trial,
    zipped,
)
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import Reading, build_repository, open_source
from zoo_datasets.builders.sources.raw.figures import REPORTED, cleaned
from zoo_datasets.builders.sources.raw.hyperparameters import columns_of, flattened
from zoo_datasets.cli.app import app
from zoo_datasets.errors import CheckpointError, RepositoryError, SourceError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.images.prepare import load_images
from zoo_datasets.loading.modules import evaluate
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.members import Limits

OWN = "mnist_of_mine"  # a name that tells the images and is none of the authors'


def rows_of(repo, name="mnist_cnn_s"):
    rows = []
    for shard in read_manifest(repo, name).shards:
        rows += pq.read_table(repo / shard.path).to_pylist()
    return sorted(rows, key=lambda row: (row["seed"] or 0, row["epoch"]))


def codes_of(repo, name="mnist_cnn_s"):
    return read_manifest(repo, name).source["note_codes"]


def write_params(folder, params, file="params.json"):
    (folder / "params.json").unlink(missing_ok=True)
    (folder / file).write_text(json.dumps(params))
    lines = [result_line(epoch, {}) for epoch in (0, 1)]
    (folder / "result.json").write_text("\n".join(lines))


# Hyperparameters


NESTED = {
    "model": {"nlin": "gelu", "dropout": 0.25, "init_type": "kaiming_normal"},
    "optim": {"optimizer": "sgd", "lr": 0.125, "wd": 0.5, "momentum": 0.75},
    "training": {"batchsize": 64}, "seed": 11,
}  # fmt: skip
EXPECTED = {"activation": "gelu", "dropout": 0.25, "init": "kaiming_normal", "optimizer": "sgd", "lr": 0.125,
            "weight_decay": 0.5, "momentum": 0.75, "batch_size": 64, "seed": 11}  # fmt: skip


@pytest.mark.parametrize(
    "params",
    [
        NESTED,
        {"train_loop_config": NESTED},
        {"config": {"train_loop_config": flattened(NESTED)}, "num_workers": 1},
        {"model/nlin": "GELU", "model/dropout": "0.25", "model/init_type": "kaiming_normal", "optim.optimizer": "SGD",
         "optim.lr": "1.25e-1", "optim.wd": " .5", "optim.momentum": "0.75", "training.batchsize": "64", "seed": "11"},
        {"activation": "torch.nn.GELU", "dropout": 0.25, "init": "<function kaiming_normal_ at 0x7f00>", "lr": 0.125,
         "optimizer": "<class 'torch.optim.sgd.SGD'>", "weight_decay": 0.5, "momentum": 0.75, "batch_size": 64.0,
         "seed": 11},
        {"model::nlin": {"name": "gelu"}, "model::dropout": {"value": 0.25}, "model::init_type": "kaiming_normal",
         "optimizer": {"type": "SGD", "lr": 0.125, "weight_decay": 0.5, "momentum": 0.75}, "training::batchsize": 64,
         "seed": 11},
    ],
)  # fmt: skip
def test_hyperparameters_are_read_however_they_are_spelt(params):
    columns, notes = columns_of([("params.json", flattened(params))], "trial", {"lr": 1.0, "activation": "tanh"})
    assert columns == EXPECTED
    assert notes == []


@pytest.mark.parametrize("text", ["ReLU()", "nn.ReLU(inplace=True)", "<class 'torch.nn.modules.activation.ReLU'>",
                                  "<built-in method relu of type object at 0x7f>", "relu", " ReLU "])  # fmt: skip
def test_printed_activations_are_understood(text):
    assert columns_of([("params.json", {"model::nlin": text})], "trial", {})[0]["activation"] == "relu"


@pytest.mark.parametrize("value", ["swish", "LeakyReLU(negative_slope=0.2)", "GELU(approximate='tanh')", ["relu"], 3,
                                   {"a": 1}, "\x1b[31mrelu"])  # fmt: skip
def test_an_activation_that_is_not_known_keeps_the_model_out_whatever_the_defaults(value):
    with pytest.raises(CheckpointError, match="its activation is .*; known are tanh") as caught:
        columns_of([("params.json", {"model::nlin": value})], "NN_model__nlin=tanh,seed=1", {"activation": "tanh"})
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [
        ("optim::lr", "fast", "lr"), ("optim::lr", math.nan, "lr"), ("optim::lr", True, "lr"),
        pytest.param("optim::lr", 10**400, "lr", id="digits"), ("optim::lr", [0.1, 0.2], "lr"),
        pytest.param("optim::lr", "9" * 5000, "lr", id="text"),
        ("optim::lr", -0.1, "lr"), ("optim::lr", {"grid_search": [1e-3]}, "lr"), ("optim::wd", "1_0", "weight_decay"),
        ("seed", 2**63, "seed"), ("seed", 1.5, "seed"), ("training::batchsize", 0, "batch_size"),
        ("model::dropout", 50, "dropout"), ("model::init_type", ["uniform"], "init"),
        ("optim::optimizer", 7, "optimizer"), ("optim::optimizer", "a\nb\x07", "optimizer"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_understood_is_null_and_noted_and_never_replaced(key, value, column):
    defaults = {"lr": 0.0003, "weight_decay": 0.0, "seed": 1, "batch_size": 10, "dropout": 0.0, "init": "uniform",
                "optimizer": "adam"}  # fmt: skip
    name = "NN_model__init_type=normal,optim__lr=0.5,optim__wd=0.5,seed=5_2022-05-11_11-21-37"
    columns, notes = columns_of([("params.json", PARAMS | {"seed": 3} | {key: value})], name, defaults)
    assert columns[column] is None
    (note,) = [note for note in notes if note.code == "import-hyperparameter-unread"]
    assert note.text.startswith(f"{column} is not understood: params.json ({key}) says ")
    assert note.text.isprintable()
    assert len(note.text) < 200


def test_seeds_keep_all_their_digits():
    for value in (2**63 - 1, str(2**63 - 1), -(2**63)):
        columns, _ = columns_of([("params.json", PARAMS | {"seed": value})], "trial", {})
        assert columns["seed"] == int(value)


def test_unknown_hyperparameters_become_null_columns_that_load_verify_and_export(tmp_path):
    folders = make_zoo(tmp_path / OWN, models=4, epochs=(0, 1))
    write_params(folders[0], PARAMS | {"seed": 1, "optim::lr": "slow"})
    write_params(folders[1], {"model": {"nlin": "relu"}})
    shutil.move(folders[1], tmp_path / OWN / "second")
    repo = tmp_path / "repo"
    result = build_repository(tmp_path / OWN, repo)
    assert (result.rows, result.left_out) == (8, ())
    assert 'lr is not understood: params.json (optim::lr) says "slow"' in " ".join(result.warnings)
    assert codes_of(repo)["import-hyperparameter-unread"] == codes_of(repo)["import-hyperparameter-missing"] == 1
    assert read_manifest(repo, "mnist_cnn_s").unknown == (
        "seed", "init", "optimizer", "dropout", "lr", "weight_decay", "batch_size"
    )  # fmt: skip
    rows = rows_of(repo)
    assert [row["lr"] for row in rows] == [None] * 4 + [0.0003] * 4
    assert [row["activation"] for row in rows[:2]] == ["relu"] * 2
    assert verify_repository(repo, "mnist_cnn_s").ok
    for streaming in (False, True):
        split = zd.load_zoo(repo, "mnist_cnn_s", split_by="seed", streaming=streaming)
        assert sum(len(list(part)) for part in split.values()) == 8
    zd.to_module(rows[0])
    assert CliRunner().invoke(app, ["export", str(repo), "mnist_cnn_s", "--out", str(tmp_path / "x"), "--format",
                                    "raw"]).exit_code == 0  # fmt: skip
    (exported,) = [path for path in (tmp_path / "x").glob("**/tune_zoo*") if path.is_dir()]
    again = build_repository(exported, tmp_path / "again")
    assert sorted(str(row["lr"]) for row in rows_of(tmp_path / "again")) == sorted(str(row["lr"]) for row in rows)
    assert again.rows == 8


def test_zoos_without_unknown_values_have_the_schema_that_they_always_had(tmp_path):
    make_zoo(tmp_path / SEED_ZOO, models=2, epochs=(0,))
    build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    (shard, *_) = read_manifest(tmp_path / "repo", "mnist_cnn_s").shards
    assert not pq.read_schema(tmp_path / "repo" / shard.path).field("lr").nullable


@pytest.mark.parametrize(
    ("zoo", "rename", "applied"),
    [
        (SEED_ZOO, False, True),
        (OWN, False, False),
        ("tune_zoo_mnist_kaiming_uniform", False, False),  # the published one is uniform
        (SEED_ZOO, True, False),
    ],
)
def test_a_published_zoos_values_are_taken_for_that_archive_alone(tmp_path, zoo, rename, applied):
    for index, folder in enumerate(make_zoo(tmp_path / zoo, models=3, epochs=(0, 1))):
        write_params(folder, {"model::nlin": "tanh", "seed": index, "optim::lr": "?"})
        if rename:
            folder.rename(folder.with_name(f"trial_{index}"))
    result = build_repository(tmp_path / zoo, tmp_path / "repo")
    rows = rows_of(tmp_path / "repo")
    expected = ("uniform", "adam", 0.0, 10) if applied else (None,) * 4
    assert {(row["init"], row["optimizer"], row["weight_decay"], row["batch_size"]) for row in rows} == {expected}
    assert {row["lr"] for row in rows} == {None}
    assert codes_of(tmp_path / "repo").get("import-zoo-defaults", 0) == 3 * applied
    assert any("taken from the published zoo" in line for line in result.warnings) == applied


@pytest.mark.parametrize("file", ["config.json", "result.json"])
def test_hyperparameters_stand_in_other_files_too(tmp_path, file):
    (folder,) = make_zoo(tmp_path / SEED_ZOO, models=1, epochs=(0, 1))
    params = PARAMS | {"seed": 8, "optim::lr": 0.75, "model::nlin": "sigmoid"}
    if file == "config.json":
        write_params(folder, params, file)
    else:
        (folder / "params.json").unlink()
        (folder / "result.json").write_text("\n".join(result_line(epoch, params) for epoch in (0, 1)))
    result = build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    assert {(row["activation"], row["lr"], row["seed"]) for row in rows_of(tmp_path / "repo")} == {("sigmoid", 0.75, 8)}
    assert f"1 × there is no params.json; {file} was used instead" in result.warnings
    assert not any(
        "config.json" in path for path in read_manifest(tmp_path / "repo", "mnist_cnn_s").source["stray_files"]
    )


# Figures and the checkpoints that they belong to


def write_ray2(folder, iterations, frequency=1, named=True, extra=()):
    """A trial as Ray 2 writes it: checkpoints are counted from 0, one every `frequency` iterations."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(PARAMS | {"seed": int(folder.name[-1]), "model::use_bias": True}))
    lines = []
    for iteration in range(1, iterations + 1):
        number, rest = divmod(iteration, frequency)
        report = json.loads(result_line(iteration, {}, test_acc=iteration / 100))
        if not rest:
            checkpoint = folder / f"checkpoint_{number - 1:06d}"
            checkpoint.mkdir()
            (checkpoint / "checkpoints").write_bytes(saved(state_dict(weights_of(1, iteration))))
            report["checkpoint_dir_name"] = checkpoint.name if named else None
        lines.append(json.dumps(report))
    (folder / "result.json").write_text("\n".join([*lines, *extra]) + "\n")
    return folder


@pytest.mark.parametrize("frequency", [1, 3])
def test_a_report_belongs_to_the_checkpoint_that_it_names(tmp_path, frequency):
    for seed in (1, 2):
        write_ray2(tmp_path / OWN / f"train_{seed}", 6, frequency)
    result = build_repository(tmp_path / OWN, tmp_path / "repo")
    expected = [epoch for epoch in range(1, 7) if epoch % frequency == 0]
    rows = rows_of(tmp_path / "repo")
    assert [row["epoch"] for row in rows] == expected * 2
    for row in rows:
        assert row["test_acc"] == np.float32(row["epoch"] / 100)
        assert np.array_equal(np.array(row["weights"], np.float32), weights_of(1, row["epoch"]).numpy())
    assert codes_of(tmp_path / "repo") == {"import-shifted-report": 2}
    assert result.left_out == ()
    with pytest.raises(SourceError, match="no state of it fits"):
        open_source(tmp_path / OWN, Reading(epochs=frozenset({0})))


def test_without_names_ray2s_figures_are_null_and_one_warning_says_so(tmp_path):
    for seed in (1, 2, 3):
        write_ray2(tmp_path / OWN / f"train_{seed}", 4, named=False)
    result = build_repository(tmp_path / OWN, tmp_path / "repo")
    rows = rows_of(tmp_path / "repo")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3] * 3
    assert {row["test_acc"] for row in rows} == {row["val_loss"] for row in rows} == {None}
    (warning,) = [warning for warning in result.warnings if warning in result.codes]
    assert result.codes[warning] == "import-unmatched-report"
    assert "figures are null, and epochs are the numbers of the checkpoint folders" in warning


def test_folders_that_lack_epoch_0s_report_keep_their_figures(tmp_path):
    """The authors' zoos: numbered by iteration, the initialisation not reported; a killed trial is judged by others."""
    folders = make_zoo(tmp_path / OWN, models=3, epochs=(0, 1, 2, 3))
    for folder in folders:
        (folder / "result.json").write_text("\n".join(result_line(epoch, PARAMS) for epoch in (1, 2, 3)))
    shutil.rmtree(folders[2] / "checkpoint_000003")
    result = build_repository(tmp_path / OWN, tmp_path / "repo")
    for row in rows_of(tmp_path / "repo"):
        assert row["test_acc"] == (np.float32(0.2 + row["epoch"] / 100) if row["epoch"] else None)
    ((entry),) = result.left_out
    assert (entry.model, entry.epochs) == (folders[2].name, (3,))


def test_checkpoints_that_no_report_names_and_repeated_epochs_lose_no_figure(tmp_path):
    half = json.dumps({"training_iteration": 5})[:10]
    folder = write_ray2(tmp_path / OWN / "train_1", 4, extra=[half])
    shutil.copytree(folder / "checkpoint_000003", folder / "checkpoint_000004")
    resumed = write_ray2(tmp_path / OWN / "train_2", 3)
    shutil.copytree(resumed / "checkpoint_000002", resumed / "checkpoint_000003")
    again = json.loads(result_line(3, {}, test_acc=0.9)) | {"checkpoint_dir_name": "/tmp/x/checkpoint_000003"}
    with (resumed / "result.json").open("a") as file:
        file.write(json.dumps(again))
    result = build_repository(tmp_path / OWN, tmp_path / "repo")
    rows = {(row["seed"], row["epoch"]): row["test_acc"] for row in rows_of(tmp_path / "repo")}
    assert rows[1, 5] is None
    assert rows[2, 3] == np.float32(0.9)
    assert len(rows) == 8
    ((entry),) = result.left_out
    assert "checkpoint_000002 is of epoch 3, and so is checkpoint_000003" in entry.reason
    manifest = read_manifest(tmp_path / "repo", "mnist_cnn_s")
    assert (manifest.states.found, manifest.states.left_out) == (9, 1)
    assert verify_repository(tmp_path / "repo", "mnist_cnn_s").ok


def reports(**columns):
    length = len(next(iter(columns.values())))
    return {index: tuple(columns.get(name, [None] * length)[index] for name in REPORTED) for index in range(length)}


def figures(**columns):
    rows, notes = cleaned(reports(**columns))
    return {name: [rows[i][REPORTED.index(name)] for i in rows] for name in columns}, {note.code for note in notes}


def test_percent_is_a_property_of_a_trial():
    found, codes = figures(test_acc=[0.9, 11.0, 100.0], train_acc=["1.0", 20, 30.5], val_acc=[0.5, None, math.nan])
    assert found["test_acc"] == pytest.approx([0.009, 0.11, 1.0])
    assert found["train_acc"] == pytest.approx([0.01, 0.2, 0.305])
    assert found["val_acc"][:2] == [0.005, None]
    assert codes == {"import-percent"}
    shares = {"test_acc": [0.2, 1.0, 1.0000001], "train_acc": [0, 1, 0.5]}
    assert figures(**shares) == ({"test_acc": [0.2, 1.0, 1.0], "train_acc": [0, 1, 0.5]}, set())


def test_one_odd_accuracy_makes_no_percent_and_a_few_leave_the_unit_open():
    assert figures(test_acc=[0.2, 35.0, 0.4]) == ({"test_acc": [0.2, None, 0.4]}, {"import-impossible-figure"})
    found, codes = figures(test_acc=[0.2] * 9 + [35.0, 40.0])
    assert (set(found["test_acc"]), codes) == ({None}, {"import-unclear-unit"})


@pytest.mark.parametrize("loss", [-999, -999.0, "-9999", -0.5, 1e300, pytest.param(10**400, id="digits"), -math.inf])
def test_impossible_losses_are_null_and_noted(loss):
    assert figures(val_loss=[loss, 2.0]) == ({"val_loss": [None, 2.0]}, {"import-impossible-figure"})


def test_texts_are_numbers_where_they_are_and_anything_else_is_noted():
    found, codes = figures(test_loss=["2.5e0", "inf", " 1 ", "1,5"], test_acc=["0.25", 0.5, "35%", True])
    assert (found["test_loss"], found["test_acc"]) == ([2.5, math.inf, 1.0, None], [0.25, 0.5, None, None])
    assert codes == {"import-unread-figure"}


def test_losses_of_twins_may_be_below_0_and_sentinels_may_not():
    rows, notes = cleaned(reports(test_loss=[-15.5, -999.0]), twins=True)
    assert [row[REPORTED.index("test_loss")] for row in rows.values()] == [-15.5, None]
    assert [note.code for note in notes] == ["import-impossible-figure"]


def test_twins_keep_recorded_losses_below_0(tmp_path):
    parents = make_zoo(tmp_path / SEED_ZOO, models=2, epochs=(0,))
    make_twins(tmp_path / "cnn_small_mnist_ard", parents)
    reading = Reading(keep_log_sigma2=True)
    build_repository(tmp_path / "cnn_small_mnist_ard", tmp_path / "repo", reading=reading)
    assert {row["recorded_test_loss"] for row in rows_of(tmp_path / "repo", "mnist_cnn_s_sparse")} == {-15.0}


def test_figures_under_other_names_are_listed(tmp_path):
    (folder,) = make_zoo(tmp_path / OWN, models=1, epochs=(0, 1))
    lines = [{"training_iteration": epoch, "top1": 0.5, "eval": {"err\x1b": "0.25"}, "time_total_s": 3.5, "pid": 7,
              "train_loss": 1.0, "node_ip": "10.0.0.1", "note": "x"} for epoch in (0, 1)]  # fmt: skip
    (folder / "result.json").write_text("\n".join(map(json.dumps, lines)))
    result = build_repository(tmp_path / OWN, tmp_path / "repo")
    (warning,) = [line for line, code in result.codes.items() if code == "import-unknown-figures"]
    assert "were not read: top1, eval/err\\u001b; known are train_loss" in warning
    assert {row["train_loss"] for row in rows_of(tmp_path / "repo")} == {1.0}


def test_verify_names_a_shift_by_one(tmp_path):
    """A repository as earlier versions wrote it: the figures are those of the state before."""
    limits = Limits(train=10, val=60, test=60)
    data = load_images("digits", "cnn_s").limited(limits)
    zoo = tmp_path / "tune_zoo_digits_uniform"
    for seed in (1, 2):
        params, lines, states = PARAMS | {"seed": seed}, [], {}
        for epoch in range(3):
            weights = 5 * weights_of(seed, epoch)
            states[epoch] = saved(state_dict(weights))
            told = {}
            for split in ("val", "test"):
                loss, accuracy = evaluate(5 * weights_of(seed, max(epoch - 1, 0))[None], data, "cnn_s", "tanh", split)
                told |= {f"{split}_loss": loss.item(), f"{split}_acc": accuracy.item()}
            lines.append(result_line(epoch, params, **told))
        write_trial(zoo / trial_name(seed, seed), params, states, lines)
    build_repository(zoo, tmp_path / "repo")
    result = verify_repository(tmp_path / "repo", "digits_cnn_s", images=load_images("digits", "cnn_s"), limits=limits)
    messages = [one.message for one in result.differences]
    assert any("wrong rows have the figures of the weights one state earlier" in message for message in messages)


def test_verify_finds_losses_that_cannot_be(tmp_path):
    make_zoo(tmp_path / SEED_ZOO, models=1, epochs=(0,))
    build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    (shard,) = read_manifest(tmp_path / "repo", "mnist_cnn_s").shards
    table = pq.read_table(tmp_path / "repo" / shard.path)
    place = table.schema.get_field_index("train_loss")
    spoilt = table.set_column(place, table.schema.field(place), pa.array([-999.0], pa.float32()))
    pq.write_table(spoilt, tmp_path / "repo" / shard.path)
    messages = [one.message for one in verify_repository(tmp_path / "repo", "mnist_cnn_s").differences]
    assert any("train_loss reaches down to -999.0" in message for message in messages)


# Rows


def test_parts_of_a_zoo_build_together_as_the_whole_does(tmp_path):
    folders = make_zoo(tmp_path / "whole" / SEED_ZOO, models=5, epochs=(0, 1))
    build_repository(zipped(tmp_path / "whole" / SEED_ZOO), tmp_path / "expected")
    for number, chosen in enumerate((folders[:2], folders[2:4])):
        for folder in chosen:
            shutil.copytree(folder, tmp_path / f"part{number}" / SEED_ZOO / folder.name)
    # The last trial is cut in the middle, as downloads in parts do.
    shutil.copytree(folders[4], tmp_path / "part0" / SEED_ZOO / folders[4].name)
    shutil.move(tmp_path / "part0" / SEED_ZOO / folders[4].name / "checkpoint_000001",
                tmp_path / "part1" / SEED_ZOO / folders[4].name / "checkpoint_000001")  # fmt: skip
    first, second = zipped(tmp_path / "part0" / SEED_ZOO), tarred(tmp_path / "part1" / SEED_ZOO)
    folder = tmp_path / "part1" / SEED_ZOO
    for number, sources in enumerate([(first, second), (second, first), (first, folder), (first, second, first)]):
        run = CliRunner().invoke(app, ["build", *map(str, sources), "--out", str(tmp_path / str(number))])
        assert run.exit_code == 0, run.output
        assert rows_of(tmp_path / str(number)) == rows_of(tmp_path / "expected")
    assert codes_of(tmp_path / "3")["import-repeated-file"] == 1


def test_what_are_no_parts_of_one_zoo_is_refused(tmp_path):
    (folder,) = make_zoo(tmp_path / "a" / SEED_ZOO, models=1, epochs=(0,))
    make_zoo(tmp_path / "b" / OWN, models=1, epochs=(0,))
    shutil.copytree(folder.parent, tmp_path / "c" / SEED_ZOO)
    (tmp_path / "c" / SEED_ZOO / folder.name / "params.json").write_text("{}")
    with pytest.raises(SourceError, match="parts of different zoos"):
        open_source([folder.parent, tmp_path / "b" / OWN])
    with pytest.raises(SourceError, match="stands in two parts with different content"):
        open_source([folder.parent, tmp_path / "c" / SEED_ZOO])
    with pytest.raises(SourceError, match="does not exist; only parts of one raw zoo build together"):
        open_source([folder.parent, tmp_path / "missing"])


def test_a_rebuild_drops_no_row_unasked_whatever_the_counts(tmp_path):
    for part, seeds in (("a", range(3)), ("b", range(3, 7))):
        for index in seeds:
            params = PARAMS | {"seed": index}
            states = {epoch: saved(state_dict(weights_of(index, epoch))) for epoch in (0, 1)}
            write_trial(tmp_path / part / SEED_ZOO / trial_name(index, index), params, states)
    repo = tmp_path / "repo"
    build_repository(tmp_path / "a" / SEED_ZOO, repo)
    before = {file: file.read_bytes() for file in sorted(repo.rglob("*.parquet"))}
    with pytest.raises(RepositoryError, match=r"3 of them are not in this source; build all parts .*--replace"):
        build_repository(tmp_path / "b" / SEED_ZOO, repo)
    assert {file: file.read_bytes() for file in sorted(repo.rglob("*.parquet"))} == before
    result = build_repository([tmp_path / "a" / SEED_ZOO, tmp_path / "b" / SEED_ZOO], repo)
    assert (result.models, result.rows) == (7, 14)
    assert build_repository(tmp_path / "b" / SEED_ZOO, repo, replace=True).rows == 8


def test_a_rebuild_with_other_epochs_of_the_same_models_is_refused(tmp_path):
    folders = make_zoo(tmp_path / SEED_ZOO, models=2, epochs=(0, 1, 2))
    repo = tmp_path / "repo"
    build_repository(tmp_path / SEED_ZOO, repo)
    for folder in folders:
        (folder / "checkpoint_000000").rename(folder / "checkpoint_000003")
        lines = [result_line(epoch, PARAMS) for epoch in (0, 1, 2, 3)]
        (folder / "result.json").write_text("\n".join(lines))
    with pytest.raises(RepositoryError, match=r"holds 6 rows and would keep 4: 2 are not among the 6 .* at epoch 0"):
        build_repository(tmp_path / SEED_ZOO, repo)
    assert {row["epoch"] for row in rows_of(repo)} == {0, 1, 2}
    assert verify_repository(repo, "mnist_cnn_s").ok


def edited_end(archive, **fields):
    """The record at a zip's end with other numbers."""
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x05\x06")
    places = {"here": (8, "<H"), "count": (10, "<H"), "size": (12, "<L")}
    for name, change in fields.items():
        offset, kind = places[name]
        (value,) = struct.unpack_from(kind, data, at + offset)
        struct.pack_into(kind, data, at + offset, change(value))
    archive.write_bytes(data)


def test_a_zips_directory_is_read_to_its_end(tmp_path):
    make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0, 1))
    archive = zipped(tmp_path / SEED_ZOO)
    edited_end(archive, here=lambda n: n - 9, count=lambda n: n - 9)
    result = build_repository(archive, tmp_path / "repo")
    assert (result.models, result.rows) == (3, 6)
    assert codes_of(tmp_path / "repo")["import-archive-count"] == 1
    edited_end(archive, size=lambda n: n - 120)
    with pytest.raises(SourceError, match="120 bytes stand between its directory and its end|cut short"):
        open_source(archive)


def test_bytes_in_front_of_a_zip_and_a_macs_files_in_it_do_no_harm(tmp_path):
    make_zoo(tmp_path / SEED_ZOO, models=2, epochs=(0, 1))
    archive = zipped(tmp_path / SEED_ZOO)
    with zipfile.ZipFile(archive, "a") as opened:
        for name in list(opened.namelist()):
            head, _, last = name.rstrip("/").rpartition("/")
            opened.writestr(f"__MACOSX/{head}/._{last}", b"\x00\x05\x16\x07")
        opened.writestr(f"{SEED_ZOO}/._extra", b"\x00\x05\x16\x07")
    archive.write_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + archive.read_bytes())
    result = build_repository(archive, tmp_path / "repo")
    assert (result.config, result.rows, result.left_out) == ("mnist_cnn_s", 4, ())


def test_a_zip_that_is_cut_short_is_not_taken_for_the_last_checkpoint_in_it(tmp_path):
    make_zoo(tmp_path / SEED_ZOO, models=1, epochs=(0, 1))
    archive = zipped(tmp_path / SEED_ZOO)
    whole = archive.read_bytes()
    inner = whole.rfind(b"PK\x05\x06", 0, whole.rfind(b"PK\x05\x06"))
    for end in (inner + 22, inner + 60):
        archive.write_bytes(whole[:end])
        with pytest.raises(SourceError, match="cut short|does not fit|stand between"):
            open_source(archive)


# Notes


def test_strict_makes_any_note_an_error_and_changes_nothing(tmp_path):
    folders = make_zoo(tmp_path / SEED_ZOO, models=2, epochs=(0, 1), varied=lambda index: {"model::use_bias": True})
    arguments = ["build", str(tmp_path / SEED_ZOO), "--out", str(tmp_path / "repo"), "--strict"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    before = (tmp_path / "repo" / "README.md").read_bytes()
    with (folders[0] / "result.json").open("a") as file:
        file.write('{"half')
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 1
    assert "[import-half-line]" in str(run.exception)
    assert (tmp_path / "repo" / "README.md").read_bytes() == before
    run = CliRunner().invoke(app, arguments[:-1])
    assert run.exit_code == 0
    assert "[import-half-line]" in " ".join(run.output.split())
    assert codes_of(tmp_path / "repo") == {"import-half-line": 1}
