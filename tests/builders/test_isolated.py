"""Files that only C libraries read are opened by a process of their own, whose end is an error of ours."""

import struct
import sys
import threading
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest

from zoo_datasets.builders.containers.isolated import process as processes
from zoo_datasets.builders.containers.isolated.hdf5_file import Hdf5File, read_hdf5
from zoo_datasets.builders.containers.isolated.lmdb_file import LmdbFile
from zoo_datasets.builders.containers.isolated.process import Isolated
from zoo_datasets.errors import CheckpointError, SourceError


@pytest.fixture
def hdf5(tmp_path):
    path = tmp_path / "nefs.hdf5"
    with h5py.File(path, "w") as file:
        file["params"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        file["inner/labels"] = np.array([3, 1, 4, 1], ">i8")
        file["names"] = np.array(["ä", "b"], object)
        file["packed"] = np.zeros(0, "f4")
    return path


@pytest.fixture
def environment(tmp_path):
    with lmdb.open(str(tmp_path / "run"), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for number in range(5):
            transaction.put(f"{number}.pt".encode(), np.full(number, number, "<f4").tobytes())
    return tmp_path / "run" / "data.mdb"


def test_hdf5_rows_texts_and_blocks(hdf5):
    file = Hdf5File(hdf5)
    assert {name: dataset.shape for name, dataset in file.datasets.items()} == {
        "params": (4, 3), "inner/labels": (4,), "names": (2,), "packed": (0,),
    }  # fmt: skip
    assert file.texts("names") == ["ä", "b"]
    assert file.rows("params", 1, 3).tolist() == [[3, 4, 5], [6, 7, 8]]
    assert file.rows("params", 1, 3).dtype == np.float32
    assert file.rows("inner/labels").tolist() == [3, 1, 4, 1]
    assert [(start, block.shape) for start, block in file.blocks("params", 24)] == [(0, (2, 3)), (2, (2, 3))]
    assert read_hdf5(hdf5, ["params"])["params"].shape == (4, 3)
    with pytest.raises(CheckpointError, match="no dataset 'other'; its datasets are 'inner/labels'"):
        file.rows("other")
    with pytest.raises(CheckpointError, match="no numbers"):
        file.rows("names")
    file.close()


def test_lmdb_keys_and_values_of_files_that_share_a_process(environment, monkeypatch):
    monkeypatch.setattr("zoo_datasets.builders.containers.isolated.lmdb_file._LISTED_AT_ONCE", 2)
    process = Isolated("lmdb")
    files = [LmdbFile(environment, process) for _ in range(2)]
    for file in files:
        assert file.sizes == {f"{number}.pt": 4 * number for number in range(5)}
        assert [np.frombuffer(value, "<f4").tolist() for value in file.values(["2.pt", "1.pt"])] == [[2, 2], [1]]
    with pytest.raises(CheckpointError, match="no key '9.pt'"):
        files[0].values(["9.pt"])
    process.close()


def test_nothing_outside_of_an_hdf5_file_is_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 64)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["data"] = np.ones(3, "f4")
    path = tmp_path / "nefs.hdf5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("other.hdf5", "data")
        file["soft"] = h5py.SoftLink("/own")
        file["own"] = np.ones(2, "f4")
        file.create_dataset("stored", (16,), "f4", external=[(str(secret), 0, 64)])
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "data", (3,))
        file.create_virtual_dataset("virtual", layout)
    opened = Hdf5File(path)
    assert set(opened.datasets) == {"own", "stored", "virtual"}
    for name in ("stored", "virtual"):
        with pytest.raises(CheckpointError, match="lie in other files"):
            opened.rows(name)
    opened.close()


def test_claims_beyond_the_file_are_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "nefs.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("params", (1 << 40, 8), "f4", chunks=(1024, 8), compression="gzip")
    opened = Hdf5File(path)
    with pytest.raises(CheckpointError, match="claims 35,184,372,088,832 bytes in a file of"):
        opened.rows("params", 0, 4)
    opened.close()


