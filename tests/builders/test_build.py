"""Building runs into repositories: content, growth, commits, what is left out."""

import dataclasses
import json
import shutil
import subprocess
import sys

import datasets
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_runs import make_run, weights_of, write_epoch

from zoo_datasets.builders import Reading, build_repository, open_source, zoo_builder
from zoo_datasets.builders import build as repository
from zoo_datasets.builders.shards import ahead, plan, workers
from zoo_datasets.builders.shards import part as parts
from zoo_datasets.builders.shards import writer as shards
from zoo_datasets.builders.shards.rows import RowMaker
from zoo_datasets.builders.sources import run as from_run
from zoo_datasets.builders.sources.base import States
from zoo_datasets.builders.sources.run import RunSource
from zoo_datasets.errors import RepositoryError, SourceError, StorageError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.card import zoos_of
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import layout_of_schema, split_of
from zoo_datasets.repository.where import parse_where
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Limits, members_of
from zoo_datasets.specs.zoos import get_zoo

NAME = "digits_cnn_s"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def files_in(repo, name=NAME):
    return {file.name: file.read_bytes() for file in sorted((repo / name).glob("*.parquet"))}


def rows_of(repo, name=NAME):
    """All rows of a repository as `datasets` alone reads them, by (model_id, epoch)."""
    loaded = load_dataset(str(repo), name)
    return {(row["model_id"], row["epoch"]): row | {"split": split} for split in loaded for row in loaded[split]}


def members(count, limits=None):
    return members_of(get_zoo(NAME), limits or Limits(), count)


def test_load_dataset_alone_gives_every_state_bit_for_bit(tmp_path):
    make_run(tmp_path / "run", ((12, 2),))
    result = build_repository(tmp_path / "run", tmp_path / "repo")
    assert (result.config, result.rows, result.models, result.epochs) == (NAME, 36, 12, (0, 1, 2))
    rows = rows_of(tmp_path / "repo")
    assert len(rows) == 36
    for member in members(12):
        for epoch in range(3):
            row = rows[member.model_id, epoch]
            expected = weights_of(member, epoch, 2464)
            assert np.array(row["weights"], np.float32).tobytes() == expected.numpy().tobytes()
            assert row["split"] == split_of(member.model_id)
            assert (row["zoo"], row["seed"], row["images"]) == (NAME, member.seed, "digits")
            assert (row["architecture"], row["in_channels"], row["classes"]) == ("cnn_s", 1, 10)
            assert (row["activation"], row["optimizer"], row["lr"], row["momentum"]) == ("tanh", "adam", 1e-3, None)
            assert (row["parent_id"], row["sparsifier"], row["sparsity"], row["source_split"]) == (None,) * 4
            assert row["ggap"] == np.float32(row["train_acc"]) - np.float32(row["test_acc"])


