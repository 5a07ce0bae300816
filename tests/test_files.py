"""Files that are replaced as a whole, whoever else writes to the same place."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file

from zoo_datasets.errors import StorageError
from zoo_datasets.storage import files
from zoo_datasets.storage.files import remove_temporaries, replacing, write_bytes, write_if_changed
from zoo_datasets.storage.locks import hold_folder
from zoo_datasets.storage.names import fitting

# As in two containers that share a folder: each process has the number 1.
_WRITER = """
import os, sys
from pathlib import Path
os.getpid = lambda: 1
from zoo_datasets.storage.files import write_bytes, write_if_changed
target, own = Path(sys.argv[1]), sys.argv[2].encode()
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    write_bytes(target, own * (1000 + number))
    write_if_changed(target, own * (5000 + number))
"""
_STOPPED = """
import sys
from pathlib import Path
from zoo_datasets.storage.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start(program, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)
    return process


def finish(process):
    _, errors = process.communicate("\n", timeout=60)
    assert process.returncode == 0, errors


def test_processes_of_one_number_write_the_same_file(tmp_path):
    target = tmp_path / "file"
    writers = [start(_WRITER, target, letter) for letter in "ab"]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        finish(writer)
    content = target.read_bytes()
    assert len(content) == 5099
    assert content in (b"a" * 5099, b"b" * 5099)
    assert list(tmp_path.iterdir()) == [target]


def test_a_thread_writes_while_another_does(tmp_path):
    target = tmp_path / "file"
    with replacing(target) as first, replacing(target) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_living_process_writes_is_no_leftover(tmp_path):
    writer = start(_STOPPED, tmp_path / "alive")
    (tmp_path / ".shard.123.tmp").write_bytes(b"half")
    (tmp_path / ".link.tmp").symlink_to(tmp_path / "nowhere")
    with replacing(tmp_path / "own") as own:
        own.write_bytes(b"own")
        remove_temporaries(tmp_path)
        left = sorted(tmp_path.iterdir())
        assert len(left) == 2
        assert own in left
    finish(writer)
    assert (tmp_path / "alive").read_bytes() == b"half"
    assert (tmp_path / "own").read_bytes() == b"own"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes cannot be killed like this")
def test_what_a_killed_process_left_goes(tmp_path):
    writer = start(_STOPPED, tmp_path / "file")
    writer.kill()
    writer.communicate(timeout=60)
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".file.")
    assert leftover.suffix == ".tmp"
    remove_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_cleaning_up_at_every_moment_takes_nothing_from_a_writer(tmp_path):
    done = threading.Event()

    def clean():
        while not done.is_set():
            remove_temporaries(tmp_path)

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for number in range(300):
            write_if_changed(tmp_path / "file", b"x" * (number + 1))
    finally:
        done.set()
        cleaner.join()
    assert (tmp_path / "file").read_bytes() == b"x" * 300


def test_without_locks_what_was_changed_lately_is_no_leftover(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HAS_FLOCK", False)
    old, new = tmp_path / ".old.tmp", tmp_path / ".new.tmp"
    for file in (old, new):
        file.write_bytes(b"")
    os.utime(old, (0, 0))
    write_bytes(tmp_path / "file", b"whole")
    remove_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == [new, tmp_path / "file"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "数" * 85, "." + "x" * 254])
def test_a_name_may_be_as_long_as_file_systems_take(tmp_path, name):
    write_bytes(tmp_path / name, b"1")
    assert write_if_changed(tmp_path / name, b"2")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with replacing(tmp_path / name) as temporary:
        assert len(os.fsencode(temporary.name)) <= 255
        assert temporary.name.startswith(f".{name[:50]}")
        assert temporary.name.endswith(".tmp")


def test_names_that_are_cut_stay_apart_and_the_same():
    first, second = ("x" * 254 + end for end in "ab")
    assert fitting(first, ".partial") != fitting(second, ".partial")
    assert fitting(first, ".partial") == fitting(first, ".partial")
    assert fitting("x" * 247, ".partial") == "x" * 247 + ".partial"


def test_a_writer_that_puts_another_file_into_the_place(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        save_file({"a": torch.ones(3)}, temporary)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "file"
    write_bytes(target, b"before")
    with contextlib.suppress(KeyboardInterrupt), replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(StorageError, match="could not be written"):
        write_bytes(target / "below", b"")


def test_a_folder_is_held_by_one(tmp_path):
    with hold_folder(tmp_path):
        with pytest.raises(TimeoutError), hold_folder(tmp_path):
            pass
        assert not list(tmp_path.iterdir())
    with hold_folder(tmp_path):
        pass
