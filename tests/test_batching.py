"""Batches: every row once, in order or shuffled, resumed, shared out, as tensors."""

import json
import multiprocessing
import pickle
import threading

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import make_run
from torch.utils.data import DataLoader

from zoo_datasets.builders import build_repository
from zoo_datasets.errors import LayoutError, SpecError, UnknownNameError
from zoo_datasets.loading import ahead
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.order import BatchPlan
from zoo_datasets.native import rows as gather
from zoo_datasets.networks.architectures import layout_of

WIDTH = 7


def zoo_of(rows, chunk=5, width=WIDTH):
    """A zoo in memory whose row r holds the weights r·width … and the columns of a few types."""
    weights = np.arange(rows * width, dtype=np.float32)
    type_ = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    table = pa.table(
        {
            "weights": pa.FixedSizeListArray.from_arrays(pa.array(weights), type=type_),
            "number": pa.array(range(rows), pa.int64()),
            "lr": pa.array([row / 10 for row in range(rows)], pa.float64()),
            "momentum": pa.array([None if row % 2 else 0.5 for row in range(rows)], pa.float64()),
            "name": pa.array([None if row == 3 else f"row{row % 4}" for row in range(rows)], pa.string()),
            "steps": pa.array([[row] * (row % 3) for row in range(rows)], pa.list_(pa.int32())),
        }
    )
    pieces = [table.slice(start, chunk) for start in range(0, rows, chunk)]
    return Dataset(pa.concat_tables([pa.Table.from_batches(piece.to_batches()) for piece in pieces]))


def numbers(made):
    return [batch["number"].tolist() for batch in made]


def flat(made):
    return [number for batch in numbers(made) for number in batch]


def expected_weights(rows, width=WIDTH):
    return (torch.as_tensor(rows)[:, None] * width + torch.arange(width)).float()


