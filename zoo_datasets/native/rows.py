"""Rows of weights out of Arrow's memory into batches, with one copy or none.

`datasets` maps its Arrow files into memory, and a fixed-size list of floats lies there as plain numbers:
each chunk of the column is a matrix [rows, D]. `MappedRows` copies rows out of these matrices in any order.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.errors import LayoutError, NativeError
from zoo_datasets.native.compiler import compile_library

Positions = NDArray[np.int64]


def is_numbers_list(type_: pa.DataType) -> bool:
    """Whether a column of this type is a list of so many floats in every row, as the weights are."""
    return bool(pa.types.is_fixed_size_list(type_) and pa.types.is_floating(type_.value_type))


class ThreadMemory(threading.local):
    """Memory of a thread that each of its reads uses anew: fresh memory costs more than copying into it."""

    def __init__(self) -> None:
        self._all = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """uint8 [size], not initialised, until this is called again."""
        if size > self._all.size:
            self._all = np.empty(size, np.uint8)
        return self._all[:size]


class Recycled:
    """Memory for batches that is used again once nothing refers to the batch that it held.

    The system gives a large block page by page and clears each page, every time anew: that costs more than
    copying the weights into it. A batch that is kept keeps its memory; nothing is ever overwritten.
    """

    _KEPT = 16

    def __init__(self) -> None:
        # Batches are given back by whichever thread drops them: only single appends and pops are safe.
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=self._KEPT)

    def empty(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor [rows, width]."""
        size = rows * width * dtype.itemsize
        if not size:
            return torch.empty(rows, width, dtype=dtype)
        fitting = self._fitting(size)
        # The tensor, and each view of it, holds the lease; with the last of them it ends.
        lease = _bytes_at(fitting, size)
        weakref.finalize(lease, self._give_back, fitting).atexit = False
        return torch.frombuffer(lease, dtype=dtype).view(rows, width)

    def _fitting(self, size: int) -> NDArray[np.uint8]:
        for _ in range(self._KEPT):
            try:
                memory = self._idle.pop()
            except IndexError:
                break
            if size <= memory.nbytes <= 2 * size:
                return memory
            self._idle.appendleft(memory)
        return np.empty(size, np.uint8)

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        self._idle.append(memory)


def _bytes_at(memory: NDArray[Any], size: int) -> Any:
    """The first bytes of an array as a buffer that can be written, which holds the array."""
    buffer = (ctypes.c_char * size).from_address(memory.ctypes.data)
    buffer.owner = memory  # type: ignore[attr-defined]
    return buffer


