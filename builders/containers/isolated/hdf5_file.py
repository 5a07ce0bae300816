"""HDF5 files: their datasets, and rows of them, read in a process of its own (see the package)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.zips import BOMB_FLOOR, BOMB_RATIO
from zoo_datasets.builders.containers.isolated.process import MAX_BLOCK, Isolated
from zoo_datasets.documents import brief
from zoo_datasets.errors import CheckpointError

_TYPES = frozenset({"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"})
_MAX_AXES, _MAX_LENGTH = 8, 1 << 48
_TEXT = "text"


@dataclass(frozen=True, slots=True)
class Hdf5Dataset:
    """What a file says of one of its datasets.

    Attributes:
        type: `f4`, `i8`, … as NumPy's; `text`; None for what is neither numbers nor texts.
    """

    name: str
    shape: tuple[int, ...]
    type: str | None

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of its first axis."""
        return math.prod(self.shape[1:]) * np.dtype(self.type).itemsize if self.type in _TYPES else 0


class Hdf5File:
    """An HDF5 file of this machine. Threads may share it.

    Args:
        process: one for HDF5 that several files may share; one of its own unless given.

    Raises:
        CheckpointError: if it cannot be read.
        SourceError: if h5py is not installed.
    """

    def __init__(self, path: Path, process: Isolated | None = None) -> None:
        self._path = path
        self._process = process or Isolated("hdf5")
        with self._process.opened(path):
            described = self._process.ask_json({"op": "datasets"})
            self._size = path.stat().st_size
        self.datasets: Mapping[str, Hdf5Dataset] = {dataset.name: dataset for dataset in _datasets(described)}

    def texts(self, name: str) -> list[str]:
        """The texts of a dataset.

        Raises:
            CheckpointError: if it holds none.
        """
        if self._dataset(name).type != _TEXT:
            raise CheckpointError(f"its dataset {brief(name)} holds no texts")
        with self._process.opened(self._path):
            texts = self._process.ask_json({"op": "texts", "name": name})
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise CheckpointError(f"its dataset {brief(name)} holds no texts")
        return texts

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.generic]:
        """Entries `start` to `stop` of the first axis of a dataset of numbers, in its dtype; a scalar as [1].

        Raises:
            CheckpointError: if there is no such dataset, or these are more than 256 MB, or more than the file can hold.
        """
        dataset = self._numbers(name)
        shape = dataset.shape or (1,)
        start, stop, _ = slice(start, stop).indices(shape[0])
        count = max(stop - start, 0)
        size = count * dataset.row_bytes
        if size > MAX_BLOCK:
            raise CheckpointError(
                f"{count:,} rows of {brief(name)} have {size:,} bytes, at most {MAX_BLOCK:,} expected"
            )
        with self._process.opened(self._path):
            data = self._process.ask_bytes({"op": "rows", "name": name, "start": start, "stop": stop}, size)
        return np.frombuffer(data, np.dtype(dataset.type).newbyteorder("<")).reshape(count, *shape[1:])

    def blocks(self, name: str, size: int = MAX_BLOCK // 8) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """All rows of a dataset of numbers in blocks of about `size` bytes, each with the number of its first row."""
        dataset = self._numbers(name)
        count = max(size // max(dataset.row_bytes, 1), 1)
        total = (dataset.shape or (1,))[0]
        for start in range(0, total, count):
            yield start, self.rows(name, start, min(start + count, total))

    def close(self) -> None:
        """End its process."""
        self._process.close()

    def _dataset(self, name: str) -> Hdf5Dataset:
        if name not in self.datasets:
            here = ", ".join(brief(other) for other in list(self.datasets)[:8]) or "none"
            raise CheckpointError(f"it has no dataset {brief(name)}; its datasets are {here}")
        return self.datasets[name]

    def _numbers(self, name: str) -> Hdf5Dataset:
        dataset = self._dataset(name)
        if dataset.type not in _TYPES:
            raise CheckpointError(f"its dataset {brief(name)} holds no numbers")
        claimed = (dataset.shape or (1,))[0] * dataset.row_bytes
        if claimed > max(BOMB_FLOOR, BOMB_RATIO * self._size):
            raise CheckpointError(
                f"its dataset {brief(name)} claims {claimed:,} bytes in a file of {self._size:,}; it was refused"
            )
        return dataset


def read_hdf5(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Some datasets of numbers of an HDF5 file, each as a whole, in its dtype.

    Raises:
        CheckpointError: if it cannot be read, lacks one, or one has more than 256 MB: `Hdf5File` reads them in blocks.
        SourceError: if h5py is not installed.
    """
    file = Hdf5File(path)
    try:
        return {name: file.rows(name) for name in names}
    finally:
        file.close()


def _datasets(described: object) -> Iterator[Hdf5Dataset]:
    """What the process says of the datasets, checked."""
    for entry in described if isinstance(described, list) else ():
        match entry:
            case [str() as name, list() as shape, (str() | None) as kind] if len(shape) <= _MAX_AXES and all(
                type(length) is int and 0 <= length < _MAX_LENGTH for length in shape
            ):
                yield Hdf5Dataset(name, tuple(shape), kind)
            case _:
                raise CheckpointError(f"it describes a dataset by {brief(entry)}")
