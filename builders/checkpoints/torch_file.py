"""Checkpoints of `torch.save`, read without `torch.load` and without running anything in them.

A checkpoint is a zip archive of stored members: data.pkl describes the tensors, data/<key> hold their bytes.
Members of one zoo differ only in those bytes (and their CRCs), so what a file describes is worked out once: a
`Structure` recognises the next file of its kind by comparing all other bytes, and then tensors are slices.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, cast

import numpy as np
import torch
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES, Plain, TensorStub
from zoo_datasets.builders.checkpoints.pickles import load_pickle
from zoo_datasets.builders.checkpoints.vocabulary import CHECKPOINT, Vocabulary
from zoo_datasets.builders.checkpoints.zips import (
    CENTRAL_CRC,
    ENCRYPTED,
    LOCAL_CRC,
    LOCAL_SIZE,
    LONGEST_LOCAL,
    STORED,
    Member,
    data_start,
    read_directory,
    repeated,
)
from zoo_datasets.errors import CheckpointError
from zoo_datasets.storage.instead import BEGINNING, instead
from zoo_datasets.text import printable

MAX_CHECKPOINT = 1 << 30
MAX_PICKLE = 1 << 24
MAX_TENSORS = 10_000

OLD_FORMAT = (
    "it is in torch's old format (before 1.6), which is not read; save it again: "
    "torch.save(torch.load(FILE, weights_only=True), FILE)"
)
# How deep in a file's dictionaries a state dict may lie, and what the names of weights end in.
_MAX_NESTING = 5
_WEIGHT = re.compile(r"(?:^|\.)weight(?:_orig|_g|_v|\.original\d*)?$")
_SHOWN = 60  # characters of a stranger's name
_NAMED = 5
_KNOWN_PER_SIZE = 4
_KNOWN_SIZES = 64
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
            raise CheckpointError(f"tensor {tensor.name[:_SHOWN]!r} is stored negated; save tensor.resolve_neg()")
        span = _span(files, tensor)
        if tensor.stride is None:
            return span
        elements = _in_order(span.view(f"V{ITEM_SIZES[tensor.dtype]}"), tensor)
        return np.ascontiguousarray(elements).view(np.uint8).reshape(len(files), -1)


class CheckpointReader:
    """Reads checkpoints; caches the structures it has seen. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Structure, ...]] = {}
        self._lock = threading.Lock()

    def structure(self, data: bytes) -> Structure:
        """The structure of a file, its checksums verified.

        Raises:
            CheckpointError: if it is not a checkpoint, is broken, or holds anything but tensors.
        """
        for candidate in self._known.get(len(data), ()):
            if candidate.fits(data):
                candidate.check(data)
                return candidate
        structure = parse_structure(data)
        structure.check(data)
        with self._lock:
            if len(data) not in self._known and len(self._known) >= _KNOWN_SIZES:
                self._known.pop(next(iter(self._known)))
            self._known[len(data)] = (*self._known.get(len(data), ()), structure)[-_KNOWN_PER_SIZE:]
        return structure


def read_tensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """The tensors of one checkpoint by name, as float32 in their shapes.

    Raises:
        CheckpointError: if it is not a checkpoint, is broken, or holds anything but tensors.
    """
    structure = CheckpointReader().structure(data)
    files = as_files([data])
    return {tensor.name: structure.gather(files, tensor).reshape(tensor.shape) for tensor in structure.tensors}


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


