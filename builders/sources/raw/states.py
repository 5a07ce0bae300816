"""The checkpoints of one raw zoo: their common structure, and many of them as one array."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.recognise import Recognised, acting_weights, fits, recognise
from zoo_datasets.builders.checkpoints.torch_file import MAX_CHECKPOINT, CheckpointReader, Structure
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.native_files import Template, library
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.builders.sources.raw.results import checkpoint_number
from zoo_datasets.builders.sources.raw.trials import RawFolder, Trial
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.native.rows import Recycled, ThreadMemory
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.text import printable

_PROBES = 9
_KNOWN = 1000
_NAMED, _SHOWN = 5, 60  # names in a message, and characters of each
_EXPECTED = 10_000
# Of files that are held at a time, of those that are larger by what is no weight too.
HELD_BYTES = 64_000_000


@dataclass(kw_only=True, slots=True)
class Weights:
    """Some checkpoints.

    Attributes:
        good: positions of those that were read, ascending.
        reasons: why the others were not, by position.
        weights: float32 [len(good), D], the weights that act.
        noise, means: log σ² of twins by variational dropout and their weights before pruning, in the same order; None
            where the zoo holds no such twins.
        converted: files by the type of elements that became float32.
        notes: files by what was done to their tensors.
    """

    good: list[int]
    reasons: dict[int, str]
    weights: NDArray[np.float32]
    noise: NDArray[np.float32] | None = None
    means: NDArray[np.float32] | None = None
    converted: Counter[str] = field(default_factory=Counter)
    notes: Counter[Note] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Part:
    """Checkpoints of one structure: their positions, ascending, and what `Weights` has of them."""

    positions: Sequence[int]
    weights: NDArray[np.float32]
    noise: NDArray[np.float32] | None
    means: NDArray[np.float32] | None
    converted: frozenset[str]
    notes: Sequence[Note]


class RawCheckpoints:
    """Reads the checkpoints of a zoo, all of which must be of the kind that most are. Thread-safe."""

    def __init__(self, container: Container, folder: RawFolder) -> None:
        self._container = container
        self._reader = CheckpointReader()
        self._recognised: dict[int, tuple[Structure, Recognised | str]] = {}
        self._templates: dict[int, tuple[Structure, Template]] = {}
        # By the trial's name where its checkpoints are not as most are.
        self._expected: dict[str, Recognised] = {}
        self._lock = threading.Lock()
        self._memory = ThreadMemory()
        library()  # compiled before threads ask for it
        self._recycled = Recycled()
        self.kind = self._probe(folder)
        self._recognised[id(self.kind.structure)] = (self.kind.structure, self.kind)

    def read(self, states: Sequence[tuple[Trial, int]]) -> Weights:
        """Some trials, each at an epoch; those of one structure are sliced together."""
        parts: list[_Part] = []
        rest = self._read_alike(states, parts)
        reasons = self._read_singly(states, rest, parts)
        if len(parts) == 1:
            (part,) = parts
            count = len(part.positions)
            return Weights(
                good=list(part.positions),
                reasons=reasons,
                weights=part.weights,
                noise=part.noise,
                means=part.means,
                converted=Counter(dict.fromkeys(part.converted, count)),
                notes=Counter(dict.fromkeys(part.notes, count)),
            )
        return self._merged([p for p in range(len(states)) if p not in reasons], reasons, parts)

    def _merged(self, good: list[int], reasons: dict[int, str], parts: Sequence[_Part]) -> Weights:
        """Several parts in the order of their positions."""
        row = {position: number for number, position in enumerate(good)}
        merged = Weights(good=good, reasons=reasons, weights=np.empty((len(good), self.kind.layout.size), np.float32))
        if self._noisy:
            merged.noise, merged.means = np.empty_like(merged.weights), np.empty_like(merged.weights)
        for part in parts:
            rows = [row[position] for position in part.positions]
            merged.weights[rows] = part.weights
            if merged.noise is not None and merged.means is not None:
                merged.noise[rows], merged.means[rows] = part.noise, part.means
            for dtype in part.converted:
                merged.converted[dtype] += len(rows)
            for note in part.notes:
                merged.notes[note] += len(rows)
        return merged

    @property
    def _noisy(self) -> bool:
        return self.kind.sparsifier == "variational_dropout"

    def _part(self, recognised: Recognised, positions: Sequence[int], files: NDArray[np.uint8]) -> _Part:
        """The weights in files, uint8 [K, length], which may be overwritten afterwards."""
        weights, noise, means = acting_weights(recognised, files, self._empty)
        if self._noisy and (noise is None or means is None):  # dense checkpoints among those of twins
            noise, means = np.full_like(weights, -np.inf), weights.copy()
        return _Part(positions, weights, noise, means, frozenset(recognised.converted), recognised.notes)

    def _empty(self, shape: tuple[int, int], dtype: type[np.float32]) -> NDArray[np.float32]:
        return self._recycled.empty(*shape, torch.float32).numpy()

    def _read_alike(self, states: Sequence[tuple[Trial, int]], parts: list[_Part]) -> list[int]:
        """Read those that are of the structure that their trial's others have; returns the positions of the rest."""
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
        for recognised, positions, paths in expected.values():
            template = self._template(recognised.structure)
            step = max(HELD_BYTES // template.length, 1)
            for start in range(0, len(paths), step):
                here = positions[start : start + step]
                memory = self._memory.take(len(here) * template.length + 1)
                good = self._container.read_alike(paths[start : start + step], template, memory)
                if good is None:
                    rest += here
                    continue
                files = memory[:-1].reshape(len(here), template.length)
                if not good.all():
                    rest += [position for position, fine in zip(here, good, strict=True) if not fine]
                    here = [position for position, fine in zip(here, good, strict=True) if fine]
                    files = files[good]
                if here:
                    parts.append(self._part(recognised, here, files))
        return sorted(rest)

    def _read_singly(
        self, states: Sequence[tuple[Trial, int]], positions: Sequence[int], parts: list[_Part]
    ) -> dict[int, str]:
        """Read one by one; returns the reasons for those that failed, by position."""
        reasons: dict[int, str] = {}
        held: dict[int, tuple[Recognised, list[int], list[bytes]]] = {}
        size = 0

        def slice_held() -> None:
            parts.extend(self._part(kind, here, self._together(files)) for kind, here, files in held.values())
            held.clear()

        for position in positions:
            try:
                recognised, data = self._read(*states[position])
            except CheckpointError as error:
                reasons[position] = str(error)
                continue
            _, here, files = held.setdefault(id(recognised), (recognised, [], []))
            here.append(position)
            files.append(data)
            size += len(data)
            if size > HELD_BYTES:
                slice_held()
                size = 0
        slice_held()
        return reasons

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
            raise CheckpointError(self._unlisted(trial, epoch) or _no_file(trial, epoch))
        data = self._container.read(path, MAX_CHECKPOINT)
        recognised = self._recognise(self._reader.structure(data))
        if isinstance(recognised, str):
            raise CheckpointError(recognised)
        self._expect(trial.name, recognised)
        return recognised, data

    def _expect(self, name: str, recognised: Recognised) -> None:
        """Take the trial's next checkpoints to be like this one."""
        if recognised is self.kind:
            self._expected.pop(name, None)
            return
        if len(self._expected) >= _EXPECTED:
            self._expected.clear()
        self._expected[name] = recognised

    def _unlisted(self, trial: Trial, epoch: int) -> str | None:
        """Why a checkpoint folder could not be listed; None if it could."""
        folders = (path for path in self._container.refused if path.startswith(trial.path) and path.endswith("/"))
        folder = next((path for path in folders if checkpoint_number(path[len(trial.path) : -1]) == epoch), None)
        return None if folder is None else self._container.refused[folder]

    def _recognise(self, structure: Structure) -> Recognised | str:
        """What a structure holds, or why it does not belong to this zoo; computed once for each."""
        kept = self._recognised.get(id(structure))
        if kept is not None and kept[0] is structure:
            return kept[1]
        with self._lock:
            return self._recognise_new(structure)

    def _recognise_new(self, structure: Structure) -> Recognised | str:
        verdict: Recognised | str
        layout = self.kind.layout
        try:
            verdict = recognise(structure)
            if verdict.layout != layout:
                verdict = (
                    f"it is a {verdict.network.architecture}: {fits(structure, layout)}; "
                    f"the zoo is of {self.kind.network.architecture}"
                )
            elif verdict.sparsifier == "magnitude" and self.kind.sparsifier is None:
                text = "weights are masked (weight_mask) in a zoo of dense models: their rows have the zeros"
                verdict = dataclasses.replace(verdict, notes=(*verdict.notes, Note("import-masked-weights", text)))
            elif verdict.sparsifier not in (None, self.kind.sparsifier):
                verdict = f"it is pruned by {verdict.sparsifier}, the zoo's others are not"
        except CheckpointError as error:
            verdict = f"{fits(structure, layout)} ({error})"
        if len(self._recognised) >= _KNOWN:
            self._recognised.clear()
        self._recognised[id(structure)] = (structure, verdict)
        return verdict

    def _probe(self, folder: RawFolder) -> Recognised:
        """The most common kind among a few checkpoints spread over the zoo."""
        places = [(trial, epoch) for trial in folder.trials for epoch in trial.epochs]
        votes: Counter[tuple[NetworkKind, str]] = Counter()
        seen: dict[tuple[NetworkKind, str], Recognised] = {}
        reason = ""
        self._container.prepare(itertools.islice(_spread(places), _PROBES), MAX_CHECKPOINT)
        for path in _spread(places):
            try:
                recognised = recognise(self._reader.structure(self._container.read(path, MAX_CHECKPOINT)))
            except CheckpointError as error:
                reason = f"{path}: {error}"
                continue
            key = (recognised.network, recognised.sparsifier or "")
            votes[key] += 1
            seen.setdefault(key, recognised)
            if votes.total() >= _PROBES:
                break
        if not votes and not reason:
            problem = f"{folder.name} holds no checkpoint: none of its {len(folder.trials):,} trials has one"
            raise SourceError("; ".join([problem, *(_no_file(trial, epoch) for trial, epoch in places[:1])]))
        if not votes:
            raise SourceError(f"{folder.name}: no checkpoint of it could be read; one of them, {reason}")
        return seen[votes.most_common(1)[0][0]]


def _no_file(trial: Trial, epoch: int) -> str:
    names = ", ".join(printable(name)[:_SHOWN] for name in trial.names_in_checkpoint(epoch)[:_NAMED])
    return "its checkpoint folder holds no file named checkpoints" + (
        f" but {names}; rename the file that torch.save wrote the state dict to" if names else ""
    )


def _spread(places: Sequence[tuple[Trial, int]]) -> Iterator[str]:
    """The paths of all checkpoints, the first few of them far from each other."""
    step = max(len(places) // _PROBES, 1)
    ordered = itertools.chain(places[::step], (place for index, place in enumerate(places) if index % step))
    return (path for trial, epoch in ordered if (path := trial.checkpoint(epoch)) is not None)