@pytest.mark.parametrize("offline", ["0", "1"])
def test_nothing_of_ours_is_needed_to_load(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    make_run(tmp_path / "run", ((12, 1),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    program = f"""
import sys
from datasets import load_dataset
zoo = load_dataset({str(tmp_path / "repo")!r}, {NAME!r}, cache_dir={str(tmp_path / "c")!r})
stream = load_dataset({str(tmp_path / "repo")!r}, {NAME!r}, streaming=True, split="train")
count = sum(1 for row in stream if len(row["weights"]) == 2464)
assert count == zoo["train"].num_rows, count
assert not any(name.startswith("zoo_datasets.") for name in sys.modules)
print(zoo["train"].features["weights"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "List(Value('float32'), length=2464)"


def test_rows_are_by_epoch_then_member_and_row_groups_can_be_pruned(tmp_path):
    make_run(tmp_path / "run", ((10, 3),), cohort_size=4)
    build_repository(tmp_path / "run", tmp_path / "repo")
    order = [member.model_id for member in members(10)]
    for file in (tmp_path / "repo" / NAME).glob("*.parquet"):
        parquet = pq.ParquetFile(file)
        table = parquet.read(columns=["epoch", "model_id"])
        keys = [(row["epoch"], order.index(row["model_id"])) for row in table.to_pylist()]
        assert keys == sorted(keys)
        groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
        assert len(groups) == 4
        for epoch, group in enumerate(groups):
            by_name = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
            statistics = by_name["epoch"].statistics
            assert statistics.min == statistics.max == epoch
            assert by_name["weights.list.element"].statistics is None
            assert "BYTE_STREAM_SPLIT" in by_name["weights.list.element"].encodings
        assert layout_of_schema(parquet.schema_arrow).size == 2464


def test_two_builds_give_the_same_bytes(tmp_path):
    make_run(tmp_path / "run", ((9, 2),))
    for repo in ("a", "b"):
        build_repository(tmp_path / "run", tmp_path / repo)
    everything = []
    for repo in (tmp_path / "a", tmp_path / "b"):
        files = [file for file in repo.rglob("*.*") if file.is_file()]
        everything.append({file.relative_to(repo): file.read_bytes() for file in files})
    assert everything[0] == everything[1]
    assert len(everything[0]) >= 4


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([1, 2, 2, 3, 5]), min_size=1, max_size=9),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    capacity=st.integers(1, 5),
)
def test_a_shard_depends_on_rows_and_not_on_batches(tmp_path, monkeypatch, sizes, cuts, capacity):
    """Epochs of these sizes, in batches that are cut anywhere: row groups hold one epoch each, as much as they can."""
    if not Run.exists(tmp_path / "run"):
        make_run(tmp_path / "run", ((5, 0),), cohort_size=5)
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", capacity * 2464 * 4)
    source = open_source(tmp_path / "run")
    maker = RowMaker(source, NAME)
    (states,) = source.read(source.blocks()[0])
    assert isinstance(states, States)
    one = maker.batch(states)
    batch = pa.concat_batches([one.slice(0, size) for size in sizes])
    batch = batch.set_column(2, one.schema[2], pa.array(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)))
    count, found = sum(sizes), []
    for folder, pieces in (("whole", [count]), ("rows", [1] * count), ("cut", [*cuts, count])):
        with shards.ShardWriter(tmp_path / folder, NAME, "train", maker.schema) as writer:
            start = 0
            for size in pieces:
                writer.add(batch.slice(start, size))
                start = min(start + size, count)
            found.append(writer.close().shard)
    assert found[0] == found[1] == found[2]
    metadata = pq.read_metadata(tmp_path / "cut" / found[0].path)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    expected = [min(capacity, size - start) for size in sizes for start in range(0, size, capacity)]
    assert [group.num_rows for group in groups] == expected
    assert all(group.column(2).statistics.min == group.column(2).statistics.max for group in groups)
    assert pq.read_table(tmp_path / "cut" / found[0].path)["epoch"].to_pylist() == batch["epoch"].to_pylist()


def test_row_groups_and_shards_are_cut_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 3 * 2464 * 4)
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 2464 * 4)
    make_run(tmp_path / "run", ((20, 2),))
    result = build_repository(tmp_path / "run", tmp_path / "repo")
    for shard in read_manifest(tmp_path / "repo", NAME).shards:
        metadata = pq.read_metadata(tmp_path / "repo" / shard.path)
        assert max(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)) <= 3
        assert metadata.num_rows == shard.rows <= 8
    assert result.shards_written > 6
    assert len(rows_of(tmp_path / "repo")) == 60


def test_a_grown_run_keeps_its_shards(tmp_path):
    run, repo = tmp_path / "run", tmp_path / "repo"
    make_run(run, ((8, 1),))
    build_repository(run, repo)
    before = files_in(repo)
    shutil.rmtree(run)
    make_run(run, ((8, 1), (20, 3)))
    result = build_repository(run, repo)
    after = files_in(repo)
    assert before.items() <= after.items()
    assert result.shards_reused == len(before)
    assert result.shards_written == len(after) - len(before) > 0
    rows = rows_of(repo)
    assert rows.keys() == {(member.model_id, epoch) for member in members(20) for epoch in range(4)}


def test_a_run_that_grew_twice_is_cut_into_its_rectangles(tmp_path):
    make_run(tmp_path / "run", ((4, 1), (4, 2), (7, 2), (9, 4)))
    blocks = open_source(tmp_path / "run").blocks()
    assert [(len(block.models), block.epochs) for block in blocks] == [
        (4, (0, 1)), (4, (2,)), (3, (0, 1, 2)), (2, (0, 1, 2, 3, 4)), (7, (3, 4)),
    ]  # fmt: skip


def test_a_diverged_member_is_left_out_and_listed(tmp_path):
    bad = members(6)[2].model_id
    make_run(tmp_path / "run", ((6, 2),), nan=[bad])
    result = build_repository(tmp_path / "run", tmp_path / "repo")
    assert (result.rows, result.models) == (15, 5)
    (entry,) = result.left_out
    assert (entry.model, entry.epochs) == (bad, (0, 1, 2))
    assert "not finite" in entry.reason
    assert any("3 of 18 states are left out" in warning for warning in result.warnings)
    manifest = read_manifest(tmp_path / "repo", NAME)
    assert dataclasses.astuple(manifest.models) == (6, 5, 1)
    assert dataclasses.astuple(manifest.states) == (18, 15, 3)
    assert "not finite" in (tmp_path / "repo" / "_meta" / NAME / "README.md").read_text()

    kept = build_repository(tmp_path / "run", tmp_path / "repo", keep_nonfinite=True)
    assert (kept.rows, kept.left_out) == (18, ())
    row = rows_of(tmp_path / "repo")[bad, 1]
    assert np.isnan(row["weights"][5])
    assert np.isfinite(row["weights"][6])


def test_nan_figures_stay_nan_and_missing_ones_are_null(tmp_path):
    figures = {"train_loss": torch.tensor([1.0, float("nan"), 2.0]), "val_loss": None, "val_acc": None}
    make_run(tmp_path / "run", ((3, 0),), figures=figures)
    build_repository(tmp_path / "run", tmp_path / "repo")
    rows = rows_of(tmp_path / "repo")
    losses = [rows[member.model_id, 0]["train_loss"] for member in members(3)]
    assert losses[0] == 1.0
    assert np.isnan(losses[1])
    assert {rows[member.model_id, 0]["val_acc"] for member in members(3)} == {None}


def test_an_unfinished_run_is_built_as_far_as_it_is_trained(tmp_path):
    run = tmp_path / "run"
    make_run(run, ((12, 3),), cohort_size=4, trained={1: 1, 2: -1})
    result = build_repository(run, tmp_path / "repo")
    assert result.rows == 4 * 4 + 4 * 2
    manifest = read_manifest(tmp_path / "repo", NAME)
    assert dataclasses.astuple(manifest.models) == (12, 8, 4)
    assert dataclasses.astuple(manifest.states) == (48, 24, 24)
    assert {entry.reason for entry in manifest.left_out} == {"not trained yet"}
    by_model = {entry.model: entry.epochs for entry in manifest.left_out}
    assert by_model[members(12)[5].model_id] == (2, 3)
    assert by_model[members(12)[9].model_id] == (0, 1, 2, 3)

    for cohort in (1, 2):
        opened = Run.open(run).cohort(cohort)
        opened.begin(members(12)[4 * cohort : 4 * cohort + 4])
        for epoch in range(4):
            write_epoch(opened, epoch)
    assert build_repository(run, tmp_path / "repo").rows == 48
    assert len(rows_of(tmp_path / "repo")) == 48


def test_a_broken_epoch_is_left_out_with_its_reason_and_without_the_folder(tmp_path):
    run = make_run(tmp_path / "run", ((8, 2),), cohort_size=4)
    file = run.cohort(1).epoch_file(1)
    file.write_bytes(file.read_bytes()[:1000])
    run.cohort(0).epoch_file(2).unlink()
    result = build_repository(tmp_path / "run", tmp_path / "repo")
    assert result.rows == 24 - 8
    reasons = {entry.reason for entry in result.left_out}
    assert len(reasons) == 2
    assert all(reason.startswith("cohort-000") and str(tmp_path) not in reason for reason in reasons)


def test_a_run_without_any_state_is_refused(tmp_path):
    make_run(tmp_path / "run", ((4, 2),), trained={0: -1})
    with pytest.raises(SourceError, match="none of its 12 states can be a row; 12 × not trained yet"):
        build_repository(tmp_path / "run", tmp_path / "repo")
    assert not (tmp_path / "repo" / "README.md").exists()


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(SourceError, match="does not exist; expected: run"):
        build_repository(tmp_path / "nothing", tmp_path / "repo")
    with pytest.raises(SourceError, match="is not a source that a repository can be built from"):
        build_repository(tmp_path, tmp_path / "repo")
    make_run(tmp_path / "run", ((3, 0),))
    with pytest.raises(RepositoryError, match=r"config name '\.\./x': expected letters"):
        build_repository(tmp_path / "run", tmp_path / "repo", "../x")
    assert not (tmp_path / "repo").exists()


def test_a_cohort_of_other_models_is_left_out_and_told(tmp_path):
    run = make_run(tmp_path / "run", ((4, 0), (8, 0)), cohort_size=4)
    file = run.cohort(1).path / "members.json"
    entries = json.loads(file.read_text())
    first = json.loads((run.cohort(0).path / "members.json").read_text())
    for odd, reason in (
        (first[0], f"model {first[0]['model_id']} stands in another cohort too"),
        (entries[0] | {"model_id": "stranger"}, "model stranger is no member of the run"),
    ):
        file.write_text(json.dumps([odd, *entries[1:]]))
        result = build_repository(tmp_path / "run", tmp_path / "repo")
        assert result.rows == 4
        assert {entry.model for entry in result.left_out} == {entry["model_id"] for entry in entries}
        assert all(reason in entry.reason for entry in result.left_out)
        assert f"cohort-0001 is left out: cohort-0001/members.json: {reason}" in " ".join(result.warnings)


def test_several_zoos_live_in_one_repository(tmp_path):
    repo = tmp_path / "repo"
    make_run(tmp_path / "a", ((6, 1),))
    make_run(tmp_path / "b", ((12, 1),), zoo=get_zoo("mnist_cnn_s_hyp_rand"))
    build_repository(tmp_path / "a", repo)
    before = files_in(repo)
    build_repository(tmp_path / "b", repo)
    build_repository(tmp_path / "a", repo, "again")
    assert zoos_of(datasets.get_dataset_config_names(str(repo))) == ["again", NAME, "mnist_cnn_s_hyp_rand"]
    assert files_in(repo) == before
    rows = rows_of(repo, "mnist_cnn_s_hyp_rand")
    assert len(rows) == 24
    assert {row["momentum"] for row in rows.values()} == {None, 0.9}
    assert {row["zoo"] for row in rows_of(repo, "again").values()} == {"again"}


def test_another_source_needs_replace(tmp_path):
    repo = tmp_path / "repo"
    make_run(tmp_path / "a", ((8, 2),))
    make_run(tmp_path / "b", ((8, 2),), limits=Limits(train=100))
    make_run(tmp_path / "c", ((8, 2),), fingerprint="other images")
    make_run(tmp_path / "smaller", ((4, 2),))
    build_repository(tmp_path / "a", repo)
    before, card = files_in(repo), (repo / "README.md").read_bytes()
    for other in "bc":
        with pytest.raises(RepositoryError, match=r"holds 8 models of epochs 0 to 2 .* another source .* --replace"):
            build_repository(tmp_path / other, repo)
    with pytest.raises(RepositoryError, match="more than the 4 with 12 that this source has"):
        build_repository(tmp_path / "smaller", repo)
    assert (files_in(repo), (repo / "README.md").read_bytes()) == (before, card)
    build_repository(tmp_path / "b", repo, replace=True)
    assert not before.keys() & files_in(repo).keys()
    assert rows_of(repo).keys() == {
        (member.model_id, epoch) for member in members(8, Limits(train=100)) for epoch in range(3)
    }


def test_changed_content_is_never_hidden_by_a_cache(tmp_path):
    run = make_run(tmp_path / "run", ((8, 1),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    before = rows_of(tmp_path / "repo")
    write_epoch(run.cohort(0), 1, {"test_acc": torch.full((4,), 0.125)})
    names = files_in(tmp_path / "repo").keys()
    build_repository(tmp_path / "run", tmp_path / "repo")
    after = rows_of(tmp_path / "repo")
    changed = {member.model_id for member in members(4)}
    assert {key[0] for key in after if after[key]["test_acc"] != before[key]["test_acc"]} == changed
    assert names != files_in(tmp_path / "repo").keys()


class Killed(BaseException):
    """Stands for the death of the process."""


STEPS = {
    "shards": (parts.ShardWriter, "close"),
    "manifest": (repository.Manifest, "save"),
    "card": (repository, "write_card"),
    "old shards": (repository.Path, "unlink"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_build_killed_at_any_step_leaves_a_repository_that_loads(tmp_path, step, when):
    repo = tmp_path / "repo"
    make_run(tmp_path / "a", ((8, 1),))
    make_run(tmp_path / "b", ((8, 1),), fingerprint="other", limits=Limits(train=9))
    build_repository(tmp_path / "a", repo)
    old = rows_of(repo)
    owner, attribute = STEPS[step]
    original = getattr(owner, attribute)

    def dying(*arguments, **options):
        if attribute == "unlink" and arguments[0].suffix != ".parquet":
            return original(*arguments, **options)
        if when == "after":
            original(*arguments, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, dying)
        with pytest.raises(Killed):
            build_repository(tmp_path / "b", repo, replace=True)
    found = rows_of(repo)
    committed = step == "old shards" or (step == "card" and when == "after")
    assert (found == old) is not committed
    build_repository(tmp_path / "b", repo, replace=True)
    assert rows_of(repo).keys() == {(m.model_id, epoch) for m in members(8, Limits(train=9)) for epoch in range(2)}
    listed = {shard.path for shard in read_manifest(repo, NAME).shards}
    assert {f"{NAME}/{name}" for name in files_in(repo)} == listed


def test_leftovers_of_killed_builds_are_cleaned(tmp_path):
    make_run(tmp_path / "run", ((4, 1),))
    repo = tmp_path / "repo"
    (repo / NAME).mkdir(parents=True)
    (repo / NAME / ".train.123.tmp").write_bytes(b"half")
    (repo / NAME / "train-0123456789abcdef.parquet").write_bytes(b"never referenced")
    build_repository(tmp_path / "run", repo)
    assert not list(repo.rglob("*.tmp"))
    assert "train-0123456789abcdef.parquet" not in files_in(repo)


def test_two_builds_of_one_config_do_not_mix(tmp_path):
    make_run(tmp_path / "run", ((4, 1),))
    folder = tmp_path / "repo" / NAME
    folder.mkdir(parents=True)
    with filelock.FileLock(folder / ".lock"), pytest.raises(RepositoryError, match="another process is building"):
        build_repository(tmp_path / "run", tmp_path / "repo")


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch):
    make_run(tmp_path / "run", ((8, 1),))
    repo = tmp_path / "repo"
    build_repository(tmp_path / "run", repo)
    before = files_in(repo), (repo / "README.md").read_bytes()

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.pq.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match=r"a shard in .* No space left on device; the repository is unchanged"):
        build_repository(tmp_path / "run", repo)
    assert (files_in(repo), (repo / "README.md").read_bytes()) == before
    assert not list(repo.rglob("*.tmp"))


def test_an_empty_split_is_left_out_of_the_card(tmp_path):
    make_run(tmp_path / "run", ((1, 1),))
    split = split_of(members(1)[0].model_id)
    result = build_repository(tmp_path / "run", tmp_path / "repo")
    assert result.splits == {split: 2}
    assert len(result.warnings) == 2
    assert "none of its 1 models falls into it" in result.warnings[0]
    assert set(load_dataset(str(tmp_path / "repo"), NAME)) == {split}


def test_memory_holds_one_cohort_at_a_time(tmp_path, monkeypatch):
    """Of pieces of a run that are too large to be read ahead, there are few at a time: written, waiting, and read."""
    make_run(tmp_path / "run", ((12, 3),), cohort_size=3)
    monkeypatch.setattr(parts, "SMALL_PIECE_BYTES", 1)
    monkeypatch.setattr(ahead, "HELD_BYTES", 1)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    alive, rows = [], []
    original = from_run.Cohort.weights

    def counted(self, epoch, positions, step=None):
        import weakref

        weights = original(self, epoch, positions, step)
        rows.append(len(weights))
        alive.append(weakref.ref(weights))
        assert sum(reference() is not None for reference in alive) <= 4
        return weights

    monkeypatch.setattr(from_run.Cohort, "weights", counted)
    build_repository(tmp_path / "run", tmp_path / "repo")
    assert sum(rows) == 12 * 4


def test_progress_reaches_the_number_of_states(tmp_path):
    make_run(tmp_path / "run", ((6, 2),), trained={1: 0}, nan=[members(6)[0].model_id])
    seen = []
    build_repository(tmp_path / "run", tmp_path / "repo", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (18, 18)
    assert seen == sorted(seen)


def test_the_arrow_builder_gives_the_same_rows(tmp_path):
    make_run(tmp_path / "run", ((6, 1), (14, 2)), nan=[members(14)[3].model_id])
    build_repository(tmp_path / "run", tmp_path / "repo")
    expected = load_dataset(str(tmp_path / "repo"), NAME)
    builder = zoo_builder(tmp_path / "run", cache_dir=tmp_path / "arrow")
    builder.download_and_prepare()
    found = builder.as_dataset()
    assert found.keys() == expected.keys()
    for split in expected:
        assert found[split].features == expected[split].features
        assert found[split].with_format("arrow")[:] == expected[split].with_format("arrow")[:]
    streamed = builder.as_streaming_dataset("train")
    assert streamed.num_shards > 1
    assert [row["model_id"] for row in streamed] == expected["train"]["model_id"][:]

    write_epoch(Run.open(tmp_path / "run").cohort(0), 1, {"test_acc": torch.full((4,), 0.5)})
    changed = zoo_builder(tmp_path / "run", cache_dir=tmp_path / "arrow")
    changed.download_and_prepare()
    assert changed.cache_dir != builder.cache_dir


def test_the_manifest_says_what_the_run_was(tmp_path):
    make_run(tmp_path / "run", ((3, 1), (5, 1)), limits=Limits(train=30))
    build_repository(tmp_path / "run", tmp_path / "repo")
    manifest = read_manifest(tmp_path / "repo", NAME)
    assert manifest.source["kind"] == "run"
    assert manifest.source["growth"] == [{"models": 3, "epochs": 1}, {"models": 5, "epochs": 1}]
    assert manifest.source["limits"] == {"train": 30, "val": None, "test": None}
    assert manifest.source["images"]["fingerprint"] == "images"
    assert manifest.zoo["activation"] == ["tanh"]
    assert manifest.source_id == RunSource.open(tmp_path / "run").source_id
    assert isinstance(manifest.layout, WeightLayout)
    assert str(tmp_path) not in (tmp_path / "repo" / "_meta" / NAME / "manifest.json").read_text()


def test_a_rebuild_never_loses_rows_silently(tmp_path):
    run = make_run(tmp_path / "run", ((12, 2),))
    repo = tmp_path / "repo"
    build_repository(run.path, repo)
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file() and path.name != ".lock"}
    epoch_file = run.cohorts()[0].epoch_file(1)
    epoch_file.write_bytes(epoch_file.read_bytes()[:100])
    with pytest.raises(RepositoryError, match=r"holds 36 rows and would keep \d+: .*epoch-0001.*--replace"):
        build_repository(run.path, repo)
    assert {path: path.read_bytes() for path in repo.rglob("*") if path.is_file() and path.name != ".lock"} == before
    assert build_repository(run.path, repo, replace=True).rows < 36


def test_a_repository_that_cannot_be_made_is_a_clear_error(tmp_path):
    run = make_run(tmp_path / "run", ((12, 1),))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be created: .*choose another --out"):
        build_repository(run.path, tmp_path / "file")


def test_selections_of_a_run_choose_members_states_and_epochs(tmp_path):
    zoo = dataclasses.replace(get_zoo(NAME), lr=(1e-3, 1e-4), epochs=2)
    run = make_run(tmp_path / "run", ((8, 1), (12, 2)), zoo=zoo, trained={2: 1})

    def keys(**options):
        result = build_repository(run.path, tmp_path / "repo", reading=Reading(**options), replace=True)
        manifest = read_manifest(tmp_path / "repo", NAME)
        assert manifest.states.found == manifest.states.written + manifest.states.left_out
        tables = [pq.read_table(tmp_path / "repo" / s.path, columns=["model_id", "epoch"]) for s in manifest.shards]
        return {(row["model_id"], row["epoch"]) for table in tables for row in table.to_pylist()}, result

    members = members_of(zoo, Limits(), 12)
    slow = [member.model_id for member in members if member.hyperparameters.lr < 5e-4]
    assert 0 < len(slow) < 12
    found, result = keys(epochs=frozenset({0, 1}), where=parse_where("lr < 0.0005"))
    assert found == {(model_id, epoch) for model_id in slow for epoch in (0, 1)}
    assert result.left_out == ()
    assert keys(where=parse_where("lr < 0.0005"), models=2)[0] <= {(m, e) for m in slow[:2] for e in range(3)}
    metrics = [row for cohort in run.cohorts() for row in cohort.metrics().to_pylist()]
    good = {(row["model_id"], row["epoch"]) for row in metrics if row["test_acc"] > 0.3}
    assert 0 < len(good) < len(metrics)
    assert keys(where=parse_where("test_acc > 0.3"))[0] == good
    found, result = keys(epochs=frozenset({2}))
    assert {entry.reason for entry in result.left_out} == {"not trained yet"}
    assert (len(found), sum(len(entry.epochs) for entry in result.left_out)) == (8, 4)
    assert read_manifest(tmp_path / "repo", NAME).source["selection"] == {"epochs": [2]}
    with pytest.raises(SourceError, match="no state of it fits the selection; it has epochs 0 to 2 of 12 members"):
        keys(epochs=frozenset({7}))
    with pytest.raises(SourceError, match="it records the limits on its images itself"):
        keys(limits=Limits(train=5))
