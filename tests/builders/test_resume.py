"""A build that was killed goes on from its finished shards; threads share it; the result is always the same."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from raw_zoos import SEED_ZOO, make_zoo, saved, state_dict, weights_of, zipped
from tiny_runs import make_run

from zoo_datasets.builders import Reading, build_repository
from zoo_datasets.builders.shards import ahead, digest, meta, plan, workers
from zoo_datasets.builders.shards import part as parts
from zoo_datasets.builders.shards.journal import JOURNAL, Journal
from zoo_datasets.builders.sources.base import StateBlock
from zoo_datasets.builders.sources.raw import source as from_raw
from zoo_datasets.errors import SourceError, StorageError
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import SPLITS
from zoo_datasets.runs.rows import Model

SMALL = 90_000  # nine rows
# Builds a zoo with small shards and dies where it is told to: at which call of what, before or after it.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from zoo_datasets.builders import build as repository, build_repository
from zoo_datasets.builders.shards import journal, part as parts, plan, writer as shards

plan.SMALL_SHARD_BYTES = 90_000
source, repo, where, number, when, num_proc = sys.argv[1:]
owner, name = {
    "shard": (parts.ShardWriter, "close"), "row group": (shards.pq.ParquetWriter, "write_table"),
    "journal": (journal.Journal, "add"), "journal file": (journal.Path, "replace"),
    "manifest": (repository.Manifest, "save"), "card": (repository, "write_card"),
}[where]
original, left = getattr(owner, name), int(number)

def dying(*arguments, **options):
    global left
    left -= 1
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, dying)
build_repository(Path(source), Path(repo), num_proc=int(num_proc))
"""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(plan, "SMALL_SHARD_BYTES", SMALL)
    for module in (workers, digest):  # so that one thread reads ahead and another one hashes
        monkeypatch.setattr(module, "cores", lambda: 2)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / SEED_ZOO
    trials = make_zoo(folder, models=12, epochs=range(3))
    (trials[4] / "checkpoint_000001" / "checkpoints").write_bytes(b"broken")
    (trials[5] / "result.json").unlink()
    half = {name: tensor.half() for name, tensor in state_dict(weights_of(7, 2)).items()}
    (trials[6] / "checkpoint_000002" / "checkpoints").write_bytes(saved(half))
    return folder


@pytest.fixture(scope="module")
def undisturbed(zoo, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALL_SHARD_BYTES", SMALL)
        repo = tmp_path_factory.mktemp("undisturbed")
        return build_repository(zoo, repo).config, content(repo)


def content(repo):
    """Every file but locks, by its path."""
    files = [path for path in repo.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(repo).as_posix(): path.read_bytes() for path in files}


def kill(source, repo, where, number, when, num_proc=1):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, (source, repo, where, number, when, num_proc))],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def counted(monkeypatch):
    """The parts that are written from now on."""
    seen = []

    def write(job, rows, part, progress=None):
        seen.append(part)
        return original(job, rows, part, progress)

    original = parts.write_part
    monkeypatch.setattr(workers, "write_part", write)
    return seen


@pytest.mark.parametrize(
    ("where", "number", "when", "num_proc", "finished"),
    [
        ("row group", 3, "before", 1, 2),
        ("journal file", 2, "before", 1, 0),
        ("journal", 3, "after", 2, 3),
        ("card", 1, "after", 2, None),
    ],
)
def test_a_killed_build_goes_on_and_ends_bit_for_bit_the_same(
    zoo, undisturbed, tmp_path, monkeypatch, where, number, when, num_proc, finished
):
    name, expected = undisturbed
    kill(zoo, tmp_path, where, number, when, num_proc)
    assert (tmp_path / name / JOURNAL).exists() == (finished != 0)
    written, read = counted(monkeypatch), []
    original = meta._read
    monkeypatch.setattr(meta, "_read", lambda *arguments: read.append(1) or original(*arguments))
    result = build_repository(zoo, tmp_path, num_proc=num_proc)
    shards = len(read_manifest(tmp_path, name).shards)
    assert len(read) == result.shards_resumed
    assert result.shards_resumed == (shards if finished is None else finished)
    assert len(written) == shards - result.shards_resumed
    assert content(tmp_path) == expected