@pytest.fixture(params=["compiled", "numpy"])
def _kernel(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(gather, "native_library", lambda: None)
    elif gather.native_library() is None:
        pytest.skip("no C compiler")


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("copy", [False, True])
def test_every_row_comes_once_with_its_own_weights(shuffle, copy):
    made = batches(zoo_of(23), 4, shuffle=shuffle, copy=copy)
    assert len(made) == 6
    seen = []
    for batch in made:
        assert batch["weights"].dtype == torch.float32
        assert torch.equal(batch["weights"], expected_weights(batch["number"]))
        seen += batch["number"].tolist()
    assert sorted(seen) == list(range(23))
    assert (seen == list(range(23))) is not shuffle


def test_columns_come_as_tensors_or_lists():
    (batch,) = batches(zoo_of(6), 6)
    assert batch["number"].dtype == torch.int64
    assert batch["lr"].dtype == torch.float32
    torch.testing.assert_close(batch["lr"], torch.arange(6) / 10)
    assert batch["momentum"].isnan().tolist() == [False, True] * 3
    assert batch["name"] == ["row0", "row1", "row2", None, "row0", "row1"]
    assert batch["steps"] == [[], [1], [2, 2], [], [4], [5, 5]]
    (batch,) = batches(zoo_of(6), 6, ["lr", "weights"], dtype=None)
    assert list(batch) == ["lr", "weights"]
    assert (batch["lr"].dtype, batch["weights"].dtype) == (torch.float64, torch.float32)
    (batch,) = batches(zoo_of(6), 6, ["weights"], dtype=torch.bfloat16, device="cpu")
    assert batch["weights"].dtype == torch.bfloat16
    (batch,) = batches(zoo_of(6), 6, ["name", "steps"], shuffle=True, seed=3)
    assert sorted(map(str, batch["name"])) == ["None", "row0", "row0", "row1", "row1", "row2"]


def test_batches_may_be_written_to():
    zoo = zoo_of(8)
    for shuffle in (False, True):
        for batch in batches(zoo, 4, shuffle=shuffle):
            for name in ("weights", "lr", "number"):
                batch[name].fill_(-1)
    assert torch.equal(next(iter(batches(zoo, 8)))["weights"], expected_weights(range(8)))


def test_each_epoch_has_its_own_order_that_follows_from_the_seed():
    made = batches(zoo_of(40), 7, ["number"], shuffle=True, seed=1)
    first, second = flat(made), flat(made)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    again = batches(zoo_of(40), 7, ["number"], shuffle=True, seed=1)
    assert [flat(again), flat(again)] == [first, second]
    again.set_epoch(1)
    assert flat(again) == second
    assert flat(batches(zoo_of(40), 7, ["number"], shuffle=True, seed=2)) != first


def test_drop_last_leaves_out_what_does_not_fill_a_batch():
    made = batches(zoo_of(11), 4, drop_last=True)
    assert len(made) == 2
    assert [len(batch["weights"]) for batch in made] == [4, 4]
    assert list(batches(zoo_of(3), 4, drop_last=True)) == []


@pytest.mark.parametrize("taken", [0, 1, 3, 6])
def test_a_state_goes_on_with_the_very_next_batch(taken):
    made = batches(zoo_of(23), 4, ["number"], shuffle=True, seed=5)
    list(made)
    iterator = iter(made)
    for _ in range(taken):
        next(iterator)
    state = json.loads(json.dumps(made.state_dict()))
    rest, following = [batch["number"].tolist() for batch in iterator], numbers(made)
    resumed = batches(zoo_of(23), 4, ["number"], shuffle=True, seed=5)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert numbers(resumed) == rest
    assert numbers(resumed) == following
    if taken == 6:
        return
    # The same in the object that gave the state: going back.
    made.load_state_dict(state)
    assert numbers(made) == rest


def test_a_state_before_and_after_an_epoch():
    made = batches(zoo_of(8), 4, ["number"], shuffle=True)
    assert (made.state_dict()["epoch"], made.state_dict()["batch"]) == (0, 0)
    list(made)
    assert (made.state_dict()["epoch"], made.state_dict()["batch"]) == (1, 0)
    with pytest.raises(SpecError, match="this state has batch_size=4, expected 5: it belongs to other batches"):
        batches(zoo_of(8), 5, ["number"], shuffle=True).load_state_dict(made.state_dict())


def test_states_of_before_rounds_were_filled_go_on_where_none_is(monkeypatch):
    for ranks in (1, 2):
        made = {even: batches(zoo_of(11), 4, ["number"], even=even) for even in (False, True)}
        for one in made.values():
            monkeypatch.setattr(one, "_place", lambda ranks=ranks: (0, ranks))
        state = {key: value for key, value in made[False].state_dict().items() if key != "even"} | {"batch": 1}
        made[False].load_state_dict(state)
        assert flat(made[False]) == {1: list(range(4, 11)), 2: [8]}[ranks]
        if ranks == 1:
            made[True].load_state_dict(state)
            assert flat(made[True]) == list(range(4, 11))
        else:
            with pytest.raises(SpecError, match="this state has even=False, expected True"):
                made[True].load_state_dict(state)


def test_selections_of_a_zoo_are_followed():
    zoo = zoo_of(30)
    chosen = zoo.filter(lambda number: number % 3 == 0, input_columns="number").shuffle(seed=0).select(range(2, 8))
    for shuffle in (False, True):
        for batch in batches(chosen, 4, ["weights", "number", "name"], shuffle=shuffle):
            assert torch.equal(batch["weights"], expected_weights(batch["number"]))
            assert batch["name"] == [None if n == 3 else f"row{n % 4}" for n in batch["number"].tolist()]
    assert flat(batches(chosen, 4)) == chosen["number"][:]
    part = zoo.select(range(7, 19))  # a slice without an index, which begins within a chunk
    assert flat(batches(part, 5)) == list(range(7, 19))
    assert torch.equal(next(iter(batches(part, 12)))["weights"], expected_weights(range(7, 19)))
    both = datasets.concatenate_datasets([zoo, part])
    assert flat(batches(both, 5)) == [*range(30), *range(7, 19)]


@given(samples=st.integers(0, 60), batch_size=st.integers(1, 9), ranks=st.integers(2, 5))
@settings(deadline=None, max_examples=200)
def test_even_rounds_are_full_and_begin_with_every_sample_once(samples, batch_size, ranks):
    plan = BatchPlan(samples=samples, batch_size=batch_size, ranks=ranks, drop_last=False, even=True)
    for pieces in (False, True):
        bounds = [
            plan.side_by_side(rank) if pieces else [plan.bounds(number, rank) for number in range(plan.rounds)]
            for rank in range(ranks)
        ]
        assert all(stop - start == batch_size for of_rank in bounds for start, stop in of_rank)
        # As gather_for_metrics: of the last round, the batches of all ranks one after another, the remainder is kept.
        rounds = [
            [sample % samples for bound in of_all for sample in range(*bound)] for of_all in zip(*bounds, strict=True)
        ]
        if rounds and plan.remainder:
            rounds[-1] = rounds[-1][: plan.remainder]
        assert sorted(sample for one in rounds for sample in one) == list(range(samples))


@given(samples=st.integers(0, 60), batch_size=st.integers(1, 9), ranks=st.integers(1, 5), drop_last=st.booleans())
@settings(deadline=None, max_examples=300)
def test_ranks_have_equally_many_batches_and_share_every_sample(samples, batch_size, ranks, drop_last):
    try:
        plan = BatchPlan(samples=samples, batch_size=batch_size, ranks=ranks, drop_last=drop_last)
    except SpecError:
        # Only where no such division is: too few samples, or batches of one that do not come out even.
        assert samples < ranks or (batch_size == 1 and samples % ranks)
        return
    parts = [plan.bounds(number, rank) for number in range(plan.rounds) for rank in range(ranks)]
    seen = [position for start, stop in parts for position in range(start, stop)]
    assert all(0 < stop - start <= batch_size for start, stop in parts)
    if drop_last:
        assert seen == list(range(samples - samples % (ranks * batch_size)))
    else:
        assert seen == list(range(samples))


def _rank(rank, ranks, port, queue):
    import os

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "1",
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # what tests of this process made of it before the fork
    made = batches(zoo_of(41), 4, ["number"], shuffle=True, seed=9, even=False)
    accelerator = Accelerator(cpu=True)
    epochs = [numbers(made), numbers(accelerator.prepare(made))]
    workers = DataLoader(made, batch_size=None, num_workers=2)
    epochs.append([batch["number"].tolist() for batch in workers])
    loader = accelerator.prepare(made.loader(2))
    epochs.append([batch["number"].tolist() for batch in loader])
    refused = ""
    try:
        list(accelerator.prepare(workers))
    except SpecError as error:
        refused = str(error)
    queue.put((rank, len(made), epochs, refused))
    accelerator.end_training()
    torch.distributed.destroy_process_group()


def test_processes_of_accelerate_share_the_rows():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, 2, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = {rank: rest for rank, *rest in (queue.get(timeout=60) for _ in processes)}
    for process in processes:
        process.join(timeout=60)
    assert found[0][0] == found[1][0] == 6
    for first, second in zip(found[0][1], found[1][1], strict=True):
        assert len(first) == len(second) == 6
        assert sorted(number for batch in (*first, *second) for number in batch) == list(range(41))
    assert len({str(epoch) for epoch in found[0][1]}) == 4
    # A loader that Accelerate prepares by itself would read the rows of the first process only.
    assert "prepare the batches themselves or their `loader(workers)`" in found[0][2]
    assert found[1][2] == found[0][2]


def through(loader):
    return [batch["number"].tolist() for batch in loader]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_loader_share_each_epoch_and_reshuffle(persistent):
    reference = batches(zoo_of(23), 4, ["number"], shuffle=True, seed=5)
    epochs = [numbers(reference) for _ in range(3)]
    made = batches(zoo_of(23), 4, ["number"], shuffle=True, seed=5)
    loader = DataLoader(made, batch_size=None, num_workers=2, persistent_workers=persistent)
    assert len(loader) == 6
    assert [through(loader) for _ in range(3)] == epochs
    with pytest.raises(SpecError, match="StatefulDataLoader"):
        made.state_dict()
    made.load_state_dict(reference.state_dict() | {"epoch": 1, "batch": 3})
    if not persistent:
        assert through(loader) == epochs[1][3:]
        assert through(loader) == epochs[2]


def test_a_pickled_copy_reads_the_same(tmp_path):
    made = batches(zoo_of(9), 4, shuffle=True)
    copy = pickle.loads(pickle.dumps(made))
    assert numbers(copy) == numbers(made)


def test_a_repository_comes_in_batches_and_layer_by_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    make_run(tmp_path / "run", ((12, 2),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    zoo = load_zoo(tmp_path / "repo", "digits_cnn_s", "train")
    plain = torch.tensor(zoo["weights"][:])
    seen = torch.cat([batch["weights"] for batch in batches(zoo, 5)])
    assert torch.equal(seen, plain)
    views = torch.cat([batch["weights"] for batch in batches(zoo, 5, ["weights"], copy=False)])
    assert torch.equal(views, plain)
    batch = next(iter(batches(zoo, 5, ["weights", "test_acc"], shuffle=True, layers=True)))
    layout = layout_of("cnn_s", 1, 10)
    assert list(batch["layers"]) == [spec.name for spec in layout.tensors]
    assert batch["layers"]["conv2.weight"].shape == (5, 6, 8, 5, 5)
    assert torch.equal(torch.cat([t.flatten(1) for t in batch["layers"].values()], dim=1), batch["weights"])
    bare = load_zoo(tmp_path / "repo", "digits_cnn_s", "train", columns=["weights"])
    with pytest.raises(SpecError, match="lacks column 'architecture', which its layout follows from"):
        list(batches(bare, 5, layers=True))


def test_what_cannot_be_batched_is_told():
    zoo = zoo_of(6)
    with pytest.raises(SpecError, match='got a DatasetDict, expected a datasets.Dataset.*zoo."train"'):
        batches(datasets.DatasetDict(train=zoo))
    with pytest.raises(SpecError, match="batch_size=0: expected at least 1"):
        batches(zoo, 0)
    with pytest.raises(UnknownNameError, match="no column named 'weight'; did you mean weights"):
        batches(zoo, columns=["weight"])
    with pytest.raises(SpecError, match="columns='weights': expected a list"):
        batches(zoo, columns="weights")
    with pytest.raises(LayoutError, match="column 'weights' is list.*, expected a list of fixed length of floats"):
        batches(zoo.remove_columns("weights").rename_column("steps", "weights"))
    with pytest.raises(IndexError, match="positions from -1 to 2, expected 0 to 5"):
        gather.MappedRows(zoo.data.column("weights"), "weights").gather(np.array([-1, 2]), torch.empty(2, WIDTH))


def test_memory_is_used_again_only_when_nothing_refers_to_it():
    made = batches(zoo_of(800), 4, ["weights", "number"], shuffle=True)
    iterator = iter(made)
    first = next(iterator)
    place = first["weights"].data_ptr()
    part, as_array = first["weights"][1:2], next(iterator)["weights"].numpy()
    expected = part.clone(), as_array.copy()
    del first
    places = set()
    for batch in iterator:
        places.add(batch["weights"].data_ptr())
    assert place not in places
    assert len(places) < 50  # of 200: in use, read ahead, being read, and idle
    assert torch.equal(part, expected[0])
    assert np.array_equal(as_array, expected[1])
    kept = list(made)
    assert all(torch.equal(batch["weights"], expected_weights(batch["number"])) for batch in kept)


@pytest.mark.parametrize("thread_is_faster", [False, True])
def test_reading_goes_the_way_that_was_faster_and_gives_the_same(thread_is_faster, monkeypatch):
    threads = []

    def read(number):
        threads.append(threading.current_thread() is not threading.main_thread())
        return number * number

    slow = {True: 1, False: 5} if thread_is_faster else {True: 5, False: 1}
    now = [0.0]

    def tick():
        now[0] += slow[bool(threads) and threads[-1]]
        return now[0]

    monkeypatch.setattr(ahead.time, "perf_counter", tick)
    pace = ahead.Pace()
    assert list(pace.run(read, range(100))) == [number * number for number in range(100)]
    assert pace.ahead is thread_is_faster
    assert {*threads[12:]} == {thread_is_faster}
    threads.clear()
    assert list(pace.run(read, range(30))) == [number * number for number in range(30)]
    assert {*threads} == {thread_is_faster}
    assert list(ahead.Pace().run(read, range(5))) == [0, 1, 4, 9, 16]
