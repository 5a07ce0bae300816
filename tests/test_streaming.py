"""Batches of a streamed zoo: the rows of the prepared one, in pieces, shuffled, resumed and shared out."""

import json
import pickle

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import make_run
from torch.utils.data import DataLoader

from zoo_datasets.builders import build_repository
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading import tasks
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.order import BatchPlan

NAME = "digits_cnn_s"
MODELS, EPOCHS = 14, 5


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """11 models of the training split at 6 epochs: 6 row groups of 11 rows, in two shards."""
    folder = tmp_path_factory.mktemp("streaming")
    for models in (9, MODELS):  # what is built later gets a shard of its own
        make_run(folder / "run", ((9, EPOCHS),) if models == 9 else ((9, EPOCHS), (MODELS, EPOCHS)))
        build_repository(folder / "run", folder / "repo")
    return folder / "repo"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def stream(repo, **selection):
    return load_zoo(repo, NAME, "train", streaming=True, **selection)


def rows_of(made):
    return [(m, e) for batch in made for m, e in zip(batch["model_id"], batch["epoch"].tolist(), strict=True)]


def test_stored_order_is_that_of_the_prepared_zoo(repo):
    assert len({shard.name for shard in (repo / NAME).glob("train-*.parquet")}) == 2
    for copy in (True, False):
        mapped = list(batches(load_zoo(repo, NAME, "train"), 8, copy=copy))
        streamed = list(batches(stream(repo), 8, copy=copy))
        for one, other in zip(mapped, streamed, strict=True):
            assert list(one) == list(other)
            assert torch.equal(one["weights"], other["weights"])
            assert torch.equal(one["test_acc"], other["test_acc"])
            assert (one["model_id"], one["parent_id"]) == (other["model_id"], other["parent_id"])
    streamed[0]["weights"].fill_(0)  # memory of its own: may be written to, with copy=False too


@pytest.mark.parametrize("buffer", [None, 1, 20])
def test_each_epoch_is_shuffled_anew_and_every_row_comes_once(repo, buffer):
    plain = rows_of(batches(stream(repo), 8))
    made = batches(stream(repo, columns=["weights", "model_id", "epoch"]), 8, shuffle=True, seed=3, buffer=buffer)
    first, second = rows_of(made), rows_of(made)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert len({str(first), str(second), str(plain)}) == 3
    again = batches(stream(repo), 8, ["model_id", "epoch"], shuffle=True, seed=3, buffer=buffer)
    assert rows_of(again) == first
    by_row = {(row["model_id"], row["epoch"]): row["weights"] for row in load_zoo(repo, NAME, "train")}
    for batch in made:
        expected = [by_row[key] for key in zip(batch["model_id"], batch["epoch"].tolist(), strict=True)]
        assert torch.equal(batch["weights"], torch.tensor(expected))


@pytest.mark.parametrize("taken", [0, 1, 4, 9])
def test_a_state_goes_on_in_the_middle_of_an_epoch(repo, taken):
    def new():
        return batches(stream(repo), 8, ["model_id", "epoch"], shuffle=True, buffer=20)

    made = new()
    list(made)
    iterator = iter(made)
    for _ in range(taken):
        next(iterator)
    state = json.loads(json.dumps(made.state_dict()))
    rest, following = rows_of(iterator), rows_of(made)
    resumed = new()
    resumed.load_state_dict(state)
    assert (rows_of(resumed), rows_of(resumed)) == (rest, following)
    with pytest.raises(SpecError, match="this state has buffer=20, expected 30: it belongs to other batches"):
        batches(stream(repo), 8, shuffle=True, buffer=30).load_state_dict(state)


@pytest.mark.parametrize("selection", [
    {"epochs": [1, 4]}, {"where": "test_acc < 0.7"}, {"where": "test_acc > 0.5 and epoch != 2", "epochs": [2, 3]},
    {"split_by": "seed", "columns": ["weights", "model_id", "epoch"]},
])  # fmt: skip
def test_what_load_zoo_selects_is_what_is_read(repo, selection):
    mapped = rows_of(batches(load_zoo(repo, NAME, "train", **selection), 5))
    assert rows_of(batches(stream(repo, **selection), 5)) == mapped
    assert sorted(rows_of(batches(stream(repo, **selection), 5, shuffle=True))) == sorted(mapped)
    names = {name for batch in batches(stream(repo, **selection), 5) for name in batch}
    assert names == set(load_zoo(repo, NAME, "train", **selection).column_names)
    assert 0 < len(mapped) < 11 * (EPOCHS + 1) or "split_by" in selection


