"""The raw zoos of the original authors as a source: one folder a model, one torch file an epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from zoo_datasets.builders.checkpoints.torch_file import MAX_CHECKPOINT
from zoo_datasets.builders.checkpoints.zips import slashed
from zoo_datasets.builders.containers.archives import is_archive, open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.hub import HubFolder
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.containers.remote_tree import RemoteFolder
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.shards.rows import RowMaker
from zoo_datasets.builders.sources.base import SMALL_PIECE_BYTES, Reading, Source, StateBlock, States, unknown_columns
from zoo_datasets.builders.sources.raw.index import index_of
from zoo_datasets.builders.sources.raw.losses import TwinLosses
from zoo_datasets.builders.sources.raw.models import RawModels, TrialModel
from zoo_datasets.builders.sources.raw.published import credit_of, doi_of
from zoo_datasets.builders.sources.raw.states import RawCheckpoints, Weights
from zoo_datasets.builders.sources.raw.trials import find_zoo, grid_of, looks_raw, read_json, unread
from zoo_datasets.builders.state_dicts.names import is_state_file
from zoo_datasets.documents import MAX_JSON
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.sparsity import sparsity
from zoo_datasets.networks.variational import LOG_SIGMA2
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import EXTRAS, FIGURES, MEANS
from zoo_datasets.repository.where import Condition
from zoo_datasets.runs.rows import check_readable, matching
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.text import printable

CHUNK_BYTES = 32_000_000
_SHOWN = 50
# How many folders are searched for a zoo, and how deep in a place it may lie.
_LOOKED_INTO = 1000
_DEEPEST = 5
_CONVERTED, _SPARSITY, _LOSSES, _TENSORS = "converted_to_float32", "sparsity", "losses", "tensors"
_DIFFERS = "not as recorded"
_UNKNOWN: tuple[float | None, ...] = (None,) * (len(FIGURES) + 1)


def is_raw(place: Place) -> bool:
    """Whether a place holds a raw zoo: trials in a folder or an archive; of an archive that holds no files of state
    dicts either, that is said when it is opened."""
    if not isinstance(place, Path):
        return looks_raw(place.entries) or not (
            isinstance(place, (RemoteFolder, HubFolder)) or any(map(is_state_file, place.entries))
        )
    if not place.is_dir():
        return place.is_file() and is_archive(place)
    folders = [place]
    # Two levels of a zoo tell; the full listing of a large one is made once, by the source.
    for folder in itertools.islice(folders, _LOOKED_INTO):
        with os.scandir(folder) as listing:  # which tells folders without asking for each file
            entries = list(listing)
        for entry in entries:
            if "\\" in entry.name and looks_raw([slashed(entry.name)]):
                return True
            if entry.is_dir():
                child = folder / entry.name
                with contextlib.suppress(OSError) if folder != place else contextlib.nullcontext():
                    if looks_raw(sorted([f"{child.name}/", *_inside(child)])):
                        return True
                    if not child.is_symlink() and len(child.relative_to(place).parts) < _DEEPEST:
                        folders.append(child)
    return False


def _inside(folder: Path) -> list[str]:
    """What lies in a folder, under its name; as of a listing that goes on below the folders in it."""
    return [f"{folder.name}/{entry.name}{'/x' if entry.is_dir() else ''}" for entry in folder.iterdir()]


class RawSource(Source):
    """A raw zoo, in a folder or an archive. Its only block holds its models in the order of their ids."""

    network: NetworkKind

    kind = "raw zoo"

    def __init__(self, container: Container, reading: Reading | None = None, beside: Path | None = None) -> None:
        self._container = container
        self._reading = reading or Reading()
        self._folder = find_zoo(container)
        self._checkpoints = RawCheckpoints(container, self._folder)
        kind = self._checkpoints.kind
        self.network = kind.network
        self._models = RawModels(container, self._folder, kind, self._reading, beside)
        unread_notes = [Note("import-unread-entries", text, whole=True) for text in unread(self._folder.refused)]
        for note in (*container.notes, *unread_notes):
            self._models.notes.add([note])
        self.name = self._models.name
        self.credit = credit_of(self.name, self._folder.name, [trial.name for trial in self._folder.trials])
        self.extras = self._extras()
        self._losses: TwinLosses | None = None
        if self._models.sparsifier == "variational_dropout":
            self._losses = TwinLosses(self.network, self._models.images, self._reading)
        self._found = self._models.found()
        self._found = self._select(self._found)
        self.models = len(self._found)
        self.states = sum(len(entry.epochs) + len(entry.lost) for entry in self._found)
        container.prepare(self._paths(), MAX_CHECKPOINT)
        self._check_index()

    @classmethod
    def open(cls, place: Place, reading: Reading | None = None) -> RawSource:
        """The raw zoo in a folder or an archive, local or remote.

        Raises:
            SourceError: if there is none, or its images or architecture cannot be determined.
        """
        if not isinstance(place, Path):
            return cls(place, reading, place.beside)
        threads = reading.num_proc if reading is not None else 1
        return cls(open_container(place, threads), reading, place.resolve().parent)

    @property
    def source_id(self) -> str:
        """Digest of the zoo folder's name and of what decides which columns and rows it can have."""
        reading = self._reading
        where = None if reading.where is None else reading.where.text
        images = [] if self._losses is None or reading.images is None else ["losses recomputed"]
        limits = dataclasses.asdict(reading.limits)
        return digest_of(["raw", self._folder.name, where, limits, list(self.extras), *images])

    @property
    def unknown(self) -> tuple[str, ...]:
        """The hyperparameter columns that are null for some of its models."""
        return unknown_columns(entry.model for entry in self._found)

    @property
    def zoo(self) -> Mapping[str, Any]:
        """The recipe as the trials record it, in the fields of a zoo's spec."""
        models = [entry.model for entry in self._found if entry.model is not None]
        value: dict[str, Any] = {
            "name": self.name,
            "images": self._models.images,
            "architecture": self.network.architecture,
            **grid_of([model.columns for model in models]),
            "sparsifier": self._models.sparsifier,
            "doi": doi_of(self.name, self.credit),
        }
        if self._models.sparsifier is not None:
            value["parent"] = ", ".join(sorted({model.columns["parent_zoo"] for model in models})) or None
        return value

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """Its origin, limits and selection, and the notes about it."""
        reading = self._reading
        value = {
            "folder": self._folder.name,
            "images": {"name": self._models.images},
            "limits": dataclasses.asdict(reading.limits),
            "selection": reading.selection(),
            "converted_to_float32": _tallied(tallies, _CONVERTED),
            **({"epochs": "numbers of checkpoint folders"} if self._models.unmatched else {}),
            **self.notes(tallies).describe(),
            "stray_files": [printable(path) for path in self._folder.stray[:_SHOWN]],
            "stray_files_count": len(self._folder.stray),
        }
        if self._models.sparsifier is not None:
            value["sparsity"] = _tallied(tallies, _SPARSITY)
            value["losses"] = {} if self._losses is None else self._losses.describe(_tallied(tallies, _LOSSES))
            value["parents"] = "their params.json" if self._models.parents_read else "the names of their folders"
        return value

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        """Irregularities that excluded no state."""
        notes = self._models.notes.joined(Notes())
        differing = tallies.get(f"{_SPARSITY}/{_DIFFERS}", 0)
        text = "the sparsity of a state is not the recorded one; the tensors count"
        notes.add_counted(Note("import-recorded-sparsity", text), differing)
        for key, count in _tallied(tallies, _TENSORS).items():
            code, _, text = key.partition("/")
            notes.add_counted(Note(code, f"{text} ({count:,} states)", whole=True), count)
        if self._losses is not None:
            for note, count in self._losses.notes(_tallied(tallies, _LOSSES), self.models):
                notes.add_counted(note, count)
        return notes

    def fingerprint(self) -> str:
        """Changes when the files change."""
        return digest_of([self._container.fingerprint(), self.source_id])

    @cached_property
    def _epochs(self) -> tuple[int, ...]:
        return tuple(sorted({epoch for entry in self._found for epoch in entry.epochs}))

    def blocks(self) -> Sequence[StateBlock]:
        """One block of all models and epochs."""
        models = tuple(entry.model for entry in self._found if entry.model is not None)
        return [StateBlock(models=models, epochs=self._epochs)] if models else []

    def refused(self) -> list[LeftOut]:
        """Trials that are not models and checkpoints that cannot be states, each with the reason."""
        refused = [
            LeftOut(model=entry.trial.name, epochs=entry.epochs, reason=entry.reason)
            for entry in self._found
            if entry.model is None
        ]
        return [*refused, *(lost for entry in self._found for lost in entry.lost)]

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, several small epochs in one piece; see `Source.read`."""
        wanted = {model.model_id for model in block.models}
        entries = [entry for entry in self._found if entry.model is not None and entry.model.model_id in wanted]
        most, few = (max(size // (4 * self.layout.size), 1) for size in (CHUNK_BYTES, SMALL_PIECE_BYTES))
        states: list[tuple[TrialModel, int]] = []
        for epoch in block.epochs:
            here = [(entry, epoch) for entry in entries if epoch in entry.epochs]
            if len(states) + len(here) > few:
                yield from self._read_chunk(states)
                states = []
            while len(here) > most:
                yield from self._read_chunk(here[:most])
                here = here[most:]
            states += here
        yield from self._read_chunk(states)

    def _read_chunk(self, states: Sequence[tuple[TrialModel, int]]) -> Iterator[States | LeftOut]:
        if not states:
            return
        read = self._checkpoints.read([(entry.trial, entry.numbers[epoch]) for entry, epoch in states])
        for position, reason in read.reasons.items():
            entry, epoch = states[position]
            yield LeftOut(model=entry.trial.name, epochs=(epoch,), reason=reason)
        if read.good:
            yield self._states([states[position] for position in read.good], read)

    def _states(self, states: Sequence[tuple[TrialModel, int]], read: Weights) -> States:
        epochs = [epoch for _, epoch in states]
        tallies = Counter({f"{_CONVERTED}/{dtype}": count for dtype, count in read.converted.items()})
        tallies.update({f"{_TENSORS}/{note.code}/{note.text}": count for note, count in read.notes.items()})
        columns = _reported(states)
        figures = _figures(columns)
        weights = torch.from_numpy(read.weights)
        models = [entry.model for entry, _ in states if entry.model is not None]
        if self._models.sparsifier is not None:
            shares = sparsity(torch.from_numpy(read.weights), self.layout).numpy()
            figures["sparsity"] = pa.array(shares)
            compared = map(_compared, shares.tolist(), columns[len(FIGURES)])
            tallies.update(f"{_SPARSITY}/{verdict}" for verdict in compared)
        extras: dict[str, Tensor] = {}
        if self._losses is not None:
            noise, means = (None if each is None else torch.from_numpy(each) for each in (read.noise, read.means))
            losses, verdicts = self._losses.figures(epochs, models, figures, weights, noise, means)
            figures |= losses
            tallies.update({f"{_LOSSES}/{verdict}": count for verdict, count in verdicts.items()})
            if self.extras and noise is not None and means is not None:
                extras = {LOG_SIGMA2: noise, MEANS: means}
        return States(epochs=epochs, models=models, weights=weights, figures=figures, extras=extras, tallies=tallies)

    def _paths(self) -> Iterator[str]:
        """The checkpoints that will be read."""
        for entry in self._found:
            if entry.model is not None:
                paths = map(entry.checkpoint, entry.epochs)
                yield from (path for path in paths if path is not None)

    def _extras(self) -> tuple[str, ...]:
        if not self._reading.keep_log_sigma2:
            return ()
        if self._checkpoints.kind.sparsifier != "variational_dropout":
            raise SourceError(
                f"{self._folder.name} holds no log_sigma2: its models are not twins by variational dropout"
            )
        return EXTRAS

    def _select(self, entries: list[TrialModel]) -> list[TrialModel]:
        """The trials and epochs that the user selected."""
        reading = self._reading
        for entry in entries:
            if reading.epochs is not None:
                entry.epochs = tuple(epoch for epoch in entry.epochs if epoch in reading.epochs)
                entry.lost = tuple(lost for lost in entry.lost if reading.epochs.issuperset(lost.epochs))
        if reading.where is not None:
            entries = self._matching(reading.where, entries)
        entries = entries[: reading.models]
        for entry in entries:
            if entry.model is not None and not entry.epochs:
                entry.model, entry.reason = None, "it has no state of the epochs that were asked for"
        if not any(entry.epochs for entry in entries):
            raise SourceError(f"{self._folder.name}: no state of it fits the selection")
        return entries

    def _matching(self, where: Condition, entries: Sequence[TrialModel]) -> list[TrialModel]:
        """The trials of which a condition keeps a state; one that is not a model cannot be judged and stays."""
        judged = [(entry, entry.model, epoch) for entry in entries if entry.model for epoch in entry.epochs]
        states = [(entry, epoch) for entry, _, epoch in judged]
        check_readable(where, self._unknown(states), self._folder.name)
        unrecorded = {} if self._losses is None else self._losses.unrecorded

        def figures(here: slice) -> dict[str, pa.Array]:
            columns = _figures(_reported(states[here]))
            return columns | {name: pa.nulls(len(columns[name]), pa.float32()) for name in unrecorded}

        kept: dict[str, list[int]] = {}
        rows = RowMaker(self, self._reading.name or self.name)
        for number in matching(where, rows, [(model, epoch) for _, model, epoch in judged], figures):
            entry, _, epoch = judged[number]
            kept.setdefault(entry.trial.name, []).append(epoch)
        for entry in entries:
            if entry.model is not None:
                entry.epochs = tuple(kept.get(entry.trial.name, ()))
        return [entry for entry in entries if entry.model is None or entry.epochs]

    def _unknown(self, states: Sequence[tuple[TrialModel, int]]) -> set[str]:
        """Columns that are computed from the weights."""
        unknown = {"sparsity"} if self._models.sparsifier is not None else set()
        if self._losses is not None:
            reported = dict(zip(FIGURES, _reported(states), strict=False))
            unknown |= self._losses.computed({name for name, values in reported.items() if None in values})
        return unknown | ({"ggap"} if "test_acc" in unknown else set())

    def _check_index(self) -> None:
        """Compare index_dict.json, where there is one, with the layout."""
        if "index_dict.json" not in self._folder.files:
            return
        notes = self._models.notes
        try:
            index = read_json(self._container.read(f"{self._folder.path}index_dict.json", MAX_JSON))
        except CheckpointError as error:
            notes.add([Note("import-index-dict", f"index_dict.json: {error}")])
            return
        differing = [key for key, expected in index_of(self.layout).items() if index.get(key) != expected]
        text = "index_dict.json: {} is not that of the tensors, which count"
        notes.add(Note("import-index-dict", text.format(key)) for key in differing)


def _reported(states: Sequence[tuple[TrialModel, int]]) -> list[tuple[float | None, ...]]:
    """What result.json reports of some states: the values of each of `FIGURES`, and of the sparsity."""
    rows = [entry.figures.get(epoch, _UNKNOWN) for entry, epoch in states]
    return list(zip(*rows, strict=True)) or [()] * len(_UNKNOWN)


def _figures(reported: Sequence[Sequence[float | None]]) -> dict[str, pa.Array]:
    """The reported figures as columns; NaN stays NaN."""
    columns = zip(FIGURES, reported, strict=False)
    return {name: pa.array(values, pa.float32(), from_pandas=False) for name, values in columns}


def _tallied(tallies: Mapping[str, int], what: str) -> dict[str, int]:
    """The tallies of one thing, by what follows its name."""
    return {key.removeprefix(f"{what}/"): n for key, n in sorted(tallies.items()) if key.startswith(f"{what}/")}


def _compared(value: float, said: float | None) -> str:
    if said is None:
        return "not recorded"
    return "as recorded" if abs(value - said) < 1e-6 else _DIFFERS
