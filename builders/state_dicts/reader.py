"""Files of tensors in a container: what each holds, and many of them as one array."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import Slices, as_files
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.native_files import Template, library
from zoo_datasets.builders.state_dicts.kinds import MAX_STATE, FileKind
from zoo_datasets.builders.state_dicts.layouts import Filling, Moves
from zoo_datasets.builders.state_dicts.numpy_file import describe_npz, unpack_npz
from zoo_datasets.builders.state_dicts.safetensors_file import describe_safetensors
from zoo_datasets.builders.state_dicts.torch_state import describe_torch
from zoo_datasets.errors import CheckpointError
from zoo_datasets.native.rows import Recycled, ThreadMemory

# Files up to this size are read as a whole to see what they hold.
_SMALL = 1 << 20
_HELD_BYTES = 64_000_000
# What was read to see what small files hold is kept, so that it is not read again.
_KEPT_BYTES = 256_000_000
# After so many files of one kind the next ones are expected to be of it too.
_SURE = 4
_KNOWN_PER_SIZE, _KNOWN_SIZES = 8, 4096

Describe = Callable[[Slices], FileKind]
_BY_ENDING: Mapping[str, Describe] = {
    ".safetensors": describe_safetensors,
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), describe_torch),
}
NPZ = ".npz"
_CHANGED = "it holds other tensors than when it was first read; was it changed meanwhile? Run the command again"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of tensors, or a row of an array from byte `start` on."""

    path: str
    kind: FileKind
    start: int | None = None


@dataclass(frozen=True, slots=True)
class StateFile:
    """One state.

    Attributes:
        name: of its file; of a sharded one that of its index without the ending.
        parts: where its tensors lie.
        kinds: of its parts.
        row: its number in an array of several.
    """

    name: str
    parts: tuple[Part, ...]
    kinds: tuple[FileKind, ...]
    row: int | None = None

    @property
    def shown(self) -> str:
        """For messages and lists."""
        return self.name if self.row is None else f"{self.name}[{self.row}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class StatesRead:
    """Some states of one layout.

    Attributes:
        good: positions of those that were read, ascending.
        reasons: why the others were not, by position.
        weights: float32 [len(good), D].
        raw: the bytes of the raw tensors of each; None where the layout has none.
    """

    good: list[int]
    reasons: dict[int, str]
    weights: NDArray[np.float32]
    raw: list[bytes] | None