def test_a_process_that_dies_is_one_error_and_the_next_file_is_read(environment, tmp_path):
    whole = environment.read_bytes()
    cut = tmp_path / "cut.mdb"
    cut.write_bytes(whole[:8192])  # the library maps pages that are not there, and is killed for it
    process = Isolated("lmdb")
    with pytest.raises(CheckpointError, match=r"ended by SIGBUS|could not read it") as caught:
        LmdbFile(cut, process)
    assert "\n" not in str(caught.value)
    assert len(LmdbFile(environment, process).sizes) == 5
    process.close()


@pytest.mark.parametrize("kind", ["hdf5", "lmdb"])
def test_damaged_files_are_errors_of_ours(hdf5, environment, tmp_path, kind):
    whole = (hdf5 if kind == "hdf5" else environment).read_bytes()
    process = Isolated(kind, seconds=10)
    random = np.random.default_rng(0)
    problems = []
    for _ in range(25):
        data = bytearray(whole)
        for place in random.integers(0, min(len(data), 9000), 40):
            data[place] = random.integers(256)
        path = tmp_path / "damaged"
        path.write_bytes(data)
        try:
            if kind == "hdf5":
                file = Hdf5File(path, process)
                for dataset in file.datasets.values():
                    if dataset.type not in (None, "text"):
                        file.rows(dataset.name, 0, 2)
            else:
                held = LmdbFile(path, process)
                held.values(list(held.sizes)[:5])
        except SourceError as error:
            problems.append(str(error))
    assert all(len(problem) < 400 and problem.isprintable() for problem in problems)
    assert problems
    process.close()


def test_a_child_that_hangs_floods_or_lies_is_stopped(hdf5, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    monkeypatch.setattr(processes, "_CHILD", child)
    frame = "import struct, sys, time\nsys.stdin.readline()\n"
    frame += "def say(letter, data, size=None):\n"
    frame += "    sys.stdout.buffer.write(struct.pack('<cQ', letter, len(data) if size is None else size) + data)\n"
    frame += "    sys.stdout.buffer.flush()\n"
    for does, match in [
        ("time.sleep(60)", "took more than 1 s"),
        ("say(b'J', b'', 1 << 60)", "answers 1,152,921,504,606,846,976 bytes"),
        ("say(b'J', b'[[[')", "answers what is no JSON"),
        ("say(b'E', b'\\x1b[2J' * 5)", "could not read it"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    ]:
        child.write_text(frame + does + "\n")
        with pytest.raises(CheckpointError, match=match) as caught:
            Hdf5File(hdf5, Isolated("hdf5", seconds=1))
        assert str(caught.value).isprintable()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_memory_is_bounded(tmp_path):
    path = tmp_path / "nefs.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("params", (1 << 22, 8), "f4", data=np.zeros((1 << 22, 8), "f4"))
    opened = Hdf5File(path, Isolated("hdf5", memory=1 << 26))
    with pytest.raises(CheckpointError, match=r"more memory than is allowed|ended by|could not read it"):
        opened.rows("params")
    opened.close()


def test_links_are_not_followed_and_a_missing_library_is_named(hdf5, tmp_path, monkeypatch):
    link = tmp_path / "link.hdf5"
    link.symlink_to(hdf5)
    with pytest.raises(CheckpointError, match="link or a device"):
        Hdf5File(link)
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"needs h5py: pip install 'zoo-datasets\[populations\]'"):
        Hdf5File(hdf5)


def test_threads_share_a_process(hdf5):
    process = Isolated("hdf5")
    files = [Hdf5File(hdf5, process) for _ in range(4)]
    sums: list[float] = []
    threads = [
        threading.Thread(target=lambda file=file: sums.extend(float(file.rows("params").sum()) for _ in range(5)))
        for file in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [66.0] * 20
    process.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environment of a process as a file")
def test_secrets_do_not_reach_the_process(hdf5, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file = Hdf5File(hdf5)
    assert file._process._process is not None
    environ = Path(f"/proc/{file._process._process.pid}/environ")
    assert b"PATH=" in environ.read_bytes()
    assert b"hf_secret" not in environ.read_bytes()
    file.close()


def test_what_is_no_lmdb_file_is_refused_without_a_process(tmp_path):
    path = tmp_path / "data.mdb"
    for content in (b"", b"x" * 100, struct.pack("<16xIIQQ", 0xBEEFC0DE, 1, 0, 1 << 60)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="no LMDB file|claims a map"):
            LmdbFile(path)