class MappedRows:
    """The rows of a column of fixed-size lists of floats, where they lie.

    Attributes:
        width: D.
        dtype: of the numbers.

    Raises:
        LayoutError: if a row is null, or the column is of another type.
    """

    def __init__(self, column: pa.ChunkedArray, name: str) -> None:
        if not is_numbers_list(column.type):
            raise LayoutError(f"column {name!r} is {column.type}, expected a list of fixed length of floats")
        if column.null_count:
            raise LayoutError(f"column {name!r}: {column.null_count:,} of {len(column):,} rows are null, expected none")
        self.width: int = column.type.list_size
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        # Views: they hold the Arrow buffers, and so the mapping, alive.
        self._chunks: list[NDArray[Any]] = [
            chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.width) for chunk in chunks
        ]
        sizes = [len(chunk) for chunk in self._chunks]
        self._starts: Positions = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self._addresses: Positions = np.array([chunk.ctypes.data for chunk in self._chunks], np.int64)
        number = column.type.value_type.to_pandas_dtype()
        self.dtype: torch.dtype = torch.from_numpy(np.empty(0, number)).dtype
        # What the compiled functions take: bytes of a row, starts and addresses of the chunks, their number.
        row_bytes = self.width * np.dtype(number).itemsize
        self._table = (row_bytes, self._starts.ctypes.data, self._addresses.ctypes.data, len(self._chunks))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def view(self, start: int, stop: int) -> Tensor | None:
        """Rows start … stop − 1 without a copy, [stop − start, D]; None where they lie in several chunks.

        The memory is that of a file that is mapped read-only: whoever writes to the tensor is killed by the
        operating system.
        """
        chunk = self._chunk_of(start)
        first = int(self._starts[chunk])
        if stop <= start or stop > self._starts[chunk + 1]:
            return None
        part = self._chunks[chunk][start - first : stop - first]
        # As bytes at an address: torch warns of arrays that cannot be written.
        return torch.frombuffer(_bytes_at(part, part.nbytes), dtype=self.dtype).view(part.shape)

    def copy(self, start: int, stop: int, out: Tensor) -> None:
        """Copy rows start … stop − 1 into `out` [stop − start, D]."""
        library = native_library()
        if library is not None:
            library.zoo_copy(out.data_ptr(), start, stop - start, *self._table)
            return
        target = out.numpy()
        chunk, done = self._chunk_of(start), 0
        while done < stop - start:
            offset = start + done - int(self._starts[chunk])
            part = self._chunks[chunk][offset : offset + stop - start - done]
            target[done : done + len(part)] = part
            done += len(part)
            chunk += 1

    def gather(self, positions: Positions, out: Tensor) -> None:
        """Copy the rows at `positions` into `out` [len(positions), D], in this order.

        Raises:
            IndexError: if a position is outside.
        """
        library = native_library()
        if library is not None:
            positions = np.ascontiguousarray(positions)
            inside = library.zoo_gather(out.data_ptr(), positions.ctypes.data, len(positions), *self._table)
        else:
            inside = not len(positions) or bool(positions.min() >= 0 and positions.max() < len(self))
        if not inside:
            raise IndexError(f"positions from {positions.min()} to {positions.max()}, expected 0 to {len(self) - 1}")
        if library is None and len(positions):
            chunks = np.searchsorted(self._starts, positions, side="right") - 1
            offsets = (positions - self._starts[chunks]).tolist()
            rows = [self._chunks[chunk][row] for chunk, row in zip(chunks.tolist(), offsets, strict=True)]
            np.concatenate(rows, out=out.numpy().reshape(-1))

    def _chunk_of(self, position: int) -> int:
        return int(np.searchsorted(self._starts, position, side="right")) - 1


def reorder(target: Tensor, source: Tensor, shape: tuple[int, int, int], orders: Sequence[Tensor | None]) -> bool:
    """Copy a tensor of each row in another order of its axes; false where that has to be done in torch.

    Args:
        target, source: float32 [B, outs · ins · block], slices of contiguous [B, D].
        shape: (outs, ins, block).
        orders: int64 [B, outs] and [B, ins]; None where the axis stays as it is. Entries are not checked.
    """
    library = native_library()
    tensors = (target, source, *(order for order in orders if order is not None))
    if library is None or target.dtype != torch.float32 or any(tensor.device.type != "cpu" for tensor in tensors):
        return False
    held = [None if order is None else order.contiguous() for order in orders]
    places = [None if order is None else order.data_ptr() for order in held]
    library.zoo_reorder(target.data_ptr(), source.data_ptr(), len(source), source.stride(0), *shape, *places)
    return True


@functools.lru_cache(maxsize=1)
def native_library() -> Any:
    """rows.c, compiled; None where there is no C compiler, then numpy copies row by row."""
    try:
        library = compile_library((resources.files("zoo_datasets.native") / "rows.c").read_text(encoding="utf-8"))
    except NativeError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.zoo_copy.argtypes = [pointer, *[number] * 3, pointer, pointer, number]
    library.zoo_gather.argtypes = [pointer, pointer, number, number, pointer, pointer, number]
    library.zoo_reorder.argtypes = [pointer, pointer, *[number] * 5, pointer, pointer]
    library.zoo_place.argtypes = [pointer, number, number, pointer, pointer]
    library.zoo_cut.argtypes = [pointer, number, number, pointer, pointer, pointer]
    for function in (library.zoo_copy, library.zoo_reorder, library.zoo_place, library.zoo_cut):
        function.restype = None
    return library