class StateReader:
    """Describes and reads the files of a container. Threads may share it."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._known: dict[tuple[str, int], tuple[FileKind, ...]] = {}
        self._templates: dict[FileKind, Template] = {}
        self._kept: dict[str, tuple[NDArray[np.uint8], int]] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._memory = ThreadMemory()
        self._recycled = Recycled()
        library()  # compiled before threads ask for it

    def describe(self, paths: Sequence[str]) -> dict[str, FileKind | str]:
        """By path what a file holds, or why it cannot be read; of large files no tensors are read."""
        kinds: dict[str, FileKind | str] = {}
        usual: FileKind | None = None
        run, position = 0, 0
        while position < len(paths):
            if usual is not None and run >= _SURE and usual.structure.length <= _SMALL:
                here = paths[position : position + min(run * 4, _HELD_BYTES // usual.structure.length)]
                good = self._alike(here, usual)
                kinds |= {path: usual for path, fine in zip(here, good, strict=True) if fine}
                run = run + len(here) if all(good) else 0
                others = [path for path, fine in zip(here, good, strict=True) if not fine]
                position += len(here)
            else:
                others = [paths[position]]
                position += 1
            for path in others:
                kinds[path] = kind = self._described(path)
                run = run + 1 if kind is usual else 1
                usual = kind if isinstance(kind, FileKind) and kind.whole else None
        return kinds

    def _alike(self, paths: Sequence[str], kind: FileKind) -> list[bool]:
        """Which files are of a kind."""
        size = len(paths) * kind.structure.length
        keep = self._kept_bytes + size <= _KEPT_BYTES
        self._kept_bytes += size if keep else 0
        memory = np.empty(size + 1, np.uint8) if keep else self._memory.take(size + 1)
        good = self._container.read_alike(paths, self._template(kind), memory)
        if good is None:
            return [False] * len(paths)
        if keep:
            files = memory[:-1].reshape(len(paths), -1)
            self._kept.update({path: (files, row) for row, path in enumerate(paths) if good[row]})
        fine: list[bool] = good.tolist()
        return fine

    def _described(self, path: str) -> FileKind | str:
        ending = f".{path.rsplit('.', 1)[-1].lower()}"
        try:
            if ending == NPZ:
                return self._kind(ending, unpack_npz(self._container.read(path, MAX_STATE)), describe_npz)
            describe = _BY_ENDING[ending]
            with self._container.opened(path, MAX_STATE) as data:
                small = len(data) <= _SMALL
                return self._kind(ending, data[: len(data)], describe) if small else describe(data)
        except CheckpointError as error:
            return str(error)

    def _kind(self, ending: str, data: bytes, describe: Describe) -> FileKind:
        """The kind of a small file: one object for all files of a kind."""
        key = (ending, len(data))
        for kind in self._known.get(key, ()):
            if kind.structure.fits(data):
                return kind
        kind = describe(data)
        with self._lock:
            if key not in self._known and len(self._known) >= _KNOWN_SIZES:
                self._known.pop(next(iter(self._known)))
            self._known[key] = (*self._known.get(key, ()), kind)[-_KNOWN_PER_SIZE:]
        return kind

    def _template(self, kind: FileKind) -> Template:
        template = self._templates.get(kind)
        if template is None:
            with self._lock:
                template = self._templates[kind] = Template.of(kind.structure)
        return template

    def read(self, states: Sequence[StateFile], filling: Filling) -> StatesRead:
        """Some states of one layout."""
        job = _Read(len(states), filling, self._recycled)
        alike: dict[FileKind, list[int]] = {}
        single: list[int] = []
        for position, state in enumerate(states):
            (*others, part) = state.parts
            if not others and part.start is None and part.kind.whole and part.kind.structure.length <= _HELD_BYTES // 8:
                alike.setdefault(part.kind, []).append(position)
            else:
                single.append(position)
        for kind, positions in alike.items():
            if len(positions) == 1:
                single += positions
                continue
            step = max(_HELD_BYTES // kind.structure.length, 1)
            for start in range(0, len(positions), step):
                single += self._read_alike(states, kind, positions[start : start + step], job)
        for position in sorted(single):
            try:
                for part in states[position].parts:
                    job.fill([position], part.kind, as_files([self._content(part)]))
            except CheckpointError as error:
                job.reasons[position] = str(error)
        return job.result()

    def _read_alike(self, states: Sequence[StateFile], kind: FileKind, positions: list[int], job: _Read) -> list[int]:
        """Read whole files of one kind; returns the positions of those that are not of it after all."""
        paths = [states[position].parts[0].path for position in positions]
        if (kept := self._from_kept(paths)) is not None:
            for files, rows, numbers in kept:
                job.fill([positions[number] for number in numbers], kind, files, rows)
            return []
        length = kind.structure.length
        memory = self._memory.take(len(positions) * length + 1)
        good = self._container.read_alike(paths, self._template(kind), memory)
        if good is None:
            return positions
        files = memory[:-1].reshape(len(positions), length)
        if not good.all():
            files = files[good]
        fine = [position for position, is_good in zip(positions, good, strict=True) if is_good]
        job.fill(fine, kind, files)
        return [position for position, is_good in zip(positions, good, strict=True) if not is_good]

    def _from_kept(self, paths: Sequence[str]) -> list[tuple[NDArray[np.uint8], list[int], list[int]]] | None:
        """Files that were kept: arrays of files, uint8 [K, length], which rows of each are wanted, and for which of
        the paths; None where one was not kept."""
        blocks: dict[int, tuple[NDArray[np.uint8], list[int], list[int]]] = {}
        for number, path in enumerate(paths):
            place = self._kept.get(path)
            if place is None:
                return None
            files, row = place
            _, rows, numbers = blocks.setdefault(id(files), (files, [], []))
            rows.append(row)
            numbers.append(number)
        return list(blocks.values())

    def _content(self, part: Part) -> bytes:
        """The bytes that the structure of a part's kind describes, compared with it and their checksums."""
        structure = part.kind.structure
        if part.start is not None:
            with self._container.opened(part.path, MAX_STATE) as data:
                content = data[part.start : part.start + structure.length]
        else:
            content = self._container.read(part.path, MAX_STATE)
            if part.path.lower().endswith(NPZ):
                content = unpack_npz(content)
        if not structure.fits(content):
            raise CheckpointError(_CHANGED)
        structure.check(content)
        return content


class _Read:
    """Weights and raw tensors of some states, filled in any order."""

    def __init__(self, count: int, filling: Filling, recycled: Recycled) -> None:
        self._filling = filling
        self._weights = recycled.empty(count, filling.layout.size, torch.float32).numpy()
        raw = filling.layout.raw_bytes
        self._raw = np.empty((count, raw), np.uint8) if raw else None
        self._count = count
        self.reasons: dict[int, str] = {}

    def fill(
        self, positions: Sequence[int], kind: FileKind, files: NDArray[np.uint8], chosen: list[int] | None = None
    ) -> None:
        """Take what files of one kind hold of the layout's tensors.

        Args:
            files: uint8 [len(positions), length], unless only some are chosen.
        """
        if not positions:
            return
        start, stop = positions[0], positions[-1] + 1
        rows = slice(start, stop) if stop - start == len(positions) else positions
        moves = self._filling.moves(kind)
        these = slice(None) if chosen is None else chosen
        if chosen is not None and len(positions) == self._count and len(moves.flat) == 1:
            self._weights = kind.structure.gather(files, moves.flat[0].tensor)[these]
            moves = Moves((), moves.raw)
        for move in moves.flat:
            values = kind.structure.gather(files, move.tensor)
            self._weights[rows, move.start : move.start + move.tensor.size] = values[these]
        if self._raw is not None:
            for move in moves.raw:
                stored = kind.structure.gather_bytes(files, move.tensor)
                self._raw[rows, move.start : move.start + stored.shape[1]] = stored[these]

    @cached_property
    def _good(self) -> list[int]:
        return [position for position in range(self._count) if position not in self.reasons]

    def result(self) -> StatesRead:
        """What was read."""
        every = len(self._good) == self._count
        weights = self._weights if every else self._weights[self._good]
        raw = None if self._raw is None else [self._raw[position].tobytes() for position in self._good]
        return StatesRead(good=self._good, reasons=self.reasons, weights=weights, raw=raw)
