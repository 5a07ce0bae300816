"""Batches under Accelerate, in one process and in two, beside its own loaders of a plain dataset."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerated_loops import OTHER, SMALL
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.specs.zoos import get_zoo

KINDS = [
    "mapped", "one left", "larger than all", "streamed", "streamed, one left", "streamed, larger than all", "mixed",
    "mixed streams", "task",
]  # fmt: skip
LOOPS = Path(__file__).with_name("accelerated_loops.py")
LOADERS = [(kind, loader) for kind in KINDS for loader in ("batches", "shuffled")]
LOADERS += [(kind, loader) for kind in ("mapped", "streamed") for loader in ("dropping", "loader", "workers")]


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """Two configs of 55 and 22 rows in one repository."""
    folder = tmp_path_factory.mktemp("accelerate")
    make_run(folder / "small", ((14, 4),))
    make_run(folder / "other", ((14, 1),), zoo=dataclasses.replace(get_zoo(SMALL), name=OTHER))
    for run in ("small", "other"):
        build_repository(folder / run, folder / "repo")
    return folder / "repo"


@pytest.fixture(scope="module")
def seen(repo, tmp_path_factory):
    """By number of processes, what each of them saw."""
    out = tmp_path_factory.mktemp("seen")
    environment = os.environ | {"HF_DATASETS_CACHE": str(out / "datasets"), "OMP_NUM_THREADS": "1"}
    # In a session of its own, so that processes that wait for one that has failed are ended with it.
    running = subprocess.Popen(
        [sys.executable, LOOPS, repo, out], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        _, errors = running.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, errors[-3000:]
    return {
        processes: [json.loads((out / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]
        for processes in (1, 2)
    }


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("kind", "loader"), LOADERS)
def test_a_loop_is_that_over_a_loader_of_accelerate(seen, processes, kind, loader):
    for rank in seen[processes]:
        plain = rank[kind]["plain, dropping" if loader == "dropping" else "plain"]
        ours = rank[kind][loader]
        assert ours["length"] == plain["length"]
        for name in ("steps", "ends", "remainders", "lengths", "devices", "left"):
            assert [epoch[name] for epoch in ours["epochs"]] == [epoch[name] for epoch in plain["epochs"]], name
        assert ours["again"]["own"] == ours["epochs"][1]["own"]
        for epoch in ours["epochs"]:
            expected = plain["epochs"][0]["gathered"] if loader == "dropping" else range(rank[kind]["samples"])
            if loader == "dropping" and kind == "streamed":  # those of other processes are left out
                assert len(set(epoch["gathered"])) == len(expected)
            else:
                assert sorted(epoch["gathered"]) == sorted(expected)


@pytest.mark.parametrize("processes", [1, 2])
def test_gradients_are_applied_at_the_end_of_each_epoch(seen, processes):
    expected = {1: "00010001000101", 2: "0001001"}[processes]
    for rank in seen[processes]:
        for loader in ("batches", "loader", "workers", "uneven"):
            assert [epoch["steps"] for epoch in rank["streamed"][loader]["epochs"]] == [expected, expected]


@pytest.mark.parametrize("kind", ["mapped", "one left", "larger than all", "task"])
def test_the_last_round_is_filled_with_the_start_of_the_epoch(seen, kind):
    for rank in seen[2]:
        assert rank[kind]["batches"]["epochs"][0]["own"] == rank[kind]["plain"]["epochs"][0]["own"]


@pytest.mark.parametrize("kind", ["mapped", "streamed"])
def test_uneven_batches_hold_each_row_once(seen, kind):
    epochs = [rank[kind]["uneven"]["epochs"][0] for rank in seen[2]]
    assert sorted(id_ for epoch in epochs for id_ in epoch["own"]) == list(range(55))
    assert [epoch["lengths"] for epoch in epochs] == [[4] * 6 + [3], [4] * 7]
    assert all(set(epoch["remainders"]) == {0} for epoch in epochs)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_are_skipped_are_missing_and_nothing_else(seen, processes, kind):
    for rank in seen[processes]:
        for loader in ("batches", "shuffled"):
            ours, plain = rank[kind][loader], rank[kind]["plain"]
            if "skipping" not in plain:
                assert plain["length"] < 2
                continue
            assert ours["skipping length"] == plain["skipping length"]
            assert [ours["skipping"][name] for name in ("steps", "ends")] == [
                plain["skipping"][name] for name in ("steps", "ends")
            ]
            first = ours["epochs"][0]
            assert ours["skipping"]["own"] == first["own"][sum(first["lengths"][:2]) :]
            assert ours["skipping"]["gathered"] == first["gathered"][processes * sum(first["lengths"][:2]) :]


@pytest.mark.parametrize("processes", [1, 2])
def test_loops_that_are_nested_left_or_refused(seen, processes):
    for rank in seen[processes]:
        odd = rank["odd"]
        assert odd["nested"] == rank["mapped"]["plain"]["epochs"][0]["steps"]
        assert odd["known after another was left"]
        assert not odd["known after all were left"]
        assert odd["read"] == [rank["mapped"]["plain"]["length"] - 5, rank["mapped"]["plain"]["length"]]
        assert odd["devices"] == [["meta"]] * 4 + [["cpu"]]
        if processes == 1:
            assert odd["refused"][:2] == [14, 14]
            assert "skip_first_batches over workers never learns of the end of the epoch" in odd["refused"][2]
        else:
            assert len(odd["refused"]) == 2
            assert all("prepare the batches themselves or their `loader(workers)`" in text for text in odd["refused"])