@given(samples=st.integers(0, 60), batch_size=st.integers(1, 9), ranks=st.integers(1, 5), drop_last=st.booleans())
@settings(deadline=None, max_examples=200)
def test_pieces_of_ranks_have_the_same_lengths_and_hold_every_sample(samples, batch_size, ranks, drop_last):
    try:
        plan = BatchPlan(samples=samples, batch_size=batch_size, ranks=ranks, drop_last=drop_last)
    except SpecError:
        return
    pieces = [plan.side_by_side(rank) for rank in range(ranks)]
    assert [len(piece) for piece in pieces] == [plan.rounds] * ranks
    seen = [sample for piece in pieces for start, stop in piece for sample in range(start, stop)]
    used = sum(
        stop - start for number in range(plan.rounds) for r in range(ranks) for start, stop in [plan.bounds(number, r)]
    )
    assert seen == list(range(used))


def test_a_process_reads_its_own_row_groups_only(repo, monkeypatch):
    read, plain = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **rest: read.append(i) or plain(self, i, **rest)
    )
    found, counts = [], []
    for rank in range(3):
        made = batches(stream(repo), 4, ["model_id", "epoch"], shuffle=True, buffer=1, even=False)
        monkeypatch.setattr(made, "_place", lambda rank=rank: (rank, 3))
        read.clear()
        found.append(rows_of(made))
        counts.append(len(read))
    assert sorted(row for rows in found for row in rows) == sorted(rows_of(batches(stream(repo), 9)))
    total = len(batches(stream(repo))._reader.groups)
    assert total <= sum(counts) <= total + 4  # only row groups at the borders twice


def test_workers_of_a_loader_have_pieces_too(repo):
    made = batches(stream(repo), 8, ["model_id", "epoch"], shuffle=True, buffer=20)
    reference = batches(stream(repo), 8, ["model_id", "epoch"], shuffle=True, buffer=20)
    loader = DataLoader(made, batch_size=None, num_workers=2)
    epochs = [rows_of(reference) for _ in range(2)]
    assert [sorted(rows_of(loader)) for _ in range(2)] == [sorted(epoch) for epoch in epochs]
    made.load_state_dict(reference.state_dict() | {"epoch": 1, "batch": 3})
    assert sorted(rows_of(loader)) == sorted(epochs[1][24:])


def test_the_state_of_a_worker_is_that_of_its_piece(repo, monkeypatch):
    """As torchdata keeps it: each worker saves and loads its own."""
    from types import SimpleNamespace

    from zoo_datasets.loading import batches as batching

    def of_worker(number):
        worker = SimpleNamespace(id=number, num_workers=2, seed=7 + number)
        monkeypatch.setattr(batching, "get_worker_info", lambda: worker)
        return batches(stream(repo), 8, ["model_id", "epoch"], shuffle=True, buffer=20)

    pieces = []
    for number in range(2):
        made = of_worker(number)
        iterator = iter(made)
        taken = rows_of([next(iterator), next(iterator)])
        state = json.loads(json.dumps(made.state_dict()))
        rest = rows_of(iterator)
        again = of_worker(number)
        again.load_state_dict(state)
        assert rows_of(again) == rest
        pieces += taken + rest
    monkeypatch.undo()
    assert pieces == rows_of(batches(stream(repo), 8, ["model_id", "epoch"], shuffle=True, buffer=20))


def test_a_pickled_copy_reads_the_same(repo):
    made = batches(stream(repo, where="test_acc < 0.7"), 8, shuffle=True)
    assert rows_of(pickle.loads(pickle.dumps(made))) == rows_of(made)


def test_layers_and_tasks_of_a_stream(repo):
    batch = next(iter(batches(stream(repo), 4, ["weights"], layers=True)))
    assert batch["layers"]["conv2.weight"].shape == (4, 6, 8, 5, 5)
    batch = next(iter(tasks.property_prediction(stream(repo), ["test_acc", "ggap"], batch_size=4)))
    assert batch["target"].shape == (4, 2)
    batch = next(iter(tasks.reconstruction(stream(repo), batch_size=4, shuffle=True)))
    assert batch["target"] is batch["weights"]


def test_what_cannot_be_streamed_is_told(repo):
    with pytest.raises(SpecError, match="streamed dataset that load_zoo did not give, or that was changed since"):
        batches(stream(repo).filter(lambda row: row["epoch"] == 1))
    with pytest.raises(SpecError, match="got a IterableDatasetDict, expected a datasets.Dataset"):
        batches(load_zoo(repo, NAME, streaming=True))
    with pytest.raises(UnknownNameError, match="no column named 'lr'.*left out of load_zoo's columns"):
        batches(stream(repo, columns=["weights"]), columns=["lr"])
    with pytest.raises(SpecError, match="buffer=0: expected at least 1"):
        batches(stream(repo), buffer=0)
    with pytest.raises(SpecError, match="got a IterableDataset: trajectories and pairs .* expected a prepared"):
        tasks.trajectories(stream(repo))
