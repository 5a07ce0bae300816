"""Arrays of numpy: `.npz` with an array for each tensor, `.npy` with the flat weights of one model in each row."""

from __future__ import annotations

import io
import itertools
import math
import operator
from tokenize import TokenError
from typing import Final

import numpy as np

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES, MAX_DIMENSIONS
from zoo_datasets.builders.checkpoints.torch_file import MAX_TENSORS, Slices, StoredTensor, Structure
from zoo_datasets.builders.checkpoints.zips import read_directory, read_member, repeated
from zoo_datasets.builders.state_dicts.kinds import MAX_STATE, FileKind, common_prefix, prefix_note
from zoo_datasets.errors import CheckpointError
from zoo_datasets.networks.layout import WeightLayout

_MAGIC: Final = b"\x93NUMPY"
_FIXED = 12  # bytes of magic, version and length, the length of the later versions included
_LONGEST_HEADER = 10_000
_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
_END = ".npy"


def array_in(data: Slices, name: str, begin: int = 0) -> StoredTensor:
    """The one array of a `.npy` file that begins at a byte of `data`.

    Raises:
        CheckpointError: if it is not such a file, is cut short, or holds anything but numbers.
    """
    head = data[begin : begin + _FIXED + _LONGEST_HEADER]
    reader = _READERS.get(head[6]) if head.startswith(_MAGIC) and len(head) >= _FIXED else None
    if reader is None:
        raise CheckpointError("it is no array of numpy (.npy), or is cut short")
    stream = io.BytesIO(head)
    try:
        np.lib.format.read_magic(stream)
        axes, fortran, dtype = reader(stream, max_header_size=_LONGEST_HEADER)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"its header could not be read: {str(error)[:200]}") from error
    shape = tuple(int(length) for length in axes)
    if dtype.hasobject:
        raise CheckpointError("it holds Python objects, which are never loaded; save plain numbers")
    if dtype.byteorder == ">" or dtype.name not in ITEM_SIZES:
        raise CheckpointError(f"it holds {str(dtype)[:80]}, expected little-endian numbers")
    if len(shape) > MAX_DIMENSIONS or any(length < 0 for length in shape):
        raise CheckpointError(f"it has a shape of {len(shape)} axes, at most {MAX_DIMENSIONS} expected, from 0 on")
    stride = None
    size = math.prod(shape)
    if fortran and len(shape) > 1 and size:
        stride = tuple(itertools.accumulate(shape[:-1], operator.mul, initial=1))
    return StoredTensor(name, dtype.name, shape, begin + stream.tell(), size, stride)


def unpack_npz(data: Slices) -> bytes:
    """The `.npy` members of an archive one behind the other, each behind its size (8 bytes) and name (2 and more).

    Raises:
        CheckpointError: if it is not an archive, is broken or a bomb, or two members have one name.
    """
    members, _ = read_directory(lambda start, count: data[start : start + count], len(data), "it")
    if len(members) > MAX_TENSORS:
        raise CheckpointError(f"it holds {len(members):,} arrays, at most {MAX_TENSORS:,} expected")
    if twice := repeated(member.name for member in members):
        raise CheckpointError(f"its array {min(twice)[:80]!r} is there twice")
    parts: list[bytes] = []
    for member in members:
        if not member.name.endswith(_END):
            raise CheckpointError(f"its member {member.name[:80]!r} is no array (.npy)")
        content = read_member(lambda start, count: data[start : start + count], member, MAX_STATE)
        name = member.name.removesuffix(_END).encode()
        parts += [len(content).to_bytes(8, "little"), len(name).to_bytes(2, "little"), name, content]
    return b"".join(parts)


def describe_npz(data: Slices) -> FileKind:
    """The arrays of what `unpack_npz` gives.

    Raises:
        CheckpointError: if an array is cut short, or holds anything but numbers.
    """
    tensors: list[StoredTensor] = []
    pieces: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 8], "little")
        length = int.from_bytes(data[position + 8 : position + 10], "little")
        begin = position + 10 + length
        tensor = array_in(data, data[position + 10 : begin].decode(), begin)
        if tensor.start + tensor.size * ITEM_SIZES[tensor.dtype] != begin + size:
            raise CheckpointError(f"its array {tensor.name[:80]!r} has {size:,} bytes, its header says otherwise")
        tensors.append(tensor)
        pieces.append((position, data[position : tensor.start]))
        position = begin + size
    if not tensors:
        raise CheckpointError("it holds no arrays")
    prefix = common_prefix([tensor.name for tensor in tensors])
    named = tuple(
        StoredTensor(one.name[len(prefix) :], one.dtype, one.shape, one.start, one.size, one.stride) for one in tensors
    )
    starts, bytes_alike = zip(*pieces, strict=True)
    return FileKind(
        structure=Structure(len(data), named, starts, bytes_alike), remarks=prefix_note(prefix), whole=False
    )


def rows_kind(array: StoredTensor, layout: WeightLayout) -> FileKind:
    """The kind of each row of an array [rows, D] or [D], as if it were a file.

    Raises:
        CheckpointError: if it has another number of columns than the layout has weights.
    """
    width = array.shape[-1] if array.shape else 1
    if len(array.shape) not in (1, 2) or width != layout.size or array.stride is not None:
        order = " in Fortran's order" if array.stride is not None else ""
        raise CheckpointError(
            f"its array has shape {list(array.shape)}{order}, expected [rows, {layout.size:,}] as the layout has it"
        )
    item = ITEM_SIZES[array.dtype]
    tensors = tuple(
        StoredTensor(spec.name, array.dtype, spec.shape, item * spec.offset, spec.size, None) for spec in layout.tensors
    )
    return FileKind(structure=Structure(item * width, tensors, (), ()), whole=False)
