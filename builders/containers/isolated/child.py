"""The process that opens files with a C library. It is run by its path, and imports nothing of this package.

It reads requests, a line of JSON each, and answers each with one frame: a letter, the length as 8 bytes, little-endian,
and the content. `J` is JSON, `B` bytes, `E` the text of an error.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # Windows has no such limits; the time limit of who started the process remains
    resource = None  # type: ignore[assignment]

FRAME = struct.Struct("<cQ")
_LONGEST_ERROR = 300
_MAX_DATASETS, _MAX_DEPTH = 10_000, 16
_MAX_TEXTS, _MAX_TEXT_BYTES = 10_000, 1 << 24
_FILTERS = frozenset({"gzip", "lzf", "szip", None})  # that are part of the library
_FILES = 64  # descriptors that the process may hold
_UNIT = 1024

Answer = Callable[[Mapping[str, Any]], Any]


def limit(memory: int, map_bytes: int) -> None:
    """Bound what the process may take for a file: bytes of memory, bytes of the file mapped."""
    if resource is None:
        return
    for kind, room in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_AS, memory + map_bytes)):
        _limit(kind, _mapped() + room)
    _limit(resource.RLIMIT_NOFILE, _FILES)
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):  # it writes no file
        _limit(kind, 0)


def limit_computing(seconds: int) -> None:
    """Bound the seconds of computing from now on."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds + 1)


def _limit(kind: int, value: int) -> None:
    assert resource is not None
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    except (ValueError, OSError):  # a system that does not know this limit
        return


def _mapped() -> int:
    """Bytes of address space that the process has; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib is not worth its import here
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 30


class Hdf5:
    """An HDF5 file."""

    def __init__(self, path: str) -> None:
        import h5py

        self._library = h5py
        self._file = h5py.File(path, "r", locking=False)
        self.answers: Mapping[str, Answer] = {"datasets": self._datasets, "rows": self._rows, "texts": self._texts}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _datasets(self, request: Mapping[str, Any]) -> Any:
        return [[name, list(held.shape or ()), self._type_of(held)] for name, held in self._walk(self._file, "", 0)]

    def _walk(self, group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        """The datasets of this file; links into other files are not followed."""
        count = 0
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, self._library.HardLink) or depth > _MAX_DEPTH:
                continue
            held = group[name]
            inside = self._walk(held, f"{prefix}{name}/", depth + 1) if _is_group(held) else [(f"{prefix}{name}", held)]
            for entry in inside:
                count += 1
                if count > _MAX_DATASETS:
                    raise ValueError(f"it holds more than {_MAX_DATASETS:,} datasets")
                yield entry

    def _type_of(self, dataset: Any) -> str | None:
        """`f4`, `i8`, … of numbers, `text` of texts, None of what is neither."""
        if dataset.dtype.kind in "biuf":
            return f"{dataset.dtype.kind}{dataset.dtype.itemsize}"
        return None if self._library.check_string_dtype(dataset.dtype) is None else "text"

    def _dataset(self, request: Mapping[str, Any]) -> Any:
        group = self._file
        parts = request["name"].split("/")
        for part in parts:
            if not isinstance(group.get(part, getlink=True), self._library.HardLink):
                raise ValueError(f"{part!a} is no part of this file")
            group = group[part]
        if _is_group(group):
            raise ValueError("a group, no dataset")
        if group.external or group.is_virtual:
            raise ValueError("its values lie in other files, which are not read")
        if group.chunks is not None and group.compression not in _FILTERS:
            raise ValueError("it is compressed by a filter that is not part of the library")
        return group

    def _rows(self, request: Mapping[str, Any]) -> Any:
        import numpy as np

        dataset = self._dataset(request)
        values = dataset[request["start"] : request["stop"]] if dataset.shape else dataset[()]
        array = np.ascontiguousarray(values)
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()

    def _texts(self, request: Mapping[str, Any]) -> Any:
        dataset = self._dataset(request)
        if dataset.size > _MAX_TEXTS:
            raise ValueError(f"it holds {dataset.size:,} texts, at most {_MAX_TEXTS:,} expected")
        values = dataset[()]
        values = [values] if isinstance(values, (bytes, str)) else list(values.ravel())
        texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
        if sum(map(len, texts)) > _MAX_TEXT_BYTES:
            raise ValueError(f"its texts have more than {_MAX_TEXT_BYTES:,} characters")
        return texts


def _is_group(held: Any) -> bool:
    return hasattr(held, "keys")


class Lmdb:
    """An LMDB environment: one file of keys and values."""

    def __init__(self, path: str) -> None:
        import lmdb

        self._environment = lmdb.open(
            path, subdir=False, readonly=True, lock=False, create=False, readahead=False, max_dbs=0
        )
        self.answers: Mapping[str, Answer] = {"keys": self._keys, "values": self._values}

    def close(self) -> None:
        """Close the file."""
        self._environment.close()

    def _keys(self, request: Mapping[str, Any]) -> Any:
        """Some keys after one, in the order of the file, as latin-1, each with the size of its value."""
        entries: list[tuple[str, int]] = []
        with self._environment.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            after = request["after"]
            more = cursor.first() if after is None else cursor.set_range(after.encode("latin-1"))
            while more and len(entries) < request["count"]:
                key = bytes(cursor.key()).decode("latin-1")
                if key != after:
                    entries.append((key, len(cursor.value())))
                more = cursor.next()
        return entries

    def _values(self, request: Mapping[str, Any]) -> Any:
        """The values of some keys, each of the size that is asked for, one after the other."""
        parts = []
        with self._environment.begin(buffers=True) as transaction:
            for key, size in request["keys"]:
                value = transaction.get(key.encode("latin-1"))
                if value is None or len(value) != size:
                    raise ValueError(f"the value of {key!a} is gone, or of another size")
                parts.append(bytes(value))
        return b"".join(parts)


OPENERS: Mapping[str, Callable[[str], Any]] = {"hdf5": Hdf5, "lmdb": Lmdb}


def answer(request: Mapping[str, Any], held: Any) -> tuple[Any, Any]:
    """What to say to a request, and the file that is open after it."""
    limit_computing(request["seconds"])
    if request["op"] != "open":
        return held.answers[request["op"]](request), held
    if held is not None:
        held.close()
    limit(request["memory"], request["map_bytes"])
    return {}, OPENERS[request["kind"]](request["path"])


def serve(requests: BinaryIO, answers: BinaryIO, kind: str) -> None:
    """Answer requests until there are no more."""
    __import__({"hdf5": "h5py", "lmdb": "lmdb"}[kind])  # before memory is bounded
    held: Any = None
    for line in requests:
        try:
            content, held = answer(json.loads(line), held)
            letter, data = (b"B", content) if isinstance(content, bytes) else (b"J", json.dumps(content).encode())
        except MemoryError:
            letter, data = b"E", b"it needs more memory than is allowed for one file"
        except Exception as error:  # noqa: BLE001 - whatever a library raises is told, and is no reason to end
            text = f"{type(error).__name__}: {error}"
            letter, data = b"E", text[:_LONGEST_ERROR].encode("ascii", "backslashreplace")
        answers.write(FRAME.pack(letter, len(data)))
        answers.write(data)
        answers.flush()


def main() -> None:
    """Answer on what was the standard output, which nothing else may print to."""
    answers = os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.close(silent)
    serve(sys.stdin.buffer, answers, sys.argv[1])


if __name__ == "__main__":
    main()
