"""Where the tensors of a file lie, and their numbers: read from files of one structure at a time."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES, SHOWN
from zoo_datasets.builders.checkpoints.zips import CENTRAL_CRC, LOCAL_CRC, LOCAL_SIZE, LONGEST_LOCAL, Member, data_start
from zoo_datasets.errors import CheckpointError

_NO_CHECKSUMS = struct.Struct("<")
_NO_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ITEM_SIZES if name not in _NO_NUMPY}


class Slices(Protocol):
    """The bytes of a file: at hand, or read as they are sliced."""

    def __len__(self) -> int:
        """Size of the file."""

    def __getitem__(self, place: slice, /) -> bytes:
        """Some of its bytes."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a state dict: name, shape, and where its elements lie in the file.

    Attributes:
        start: byte of its first element.
        stride: in elements, as torch has it; None where the elements follow each other in row-major order.
        negative: whether its elements have the other sign than those in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    stride: tuple[int, ...] | None
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Structure:
    """What files of one kind have in common.

    Attributes:
        length: of the file in bytes.
        tensors: in the order of the state dict.
        wrapping: a sentence on what the file holds beside its state dict; empty where it holds nothing else.
    """

    length: int
    tensors: tuple[StoredTensor, ...]
    _starts: tuple[int, ...]
    _pieces: tuple[bytes, ...]
    _storages: tuple[slice, ...] = ()
    _places: tuple[int, ...] = ()
    _checksums: struct.Struct = _NO_CHECKSUMS
    wrapping: str = ""

    @property
    def pieces(self) -> list[tuple[int, bytes]]:
        """All bytes that are the same in files of this structure, with their starts."""
        return list(zip(self._starts, self._pieces, strict=True))

    @property
    def checksums(self) -> list[tuple[int, int, int]]:
        """For each CRC: start and length of the bytes it covers, and its own offset (4 bytes, little-endian)."""
        return [
            (data.start, data.stop - data.start, place)
            for data, place in zip(self._storages, self._places, strict=True)
        ]

    def fits(self, data: bytes) -> bool:
        """Whether a file describes the same tensors at the same places."""
        return len(data) == self.length and all(map(data.startswith, self._pieces, self._starts))

    def check(self, data: bytes) -> None:
        """Compare the tensors' bytes with their checksums.

        Raises:
            CheckpointError: if they differ.
        """
        crcs = tuple(map(crc32, map(memoryview(data).__getitem__, self._storages)))
        if self._storages and crcs != self._checksums.unpack(data):
            raise CheckpointError("the checksum of a tensor's bytes is wrong; the file is damaged")

    def gather(self, files: NDArray[np.uint8], tensor: StoredTensor) -> NDArray[np.float32]:
        """One tensor of many files, as float32 [K, size], a view where it can be; `files` is uint8 [K, length]."""
        if tensor.negative:
            return np.negative(self.gather(files, dataclasses.replace(tensor, negative=False)))
        return _in_order(_as_float(_span(files, tensor), tensor.dtype), tensor)

    def gather_bytes(self, files: NDArray[np.uint8], tensor: StoredTensor) -> NDArray[np.uint8]:
        """The elements of one tensor of many files as they are stored, uint8 [K, bytes].

        Raises:
            CheckpointError: if they are stored with the other sign.
        """
        if tensor.negative:
            raise CheckpointError(f"tensor {tensor.name[:SHOWN]!r} is stored negated; save tensor.resolve_neg()")
        span = _span(files, tensor)
        if tensor.stride is None:
            return span
        elements = _in_order(span.view(f"V{ITEM_SIZES[tensor.dtype]}"), tensor)
        return np.ascontiguousarray(elements).view(np.uint8).reshape(len(files), -1)


