"""Rows of weights of any lengths, where Arrow holds them, into batches: padded, or cut into tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.errors import LayoutError
from zoo_datasets.native.rows import Positions, native_library

_FLOAT = 4


def is_ragged(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of floats of any length."""
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_float32(kind.value_type))


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """Some rows where they lie.

    Attributes:
        addresses, lengths: int64 [B], of each row's first number, and how many there are.
        owners: what holds the memory.
    """

    addresses: Positions
    lengths: Positions
    owners: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self) -> list[Tensor]:
        """The rows as float32 [D_i] each, copied."""
        return [torch.from_numpy(_at(int(address), int(length)).copy()) for address, length in self._pairs()]

    def padded(self, width: int = 0) -> Tensor:
        """The rows as float32 [B, width] with zeros behind them; as wide as the longest one at least."""
        width = max(width, int(self.lengths.max(initial=0)))
        out = torch.empty(len(self), width)
        library = native_library()
        if library is not None:
            sizes = np.ascontiguousarray(self.lengths * _FLOAT)
            library.zoo_place(out.data_ptr(), width * _FLOAT, len(self), *_places(self.addresses, sizes))
            return out
        target = out.numpy()
        target[:] = 0
        for row, (address, length) in enumerate(self._pairs()):
            target[row, :length] = _at(int(address), int(length))
        return out

    def matrix(self) -> Tensor:
        """The rows as float32 [B, D].

        Raises:
            LayoutError: if their lengths differ.
        """
        if len(self) and self.lengths.min() != self.lengths.max():
            raise LayoutError("the rows of a batch have weights of different lengths, which are no matrix [B, D]")
        return self.padded()

    def cut(self, plans: Sequence[NDArray[np.int32]], width: int) -> Tensor:
        """The rows as float32 [B, width], each in the pieces that its plan says, and zeros elsewhere.

        Args:
            plans: of each row, int32 [pieces, 3]: numbers of the row, of its place, and how many; places ascend.
        """
        out = torch.empty(len(self), width)
        library = native_library()
        if library is not None:
            distinct = {id(plan): plan for plan in plans}  # few, and looking up an address takes long
            addresses = {key: plan.ctypes.data for key, plan in distinct.items()}
            keys = [*map(id, plans)]
            starts = np.array([addresses[key] for key in keys], np.int64)
            counts = np.array([len(plan) for plan in plans], np.int64)
            library.zoo_cut(out.data_ptr(), width, len(self), *_places(self.addresses, starts, counts))
            return out
        target = out.numpy()
        target[:] = 0
        for row, (address, length) in enumerate(self._pairs()):
            numbers = _at(int(address), int(length))
            for start, place, count in plans[row].tolist():
                target[row, place : place + count] = numbers[start : start + count]
        return out

    def joined(self, other: RaggedBatch) -> RaggedBatch:
        """The rows of both."""
        return RaggedBatch(
            np.concatenate([self.addresses, other.addresses]),
            np.concatenate([self.lengths, other.lengths]),
            (*self.owners, *other.owners),
        )

    def _pairs(self) -> Any:
        return zip(self.addresses.tolist(), self.lengths.tolist(), strict=True)


class RaggedRows:
    """The rows of a column of lists of floats of any length, where they lie.

    Raises:
        LayoutError: if the column is of another type, or a row is null.
    """

    def __init__(self, column: pa.ChunkedArray, name: str) -> None:
        if not is_ragged(column.type):
            raise LayoutError(f"column {name!r} is {column.type}, expected lists of float32")
        if column.null_count:
            raise LayoutError(f"column {name!r}: {column.null_count:,} of {len(column):,} rows are null, expected none")
        starts, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        self._owners: list[NDArray[np.float32]] = []
        for chunk in column.chunks:
            if len(chunk):
                offsets = chunk.offsets.to_numpy().astype(np.int64)
                values = chunk.values.to_numpy(zero_copy_only=True)
                self._owners.append(values)
                starts.append(values.ctypes.data + offsets[:-1] * _FLOAT)
                lengths.append(np.diff(offsets))
        self._addresses: Positions = np.concatenate(starts)
        self._lengths: Positions = np.concatenate(lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def mean_bytes(self) -> int:
        """Bytes of a row, on average."""
        return _FLOAT * int(self._lengths.mean()) if len(self) else _FLOAT

    def batch(self, rows: slice | Positions) -> RaggedBatch:
        """Some rows, without a copy."""
        return RaggedBatch(self._addresses[rows], self._lengths[rows], (self._owners,))


def place_rows(rows: Sequence[Tensor], width: int) -> Tensor:
    """Contiguous tensors [L_i, …] of one dtype as [B, width, …], with zeros behind each."""
    first = rows[0]
    out = torch.empty(len(rows), width, *first.shape[1:], dtype=first.dtype)
    library = native_library()
    if library is None:
        out.zero_()
        for row, tensor in enumerate(rows):
            out[row, : len(tensor)] = tensor
        return out
    distinct = {id(tensor): tensor for tensor in rows}  # few
    places = {key: (tensor.data_ptr(), tensor.numel() * tensor.itemsize) for key, tensor in distinct.items()}
    addresses, sizes = np.array([places[id(tensor)] for tensor in rows], np.int64).T.copy()
    library.zoo_place(out.data_ptr(), out[0].numel() * out.itemsize, len(rows), *_places(addresses, sizes))
    return out


def _places(*arrays: NDArray[Any]) -> list[int]:
    """Addresses of contiguous arrays, which the caller holds."""
    assert all(array.flags.c_contiguous for array in arrays)
    return [array.ctypes.data for array in arrays]


def _at(address: int, length: int) -> NDArray[np.float32]:
    if not length:
        return np.empty(0, np.float32)
    numbers = (ctypes.c_float * length).from_address(address)
    return np.ctypeslib.as_array(numbers)
