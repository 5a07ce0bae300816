"""The checkpoints of one raw zoo: what most of them are, and many of them as one array."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints import MAX_CHECKPOINT, CheckpointReader, Structure
from zoo_datasets.builders.containers import Container
from zoo_datasets.builders.native_files import Template
from zoo_datasets.builders.raw_trials import RawFolder, Trial
from zoo_datasets.builders.recognise import Recognised, acting_weights, fits, recognise
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.gather import Recycled

_PROBES = 9
_KNOWN = 1000


@dataclass(kw_only=True, slots=True)
class Weights:
    """Some checkpoints.

    Attributes:
        good: positions of those that were read, ascending.
        reasons: why the others were not, by position.
        weights: float32 [len(good), D], the weights that act.
        noise, means: log σ² of twins by variational dropout and their weights before pruning, in the same order; else
            None.
        converted: files by the type of elements that became float32.
    """

    good: list[int]
    reasons: dict[int, str]
    weights: NDArray[np.float32]
    noise: NDArray[np.float32] | None = None
    means: NDArray[np.float32] | None = None
    converted: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Group:
    """Files of one structure: their positions, and their bytes as uint8 [K, length]."""

    recognised: Recognised
    positions: Sequence[int]
    files: NDArray[np.uint8]


class _Memory(threading.local):
    """Memory of a thread that each of its reads uses anew: fresh memory costs more than copying into it."""

    def __init__(self) -> None:
        self._all = np.empty(0, np.uint8)
        self._used = 0

    def reset(self) -> None:
        """What was taken is not needed any more."""
        self._used = 0

    def take(self, size: int) -> NDArray[np.uint8]:
        """uint8 [size], not initialised."""
        if self._used + size > self._all.size:
            # What was taken before stays with who took it.
            self._all = np.empty(self._used + size, np.uint8)
        part = self._all[self._used : self._used + size]
        self._used += size
        return part


class RawCheckpoints:
    """Reads the checkpoints of a zoo, all of which must be of the kind that most are. Threads may read at a time."""

    def __init__(self, container: Container, folder: RawFolder) -> None:
        self._container = container
        self._reader = CheckpointReader()
        self._recognised: dict[int, tuple[Structure, Recognised | str]] = {}
        self._templates: dict[int, tuple[Structure, Template]] = {}
        # By the trial's name where its checkpoints are not as most are.
        self._expected: dict[str, Recognised] = {}
        self._lock = threading.Lock()
        self._memory = _Memory()
        self._recycled = Recycled()
        self.kind = self._probe(folder)
        self._recognised[id(self.kind.structure)] = (self.kind.structure, self.kind)

    def read(self, states: Sequence[tuple[Trial, int]]) -> Weights:
        """Some trials, each at an epoch; those of one structure are sliced together."""
        self._memory.reset()
        groups, rest = self._read_alike(states)
        reasons: dict[int, str] = {}
        single: dict[int, tuple[Recognised, list[int], list[bytes]]] = {}
        for position in rest:
            try:
                recognised, data = self._read(*states[position])
            except CheckpointError as error:
                reasons[position] = str(error)
                continue
            _, positions, files = single.setdefault(id(recognised), (recognised, [], []))
            positions.append(position)
            files.append(data)
        groups += [_Group(found, positions, self._together(files)) for found, positions, files in single.values()]
        if not reasons and len(groups) == 1:
            (group,) = groups
            acting, noise, means = acting_weights(group.recognised, group.files, self._empty)
            counts = Counter(dict.fromkeys(group.recognised.converted, len(acting)))
            good = list(group.positions)
            return Weights(good=good, reasons=reasons, weights=acting, noise=noise, means=means, converted=counts)
        return self._merged([p for p in range(len(states)) if p not in reasons], reasons, groups)

    def _empty(self, shape: tuple[int, int], dtype: type[np.float32]) -> NDArray[np.float32]:
        return self._recycled.empty(*shape, torch.float32).numpy()

    def _merged(self, good: list[int], reasons: dict[int, str], groups: Sequence[_Group]) -> Weights:
        """The weights of several groups in the order of their positions."""
        row = {position: number for number, position in enumerate(good)}
        found = Weights(good=good, reasons=reasons, weights=np.empty((len(good), self.kind.layout.size), np.float32))
        for group in groups:
            rows = [row[position] for position in group.positions]
            acting, noise, means = acting_weights(group.recognised, group.files)
            found.weights[rows] = acting
            if noise is not None and means is not None:
                if found.noise is None or found.means is None:
                    found.noise, found.means = np.full_like(found.weights, -np.inf), found.weights.copy()
                found.noise[rows], found.means[rows] = noise, means
            elif found.means is not None:
                found.means[rows] = acting
            for dtype in group.recognised.converted:
                found.converted[dtype] += len(rows)
        return found

    def _read_alike(self, states: Sequence[tuple[Trial, int]]) -> tuple[list[_Group], list[int]]:
        """Read those that are of the structure that their trial's others have; gives them, and the positions of the
        others."""
        expected: dict[int, tuple[Recognised, list[int], list[str]]] = {}
        rest = []
        for position, (trial, epoch) in enumerate(states):
            recognised = self._expected.get(trial.name, self.kind)
            path = trial.checkpoint(epoch)
            if path is None:
                rest.append(position)
                continue
            _, positions, paths = expected.setdefault(id(recognised), (recognised, [], []))
            positions.append(position)
            paths.append(path)
        groups = []
        for recognised, positions, paths in expected.values():
            template = self._template(recognised.structure)
            memory = self._memory.take(len(paths) * template.length + 1)
            good = self._container.read_alike(paths, template, memory)
            if good is None:
                rest += positions
                continue
            files = memory[:-1].reshape(len(paths), template.length)
            if not good.all():
                rest += [position for position, fine in zip(positions, good, strict=True) if not fine]
                positions = [position for position, fine in zip(positions, good, strict=True) if fine]
                files = files[good]
            if positions:
                groups.append(_Group(recognised, positions, files))
        return groups, sorted(rest)

    def _template(self, structure: Structure) -> Template:
        kept = self._templates.get(id(structure))
        if kept is not None and kept[0] is structure:
            return kept[1]
        with self._lock:
            if len(self._templates) >= _KNOWN:
                self._templates.clear()
            template = Template.of(structure)
            self._templates[id(structure)] = (structure, template)
            return template

    def _together(self, files: Sequence[bytes]) -> NDArray[np.uint8]:
        """Files of one length as uint8 [K, length]."""
        length = len(files[0])
        memory = self._memory.take(len(files) * length)
        view = memory.data
        for row, data in enumerate(files):
            view[row * length : (row + 1) * length] = data
        return memory.reshape(len(files), length)

    def _read(self, trial: Trial, epoch: int) -> tuple[Recognised, bytes]:
        path = trial.checkpoint(epoch)
        if epoch not in trial.epochs:
            raise CheckpointError("there is no checkpoint of this epoch, though result.json reports it")
        if path is None:
            raise CheckpointError("its checkpoint folder holds no file named checkpoints")
        data = self._container.read(path, MAX_CHECKPOINT)
        recognised = self._recognise(self._reader.structure(data))
        if isinstance(recognised, str):
            raise CheckpointError(recognised)
        self._expected[trial.name] = recognised
        return recognised, data

    def _recognise(self, structure: Structure) -> Recognised | str:
        """What a structure is, or why it is not of this zoo; worked out once for each."""
        kept = self._recognised.get(id(structure))
        if kept is not None and kept[0] is structure:
            return kept[1]
        with self._lock:
            return self._recognise_new(structure)

    def _recognise_new(self, structure: Structure) -> Recognised | str:
        found: Recognised | str
        layout = self.kind.layout
        try:
            found = recognise(structure)
            if found.layout != layout:
                found = (
                    f"it is a {found.architecture}: {fits(structure, layout)}; the zoo is of {self.kind.architecture}"
                )
            elif found.sparsifier not in (None, self.kind.sparsifier):
                found = f"it is pruned by {found.sparsifier}, the zoo's others are not"
        except CheckpointError as error:
            found = f"{fits(structure, layout)} ({error})"
        if len(self._recognised) >= _KNOWN:
            self._recognised.clear()
        self._recognised[id(structure)] = (structure, found)
        return found

    def _probe(self, folder: RawFolder) -> Recognised:
        """What most of a few checkpoints are, spread over the zoo."""
        places = [(trial, epoch) for trial in folder.trials for epoch in trial.epochs]
        votes: Counter[tuple[str, int, int, str]] = Counter()
        seen: dict[tuple[str, int, int, str], Recognised] = {}
        reason = ""
        self._container.prepare(itertools.islice(_spread(places), _PROBES), MAX_CHECKPOINT)
        for path in _spread(places):
            try:
                found = recognise(self._reader.structure(self._container.read(path, MAX_CHECKPOINT)))
            except CheckpointError as error:
                reason = f"{path}: {error}"
                continue
            key = (found.architecture, found.in_channels, found.classes, found.sparsifier or "")
            votes[key] += 1
            seen.setdefault(key, found)
            if votes.total() >= _PROBES:
                break
        if not votes and not reason:
            raise SourceError(f"{folder.name} holds no checkpoint: none of its {len(folder.trials):,} trials has one")
        if not votes:
            raise SourceError(f"{folder.name}: no checkpoint of it could be read; one of them, {reason}")
        return seen[votes.most_common(1)[0][0]]


def _spread(places: Sequence[tuple[Trial, int]]) -> Iterator[str]:
    """The paths of all checkpoints, the first few of them far from each other."""
    step = max(len(places) // _PROBES, 1)
    ordered = itertools.chain(places[::step], (place for index, place in enumerate(places) if index % step))
    return (path for trial, epoch in ordered if (path := trial.checkpoint(epoch)) is not None)
