"""LMDB files: their keys and values, read in a process of its own (see the package)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo_datasets.builders.containers.isolated.process import MAX_BLOCK, Isolated
from zoo_datasets.documents import brief
from zoo_datasets.errors import CheckpointError

DATA = "data.mdb"
MAX_KEYS = 1_000_000
_LISTED_AT_ONCE = 10_000
_MAX_MAP = 1 << 46
# Of the first page: 16 bytes of its header, magic number, version, address, size of the map.
_FIRST = struct.Struct("<16xIIQQ")
_MAGIC = 0xBEEFC0DE


class LmdbFile:
    """The data file of an LMDB environment of this machine. Threads may share it.

    Args:
        process: one for LMDB, which many files may share; one of its own unless given.
        sizes: of values that are known to be there, so that keys are not listed.

    Attributes:
        sizes: bytes of each value, by key (as latin-1), in the order of the file.

    Raises:
        CheckpointError: if it cannot be read.
        SourceError: if lmdb is not installed.
    """

    def __init__(self, path: Path, process: Isolated | None = None, sizes: Mapping[str, int] | None = None) -> None:
        self._path = path
        self._process = process or Isolated("lmdb")
        self._map_bytes = _map_bytes(path)
        self.sizes: Mapping[str, int] = self._listed() if sizes is None else sizes

    def _listed(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        total = self._path.stat().st_size
        after: str | None = None
        while True:
            with self._process.opened(self._path, self._map_bytes):
                entries = self._process.ask_json({"op": "keys", "after": after, "count": _LISTED_AT_ONCE})
            for entry in entries if isinstance(entries, list) else [entries]:
                match entry:
                    case [str() as key, int() as size] if 0 <= size <= total and key not in sizes:
                        sizes[key] = size
                    case _:
                        raise CheckpointError(f"it lists a key as {brief(entry)}; the file is damaged or hostile")
            if len(sizes) > MAX_KEYS:
                raise CheckpointError(f"it holds more than {MAX_KEYS:,} keys")
            if len(entries) < _LISTED_AT_ONCE:
                return sizes
            after = entries[-1][0]

    def values(self, keys: Sequence[str]) -> list[memoryview]:
        """The values of some keys.

        Raises:
            CheckpointError: if one is not there, or they have more than 256 MB.
        """
        if missing := next((key for key in keys if key not in self.sizes), None):
            raise CheckpointError(f"it has no key {brief(missing)}")
        sizes = [self.sizes[key] for key in keys]
        if sum(sizes) > MAX_BLOCK:
            raise CheckpointError(f"{len(keys):,} values have {sum(sizes):,} bytes, at most {MAX_BLOCK:,} expected")
        with self._process.opened(self._path, self._map_bytes):
            wanted = list(zip(keys, sizes, strict=True))
            data = memoryview(self._process.ask_bytes({"op": "values", "keys": wanted}, sum(sizes)))
        values, start = [], 0
        for size in sizes:
            values.append(data[start : start + size])
            start += size
        return values

    def close(self) -> None:
        """End its process."""
        self._process.close()


def _map_bytes(path: Path) -> int:
    """How much address space the file says that it takes.

    Raises:
        CheckpointError: if it is no LMDB file.
    """
    try:
        with path.open("rb") as file:
            first = file.read(_FIRST.size)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"it could not be read: {error.strerror or error}") from error
    magic, _, _, claimed = _FIRST.unpack(first) if len(first) == _FIRST.size else (0, 0, 0, 0)
    if magic != _MAGIC:
        raise CheckpointError("it is no LMDB file of a little-endian machine, or is cut short")
    if claimed > _MAX_MAP:
        raise CheckpointError(f"it claims a map of {claimed:,} bytes, at most {_MAX_MAP:,} expected")
    return max(int(claimed), size)