def open_archive(data: Slices, limit: int = MAX_CHECKPOINT) -> tuple[dict[str, Member], dict[str, int]]:
    """The members of a torch archive by their names without the archive's folder, and where their bytes begin.

    Raises:
        CheckpointError: if this is not an archive as torch writes it.
    """
    if len(data) > limit:
        raise CheckpointError(f"it has {len(data):,} bytes, at most {limit:,} expected")
    if text := instead(data[:BEGINNING]):
        raise CheckpointError(f"it {text}")
    if data[:2] != b"PK":
        problem = "it is empty" if not len(data) else "it is not a zip archive"
        old = data[:4] == b"\x80\x02\x8a\x0a"
        raise CheckpointError(
            OLD_FORMAT if old else f"{problem}, as torch.save writes; it is cut short or something else"
        )
    entries, counted = read_directory(lambda start, count: data[start : start + count], len(data), "it")
    if counted != len(entries):
        raise CheckpointError(
            f"it is broken: its end record counts {counted:,} members, its directory lists {len(entries):,}"
        )
    folder = entries[0].name.split("/")[0] if entries else ""
    members: dict[str, Member] = {}
    for member in entries:
        if member.method != STORED or member.size != member.compressed:
            raise CheckpointError(f"its member {member.name[:80]!r} is compressed; torch stores members as they are")
        if member.flags & ENCRYPTED:
            raise CheckpointError(f"its member {member.name[:80]!r} is encrypted; torch stores members as they are")
        members[member.name.removeprefix(f"{folder}/")] = member
    # Beside the folder's data.pkl there may be no other that takes its place.
    if twice := repeated(member.name.removeprefix(f"{folder}/") for member in entries):
        raise CheckpointError(f"its member {min(twice)[:80]!r} is there twice")
    starts = {name: _start_of(data, member) for name, member in members.items()}
    if "data.pkl" not in members:
        raise CheckpointError("it holds no data.pkl; this is a zip archive, but not one of torch.save")
    order = members.get("byteorder")
    if order is not None and data[starts["byteorder"] : starts["byteorder"] + order.size] != b"little":
        raise CheckpointError("it was written on a big-endian machine, which is not read")
    return members, starts


def member_bytes(data: Slices, members: dict[str, Member], starts: dict[str, int], name: str) -> bytes:
    """The bytes of a member, compared with its checksum."""
    content = data[starts[name] : starts[name] + members[name].size]
    if crc32(content) != members[name].crc:
        raise CheckpointError(f"the checksum of {name} is wrong; the file is damaged")
    return content


def parse_structure(data: bytes) -> Structure:
    """Work out the structure of a state dict's file.

    Raises:
        CheckpointError: if it is not a checkpoint, is broken, or holds anything but tensors.
    """
    members, starts = open_archive(data)
    state_dict, wrapping = _state_dict(read_pickle(data, members, starts, CHECKPOINT))
    return structure_of(data, members, starts, state_tensors(state_dict, members, starts), wrapping)


def read_pickle(data: Slices, members: dict[str, Member], starts: dict[str, int], vocabulary: Vocabulary) -> Any:
    """What an archive's data.pkl holds.

    Raises:
        CheckpointError: if it is too large, damaged, or names what is not in the vocabulary.
    """
    if members["data.pkl"].size > MAX_PICKLE:
        raise CheckpointError(f"its data.pkl has {members['data.pkl'].size:,} bytes, at most {MAX_PICKLE:,} expected")
    return load_pickle(member_bytes(data, members, starts, "data.pkl"), vocabulary)


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