def _span(files: NDArray[np.uint8], tensor: StoredTensor) -> NDArray[np.uint8]:
    """The bytes of many files in which the elements of a tensor lie; the rows of a strided one are contiguous."""
    item = ITEM_SIZES[tensor.dtype]
    if tensor.stride is None:
        return files[:, tensor.start : tensor.start + tensor.size * item]
    reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True)) if tensor.size else 0
    return np.ascontiguousarray(files[:, tensor.start : tensor.start + reach * item])


def _in_order(flat: NDArray[Any], tensor: StoredTensor) -> NDArray[Any]:
    """The elements of a tensor, [K, size] in row-major order, from those of its span."""
    if tensor.stride is None:
        return flat
    strides = (flat.strides[0], *(flat.itemsize * step for step in tensor.stride))
    strided = np.lib.stride_tricks.as_strided(flat, (len(flat), *tensor.shape), strides, writeable=False)
    return strided.reshape(len(flat), tensor.size)


def as_files(files: Sequence[bytes]) -> NDArray[np.uint8]:
    """Files of one length as uint8 [K, length]."""
    return np.frombuffer(files[0] if len(files) == 1 else b"".join(files), np.uint8).reshape(len(files), -1)


def start_of(data: Slices, member: Member) -> int:
    """Where the bytes of a member begin."""
    return data_start(data[member.header : min(member.end, member.header + LONGEST_LOCAL)], member)


def _pieces(
    data: Slices, members: dict[str, Member], starts: dict[str, int]
) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    """All bytes that say what lies where: headers and directory without CRCs, data.pkl and byteorder."""
    ranges: list[tuple[int, int]] = []
    for name, member in members.items():
        begin = member.header
        ranges += [(begin, begin + LOCAL_CRC), (begin + LOCAL_CRC + 4, begin + LOCAL_SIZE + len(member.raw_name))]
        if name in ("data.pkl", "byteorder"):
            ranges.append((starts[name], starts[name] + member.size))
    position = min(member.record for member in members.values())
    for member in sorted(members.values(), key=lambda member: member.record):
        ranges.append((position, member.record + CENTRAL_CRC))
        position = member.record + CENTRAL_CRC + 4
    ranges.append((position, len(data)))
    return tuple(begin for begin, _ in ranges), tuple(data[begin:end] for begin, end in ranges)


def _checksums(
    length: int, members: dict[str, Member], starts: dict[str, int], used: set[str]
) -> tuple[tuple[slice, ...], tuple[int, ...], struct.Struct]:
    """Where storages and their checksums lie, and a struct that unpacks these from a file of `length` bytes."""
    storages, places, layout, position = [], [], "<", 0
    for name in sorted(used, key=lambda name: members[name].record):
        place = members[name].record + CENTRAL_CRC
        storages.append(slice(starts[name], starts[name] + members[name].size))
        places.append(place)
        layout += f"{place - position}xI"
        position = place + 4
    return tuple(storages), tuple(places), struct.Struct(f"{layout}{length - position}x")


def _as_float(stored: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """uint8 [K, bytes] as float32 [K, elements]; values that float32 cannot hold become infinite."""
    if dtype == "bfloat16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("float8"):
        flat = torch.from_numpy(np.array(stored, np.uint8)).view(getattr(torch, dtype))
        return cast(NDArray[np.float32], flat.to(torch.float32).numpy())
    if dtype.startswith("complex"):
        raise CheckpointError(f"a tensor holds {dtype}; weights are real numbers: save their real part as float32")
    values = stored.view(_DTYPES[dtype])
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def structure_of(
    data: Slices,
    members: dict[str, Member],
    starts: dict[str, int],
    tensors: tuple[StoredTensor, ...],
    wrapping: str = "",
) -> Structure:
    """The structure of an archive that holds these tensors."""
    used = {name for name in members if name.startswith("data/")}
    begins, pieces = _pieces(data, members, starts)
    storages, places, checksums = _checksums(len(data), members, starts, used)
    return Structure(len(data), tensors, begins, pieces, storages, places, checksums, wrapping)