def test_a_shard_that_was_damaged_after_the_kill_is_written_again(zoo, undisturbed, tmp_path):
    name, expected = undisturbed
    kill(zoo, tmp_path, "journal", 4, "after")
    first, second, *_ = sorted((tmp_path / name).glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    with (tmp_path / name / JOURNAL).open("ab") as journal:
        journal.write(b'{"part": 5, "outc')
    assert build_repository(zoo, tmp_path).shards_resumed == 2
    assert content(tmp_path) == expected


def test_a_changed_source_and_changed_options_begin_again(tmp_path, monkeypatch):
    zoo = tmp_path / SEED_ZOO
    trials = make_zoo(zoo, models=6, epochs=range(2))

    def interrupted(progress=None):
        monkeypatch.setattr(workers, "write_part", dying)
        with pytest.raises(KeyboardInterrupt):
            build_repository(zoo, tmp_path / "repo")
        monkeypatch.setattr(workers, "write_part", parts.write_part)
        assert (tmp_path / "repo" / name / JOURNAL).exists()

    calls = []

    def dying(*arguments):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return parts.write_part(*arguments)

    name = build_repository(zoo, tmp_path / "expected").config
    interrupted()
    assert build_repository(zoo, tmp_path / "repo", keep_nonfinite=True).shards_resumed == 0
    interrupted()
    assert build_repository(zoo, tmp_path / "repo", reading=Reading(models=6), replace=True).shards_resumed == 0
    interrupted()
    assert build_repository(zoo, tmp_path / "repo").shards_resumed == 2
    interrupted()
    file = trials[0] / "checkpoint_000001" / "checkpoints"
    file.write_bytes(saved(state_dict(weights_of(99, 1))))
    assert build_repository(zoo, tmp_path / "repo").shards_resumed == 0
    build_repository(zoo, tmp_path / "changed")
    assert content(tmp_path / "repo") == content(tmp_path / "changed") != content(tmp_path / "expected")


def test_any_number_of_threads_gives_the_same_bytes(zoo, undisturbed, tmp_path):
    name, expected = undisturbed
    for number in (2, 5):
        seen = []
        result = build_repository(
            zoo, tmp_path / str(number), num_proc=number, progress=lambda done, total, seen=seen: seen.append(done)
        )
        assert content(tmp_path / str(number)) == expected
        assert seen == sorted(seen)
        assert seen[-1] == 36
    manifest = json.loads(expected[f"_meta/{name}/manifest.json"])
    assert manifest["source"]["converted_to_float32"] == {"float16": 1}
    assert manifest["counts"]["states"] == {"found": 36, "written": 32, "left_out": 4}
    assert len(result.left_out) == 2
    with pytest.raises(SourceError, match="--on-bad fail"):
        build_repository(zoo, tmp_path / "fail", num_proc=2, on_bad="fail")


def test_runs_and_archives_are_shared_out_too(zoo, undisturbed, tmp_path):
    archive = zipped(zoo)
    build_repository(archive, tmp_path / "zip", num_proc=2)
    archive.unlink()
    shards = {path: data for path, data in undisturbed[1].items() if path.endswith(".parquet")}
    assert {path: data for path, data in content(tmp_path / "zip").items() if path.endswith(".parquet")} == shards
    make_run(tmp_path / "run", ((9, 1), (12, 2)), trained={1: 1})
    for number in (1, 2):
        build_repository(tmp_path / "run", tmp_path / str(number), num_proc=number)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_an_error_in_a_thread_stops_the_others_and_nothing_finished_is_lost(zoo, undisturbed, tmp_path, monkeypatch):
    def failing(job, rows, part, progress=None):
        if part.split == "validation":
            raise StorageError("the disk is full")
        return parts.write_part(job, rows, part, progress)

    monkeypatch.setattr(workers, "write_part", failing)
    with pytest.raises(StorageError, match="the disk is full"):
        build_repository(zoo, tmp_path, num_proc=2)
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.setattr(workers, "write_part", parts.write_part)
    assert build_repository(zoo, tmp_path).shards_resumed >= 1
    assert content(tmp_path) == undisturbed[1]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_ctrl_c_stops_after_the_pieces_at_hand(zoo, undisturbed, tmp_path, monkeypatch, num_proc):
    name, expected = undisturbed
    for module in (parts, from_raw):
        monkeypatch.setattr(module, "SMALL_PIECE_BYTES", 1)
    threads, begun, interrupted_at = set(threading.enumerate()), itertools.count(1), []
    finished, journaled, interrupting, one_at_a_time = *(threading.Event() for _ in range(3)), threading.Lock()
    add_piece, add_part, last = parts.ShardWriter.add, Journal.add, 0

    def handler(*arguments):
        interrupting.set()
        signal.default_int_handler(*arguments)

    def write_part(*arguments):
        result = parts.write_part(*arguments)
        finished.set()
        return result

    def journal_part(*arguments):
        add_part(*arguments)
        journaled.set()

    def begin_piece(*arguments):
        nonlocal last
        with one_at_a_time:
            last = number = next(begun)
            if finished.is_set() and not interrupted_at:
                assert journaled.wait(60)
                interrupted_at.append(number)
                os.kill(os.getpid(), signal.SIGINT)
        if interrupted_at:
            # The pieces at hand last until the main thread has been interrupted and has had time to say so.
            assert interrupting.wait(60)
            time.sleep(0.5)
        add_piece(*arguments)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(parts.ShardWriter, "add", begin_piece)
            patched.setattr(Journal, "add", journal_part)
            patched.setattr(workers, "write_part", write_part)
            with pytest.raises(KeyboardInterrupt):
                build_repository(zoo, tmp_path, num_proc=num_proc)
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted_at
    assert last <= interrupted_at[0] - 1 + num_proc
    assert not list(tmp_path.rglob("*.tmp"))
    # Threads of pyarrow that called Python count as threads, and stay.
    left = [thread for thread in set(threading.enumerate()) - threads if not isinstance(thread, threading._DummyThread)]
    assert not left
    written = len((tmp_path / name / JOURNAL).read_bytes().splitlines()) - 1
    assert build_repository(zoo, tmp_path, num_proc=num_proc).shards_resumed == written >= 1
    assert content(tmp_path) == expected


def test_the_plan_covers_each_state_once_and_keeps_shards_small(monkeypatch):
    monkeypatch.setattr(plan, "SMALL_SHARD_BYTES", 40)
    monkeypatch.setattr(plan, "SHARD_BYTES", 100)
    models = tuple(Model(model_id=f"{index:04x}", columns={}) for index in range(23))
    blocks = [StateBlock(models=models[:20], epochs=(0, 1, 2, 3, 4)), StateBlock(models=models[20:], epochs=(7,))]
    for row_bytes in (1, 3, 10, 70, 1000):
        cut = plan.plan(blocks, row_bytes, 103)
        states = [(m.model_id, epoch) for part in cut for m in part.block.models for epoch in part.block.epochs]
        assert len(states) == len(set(states)) == 103
        for part in cut:
            assert {model.split for model in part.block.models} == {part.split}
            rows = len(part.block.models) * len(part.block.epochs)
            assert rows * row_bytes <= 100 or rows == 1
        order = [(part.block.models[0] in models[20:], SPLITS.index(part.split), part.block.epochs) for part in cut]
        assert order == sorted(order)
    (first, *_), (half, *_) = (plan.plan(blocks[:1], 1, states) for states in (100, 50))
    assert len(half.block.epochs) >= len(first.block.epochs)


@pytest.mark.parametrize("held", [1, 100_000_000])
def test_reading_ahead_gives_the_same_bytes_and_what_reading_raises(zoo, undisturbed, tmp_path, monkeypatch, held):
    monkeypatch.setattr(ahead, "HELD_BYTES", held)
    build_repository(zoo, tmp_path / "ahead")
    assert content(tmp_path / "ahead") == undisturbed[1]
    monkeypatch.setattr(workers, "cores", lambda: 1)
    build_repository(zoo, tmp_path / "alone")
    assert content(tmp_path / "alone") == undisturbed[1]
    monkeypatch.setattr(workers, "cores", lambda: 2)
    read, begun = from_raw.RawSource.read, []

    def failing(self, block):
        begun.append(block)
        if len(begun) == 3:
            raise SourceError("the disk was pulled out")
        return read(self, block)

    threads = set(threading.enumerate())
    monkeypatch.setattr(from_raw.RawSource, "read", failing)
    with pytest.raises(SourceError, match="the disk was pulled out"):
        build_repository(zoo, tmp_path / "failed")
    assert set(threading.enumerate()) == threads
    monkeypatch.setattr(from_raw.RawSource, "read", read)
    assert build_repository(zoo, tmp_path / "failed").shards_resumed == 2
    assert content(tmp_path / "failed") == undisturbed[1]