def _state_dict(content: object) -> tuple[object, str]:
    """The one state dict in what a file holds, and a sentence on what is beside it.

    Raises:
        CheckpointError: if it holds several; what holds none is returned as it is, for `state_tensors` to refuse.
    """
    if not isinstance(content, (dict, list, tuple)) or all(
        isinstance(value, TensorStub) for _, value in _items(content)
    ):
        return content, ""
    state_dicts = list(_state_dicts(content))
    if not state_dicts:
        return content, ""
    if len(state_dicts) > 1:
        names = ", ".join(".".join(path)[:_SHOWN] or "its own tensors" for path, _ in state_dicts[:_NAMED])
        names = printable(names)
        raise CheckpointError(f"it holds {len(state_dicts)} state dicts ({names}); save the one that counts alone")
    ((path, state),) = state_dicts
    tensors = {name: value for name, value in state.items() if isinstance(value, TensorStub)}
    others = [str(key) for key, _ in _items(content) if str(key) not in (path[:1] or tensors)]
    others += [str(key) for key in state if path and key not in tensors]
    named = ", ".join(key[:_SHOWN] for key in others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
    what = (
        f"the state dict {'.'.join(path)[:_SHOWN]!r} of checkpoints was" if path else "the tensors of checkpoints were"
    )
    return tensors, printable(f"only {what} read" + (f", not {named}" if named else ""))


def _items(content: Any) -> Iterable[tuple[Any, Any]]:
    """The values in a dictionary, or in a list or tuple by their places."""
    return content.items() if isinstance(content, dict) else enumerate(content)


def _state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """The dictionaries in nested data that hold tensors named as weights are, each once, with the keys that lead to
    it."""
    queue: list[tuple[tuple[str, ...], Any]] = [((), content)]
    queued = {id(content)}
    for path, values in queue:
        names = (str(name) for name, value in _items(values) if isinstance(value, TensorStub))
        if isinstance(values, dict) and any(map(_WEIGHT.search, names)):
            yield path, values
        for key, value in _items(values):
            if isinstance(value, (dict, list, tuple)) and len(path) < _MAX_NESTING and id(value) not in queued:
                queued.add(id(value))
                queue.append(((*path, str(key)), value))


def state_tensors(
    state: object, members: dict[str, Member], starts: dict[str, int], shared: int = 0
) -> tuple[StoredTensor, ...]:
    """The tensors of a state dict, each lying wholly in its storage.

    No two may lie in the same place, unless all together have no more than `shared` bytes.

    Raises:
        CheckpointError: if it holds anything but tensors, or a storage is missing.
    """
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"it holds a {_kind(state)}, expected a state dict with tensors")
    if len(state) > MAX_TENSORS:
        raise CheckpointError(f"it holds {len(state):,} tensors, at most {MAX_TENSORS:,} expected")
    tensors = []
    spans: list[tuple[int, int, str]] = []
    for name, stub in state.items():
        if not isinstance(name, str) or not isinstance(stub, TensorStub):
            raise CheckpointError(
                f"its entry {str(name)[:80]!r} is a {_kind(stub)}, expected a tensor; save model.state_dict()"
            )
        tensors.append(_stored(name, stub, members, starts))
        reach = 1 + sum((n - 1) * s for n, s in zip(stub.shape, stub.stride, strict=True)) if stub.size else 0
        if reach:
            begin = tensors[-1].start
            spans.append((begin, begin + reach * ITEM_SIZES[stub.storage.dtype], name))
    total = sum(tensor.size * ITEM_SIZES[tensor.dtype] for tensor in tensors)
    spans.sort()
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        if begin < end and total > shared:
            raise CheckpointError(f"its tensors {one[:80]!r} and {other[:80]!r} lie on each other")
    return tuple(tensors)


def _kind(value: object) -> str:
    return str(value.name) if isinstance(value, Plain) else type(value).__name__


def _start_of(data: Slices, member: Member) -> int:
    return data_start(data[member.header : min(member.end, member.header + LONGEST_LOCAL)], member)


def _stored(name: str, stub: TensorStub, members: dict[str, Member], starts: dict[str, int]) -> StoredTensor:
    storage = stub.storage
    key = f"data/{storage.key}"
    if key not in members or PurePosixPath(key).name != storage.key:
        raise CheckpointError(f"the storage of {name[:80]!r} is missing: there is no member {key[:80]}")
    expected = storage.count * ITEM_SIZES[storage.dtype]
    if members[key].size != expected:
        raise CheckpointError(
            f"the storage of {name[:80]!r} has {members[key].size:,} bytes, expected {expected:,} "
            f"({storage.count:,} × {storage.dtype})"
        )
    start = starts[key] + stub.offset * ITEM_SIZES[storage.dtype]
    stride = None if stub.contiguous or not stub.size else stub.stride
    return StoredTensor(name, storage.dtype, stub.shape, start, stub.size, stride, stub.negative)


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
