"""A process that opens files with a C library, as its user sees it: requests, answers, and how it may end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from zoo_datasets.builders.containers.isolated.child import FRAME
from zoo_datasets.documents import MAX_JSON, brief, parse_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError

MEMORY: Final = 1 << 30  # bytes that reading one file may take
SECONDS: Final = 60  # that one answer may take
MAX_BLOCK: Final = 1 << 28  # bytes of one answer
_CHILD = Path(__file__).with_name("child.py")
# Of each kind: what it is called, and the module that reads it.
_KINDS: Final[Mapping[str, tuple[str, str]]] = {"hdf5": ("an HDF5 file", "h5py"), "lmdb": ("an LMDB file", "lmdb")}
# What the process needs to know of where it runs; it is told no secrets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
_LIBRARIES = {
    "HDF5_PLUGIN_PRELOAD": "::",  # no code of filters is loaded from anywhere
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def check_installed(kind: str, what: str) -> None:
    """See that what reads a kind of file is installed.

    Raises:
        SourceError: if it is not; says how to get it.
    """
    described, module = _KINDS[kind]
    if importlib.util.find_spec(module) is None:
        raise SourceError(f"{what} is {described}, which needs {module}: pip install 'zoo-datasets[populations]'")


class Isolated:
    """A process for files of one kind, one open at a time. Threads may share it, one at a time.

    Args:
        kind: `hdf5` or `lmdb`.
        memory: bytes that a file may take.
        seconds: that an answer may take.
    """

    def __init__(self, kind: str, memory: int = MEMORY, seconds: int = SECONDS) -> None:
        self._kind, self._memory, self._seconds = kind, memory, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._opened: Path | None = None
        self._lock = threading.RLock()
        self._end: weakref.finalize[Any, Any] | None = None

    @contextlib.contextmanager
    def opened(self, path: Path, map_bytes: int = 0) -> Iterator[None]:
        """Have a file open while requests are made; it stays open until another one is asked for.

        Args:
            map_bytes: of the file that may be mapped into memory.

        Raises:
            CheckpointError: if it is no regular file, or cannot be opened.
            SourceError: if what reads it is not installed.
        """
        with self._lock:
            if self._opened != path or self._process is None:
                self._open(path, map_bytes)
            yield

    def _open(self, path: Path, map_bytes: int) -> None:
        check_installed(self._kind, path.name)
        _check_regular(path)
        self._opened = path
        self.ask_json(
            {
                "op": "open",
                "kind": self._kind,
                "path": str(path.absolute()),
                "memory": self._memory,
                "map_bytes": map_bytes,
            }
        )

    def ask_json(self, request: Mapping[str, Any]) -> Any:
        """The answer to a request as a JSON value.

        Raises:
            CheckpointError: if the process ends, takes too long, or says what is wrong with the file.
        """
        letter, data = self._ask(request, MAX_JSON)
        try:
            if letter == b"J":
                return parse_json(data)
        except DocumentError as error:
            raise self._broken(f"answers what is no JSON: {error}") from None
        raise self._broken(f"answers {letter!a}, expected JSON")

    def ask_bytes(self, request: Mapping[str, Any], size: int) -> bytearray:
        """The answer to a request as bytes, of which there must be `size`.

        Raises:
            CheckpointError: as for `ask_json`, and if there are more or fewer.
        """
        letter, data = self._ask(request, size)
        if letter != b"B" or len(data) != size:
            raise self._broken(f"gives {len(data):,} bytes, expected {size:,}")
        return data

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._end is not None:
                self._end()
            self._process = self._opened = self._end = None

    def _ask(self, request: Mapping[str, Any], most: int) -> tuple[bytes, bytearray]:
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            late = threading.Event()
            timer = threading.Timer(self._seconds, _stop, (process, late))
            timer.daemon = True
            timer.start()
            try:
                process.stdin.write(json.dumps({**request, "seconds": self._seconds}).encode() + b"\n")
                process.stdin.flush()
                letter, size = FRAME.unpack(_exactly(process.stdout, FRAME.size))
                if size > max(most, 1 << 12):
                    raise self._broken(f"answers {size:,} bytes, at most {most:,} expected")
                data = _exactly(process.stdout, size)
            except (EOFError, OSError):
                raise self._ended(process, late.is_set()) from None
            finally:
                timer.cancel()
        if letter == b"E":
            text = data.decode("ascii", "replace")
            if request["op"] == "open":
                self._opened = None
            raise CheckpointError(f"{_KINDS[self._kind][1]} could not read it: {text[:300]}")
        return letter, data

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), self._kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | _LIBRARIES,
            )
            self._end = weakref.finalize(self, _end, self._process)
        return self._process

    def _broken(self, problem: str) -> CheckpointError:
        self.close()
        return CheckpointError(f"the process that reads it {problem}; the file is damaged or hostile")

    def _ended(self, process: subprocess.Popen[bytes], late: bool) -> CheckpointError:
        """The error of a process that is no more."""
        self.close()
        if late:
            return CheckpointError(f"reading it took more than {self._seconds} s; the file is damaged or hostile")
        code = process.returncode
        how = f"status {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        return CheckpointError(f"the process that read it ended by {how}; the file is damaged or hostile")


def _check_regular(path: Path) -> None:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError("it is a link or a device, which are not followed")
        with path.open("rb"):
            return
    except OSError as error:
        raise CheckpointError(f"it could not be read: {error.strerror or brief(str(error))}") from error


def _exactly(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return data


def _stop(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
