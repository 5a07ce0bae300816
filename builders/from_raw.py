"""The raw zoos of the original authors as a source: one folder a model, one torch file an epoch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from zoo_datasets.builders.checkpoints import MAX_CHECKPOINT
from zoo_datasets.builders.containers import Container, is_archive, open_container
from zoo_datasets.builders.raw_checkpoints import RawCheckpoints, Weights
from zoo_datasets.builders.raw_models import Found, RawModels
from zoo_datasets.builders.raw_trials import MAX_JSON, find_zoo, grid_of, looks_raw, read_json
from zoo_datasets.builders.recognise import sparsity_of
from zoo_datasets.builders.source import Block, Reading, States
from zoo_datasets.errors import CheckpointError, SourceError, UnknownNameError
from zoo_datasets.layout import WeightLayout
from zoo_datasets.manifest import LeftOut
from zoo_datasets.schema import FIGURES, LOG_SIGMA2, SPLITS
from zoo_datasets.specs import digest_of
from zoo_datasets.zoos import get_zoo

CHUNK_BYTES = 32_000_000
_SHOWN = 50
_CONVERTED, _SPARSITY, _DIFFERS = "converted_to_float32", "sparsity", "not as recorded"
_UNKNOWN: tuple[float | None, ...] = (None,) * (len(FIGURES) + 1)


def is_raw(path: Path) -> bool:
    """Whether a raw zoo lies at a path: an archive, or a folder with trials in it."""
    if not path.is_dir():
        return path.is_file() and is_archive(path)
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            # Two levels tell; the full listing of a large zoo is made once, by the source.
            inside = [f"{child.name}/{entry.name}{'/x' if entry.is_dir() else ''}" for entry in child.iterdir()]
            if looks_raw([f"{child.name}/", *inside]):
                return True
    return False


class RawSource:
    """A raw zoo, in a folder or an archive. Its only block holds its models in the order of their ids."""

    def __init__(self, container: Container, reading: Reading | None = None, beside: Path | None = None) -> None:
        self._container = container
        self._reading = reading or Reading()
        self._folder = find_zoo(container)
        self._checkpoints = RawCheckpoints(container, self._folder)
        kind = self._checkpoints.kind
        self.layout: WeightLayout = kind.layout
        self.architecture = kind.architecture
        self.in_channels = kind.in_channels
        self.classes = kind.classes
        self._models = RawModels(container, self._folder, kind, self._reading, beside)
        self.name = self._models.name
        self.extras = self._extras()
        self._found = self._select(self._models.found())
        self.models = len(self._found)
        self.states = sum(len(found.epochs) for found in self._found)
        container.prepare(self._paths(), MAX_CHECKPOINT)
        self._check_index()

    @classmethod
    def open(cls, path: Path, reading: Reading | None = None) -> RawSource:
        """The raw zoo in a folder or an archive.

        Raises:
            SourceError: where there is none, or nothing tells what it is.
        """
        return cls(open_container(path), reading, path.resolve().parent)

    @property
    def source_id(self) -> str:
        """Digest of the zoo folder's name and of what decides which columns and rows it can have."""
        reading = self._reading
        where = None if reading.where is None else reading.where.text
        return digest_of(["raw", self._folder.name, where, dataclasses.asdict(reading.limits), list(self.extras)])

    @property
    def zoo(self) -> Mapping[str, Any]:
        """What the trials tell of the recipe, in the fields of a zoo's spec."""
        models = [found.model for found in self._found if found.model is not None]
        value: dict[str, Any] = {
            "name": self.name,
            "images": self._models.images,
            "architecture": self.architecture,
            **grid_of([model.columns for model in models]),
            "sparsifier": self._models.sparsifier,
        }
        if self._models.sparsifier is not None:
            value["parent"] = ", ".join(sorted({model.columns["parent_zoo"] for model in models})) or None
        try:
            value["doi"] = get_zoo(self.name).doi
        except UnknownNameError:
            value["doi"] = None
        return value

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """Where it came from and what was strange about it."""
        reading = self._reading
        chosen = {
            "epochs": None if reading.epochs is None else sorted(reading.epochs),
            "models": reading.models,
            "where": None if reading.where is None else reading.where.text,
        }
        value = {
            "kind": "raw zoo",
            "folder": self._folder.name,
            "images": {"name": self._models.images},
            "limits": dataclasses.asdict(reading.limits),
            "selection": {key: value for key, value in chosen.items() if value is not None},
            "converted_to_float32": _tallied(tallies, _CONVERTED),
            "notes": dict(sorted(self._models.notes.items())),
            "stray_files": [*self._folder.stray[:_SHOWN]],
            "stray_files_count": len(self._folder.stray),
        }
        if self._models.sparsifier is not None:
            value["sparsity"] = _tallied(tallies, _SPARSITY)
            value["parents"] = "their params.json" if self._models.parents_read else "the names of their folders"
        return value

    def warnings(self, tallies: Mapping[str, int]) -> list[str]:
        """Notes for the user, the most frequent first."""
        notes = [f"{count:,} × {note}" for note, count in self._models.notes.most_common()]
        if differing := tallies.get(f"{_SPARSITY}/{_DIFFERS}"):
            notes.append(f"the sparsity of {differing:,} states is not the recorded one; the tensors count")
        return notes

    def fingerprint(self) -> str:
        """Changes when the files change."""
        return digest_of([self._container.fingerprint(), self.source_id])

    @cached_property
    def _epochs(self) -> tuple[int, ...]:
        return tuple(sorted({epoch for found in self._found for epoch in found.epochs}))

    def blocks(self) -> Sequence[Block]:
        """One block of all models and epochs."""
        models = tuple(found.model for found in self._found if found.model is not None)
        return [Block(models=models, epochs=self._epochs)] if models else []

    def refused(self) -> list[LeftOut]:
        """Trials that are no model."""
        return [
            LeftOut(model=found.trial.name, epochs=found.epochs, reason=found.reason)
            for found in self._found
            if found.model is None
        ]

    def read(self, block: Block) -> Iterator[States | LeftOut]:
        """The states of a block, as many at a time as fit into `CHUNK_BYTES`, all of one split."""
        wanted = {model.model_id for model in block.models}
        models = [(found, found.model) for found in self._found if found.model and found.model.model_id in wanted]
        # Split by split, so that nothing needs to be picked apart later.
        parts = [[found for found, model in models if model.split == split] for split in SPLITS]
        chunk = max(CHUNK_BYTES // (4 * self.layout.size), 1)
        for epoch in block.epochs:
            for part in parts:
                chosen = [found for found in part if epoch in found.epochs]
                for start in range(0, len(chosen), chunk):
                    yield from self._read_chunk(epoch, chosen[start : start + chunk])

    def _read_chunk(self, epoch: int, chosen: Sequence[Found]) -> Iterator[States | LeftOut]:
        read = self._checkpoints.read([found.trial for found in chosen], epoch)
        for position, reason in read.reasons.items():
            yield LeftOut(model=chosen[position].trial.name, epochs=(epoch,), reason=reason)
        if read.good:
            yield self._states(epoch, [chosen[position] for position in read.good], read)

    def _states(self, epoch: int, found: Sequence[Found], read: Weights) -> States:
        told = [(entry.results.epochs.get(epoch) if entry.results else None) or _UNKNOWN for entry in found]
        tallies = Counter({f"{_CONVERTED}/{dtype}": count for dtype, count in read.converted.items()})
        twins = self._models.sparsifier is not None
        figures: dict[str, pa.Array] = {}
        columns = list(zip(*told, strict=True))
        for name, values in zip(FIGURES, columns, strict=False):
            # The recorded losses of twins are cross-entropy + β·KL.
            if not (twins and name.endswith("loss")):
                figures[name] = pa.array(values, pa.float32(), from_pandas=False)
        if twins:
            sparsity = sparsity_of(self.layout, read.weights)
            figures["sparsity"] = pa.array(sparsity)
            compared = map(_compared, sparsity.tolist(), columns[len(FIGURES)])
            tallies.update(f"{_SPARSITY}/{verdict}" for verdict in compared)
        noise = read.noise if self.extras else None
        return States(
            epoch=epoch,
            models=[entry.model for entry in found if entry.model is not None],
            weights=torch.from_numpy(read.weights),
            figures=figures,
            extras={} if noise is None else {LOG_SIGMA2: torch.from_numpy(noise)},
            tallies=tallies,
        )

    def _paths(self) -> list[str]:
        """The checkpoints that will be read."""
        return [
            path
            for found in self._found
            if found.model is not None
            for epoch in found.epochs
            if (path := found.trial.checkpoints.get(epoch)) is not None
        ]

    def _extras(self) -> tuple[str, ...]:
        if not self._reading.keep_log_sigma2:
            return ()
        if self._checkpoints.kind.sparsifier != "variational_dropout":
            raise SourceError(
                f"{self._folder.name} holds no log_sigma2: its models are no twins by variational dropout"
            )
        return (LOG_SIGMA2,)

    def _select(self, found: list[Found]) -> list[Found]:
        """What the user asked for."""
        reading = self._reading
        for entry in found:
            if reading.epochs is not None:
                entry.epochs = tuple(epoch for epoch in entry.epochs if epoch in reading.epochs)
        if reading.where is not None:
            found = [entry for entry in found if self._keeps(entry)]
        found = found[: reading.models]
        for entry in found:
            if entry.model is not None and not entry.epochs:
                entry.model, entry.reason = None, "it has no state of the epochs that were asked for"
        if not any(entry.epochs for entry in found):
            raise SourceError(f"{self._folder.name}: no state of it fits the selection")
        return found

    def _keeps(self, entry: Found) -> bool:
        """Whether a condition keeps any state of a trial; a trial that is no model cannot be judged and stays."""
        where = self._reading.where
        if where is None or entry.model is None:
            return True
        base = dict(entry.model.columns) | {
            "zoo": self._reading.name or self.name, "model_id": entry.model.model_id,
            "architecture": self.architecture, "in_channels": self.in_channels, "classes": self.classes,
        }  # fmt: skip
        reported = entry.results.epochs if entry.results else {}
        entry.epochs = tuple(
            epoch
            for epoch in entry.epochs
            if where.matches(base | {"epoch": epoch} | dict(zip(FIGURES, reported.get(epoch, _UNKNOWN), strict=False)))
        )
        return bool(entry.epochs)

    def _check_index(self) -> None:
        """Compare index_dict.json, where there is one, with the layout."""
        if "index_dict.json" not in self._folder.files:
            return
        notes = self._models.notes
        try:
            index = read_json(self._container.read(f"{self._folder.path}index_dict.json", MAX_JSON))
        except CheckpointError as error:
            notes[f"index_dict.json: {error}"] += 1
            return
        for key, expected in index_of(self.layout).items():
            if index.get(key) != expected:
                notes[f"index_dict.json: {key} is not that of the tensors, which count"] += 1


def index_of(layout: WeightLayout) -> dict[str, list[int]]:
    """The parallel lists of an index_dict.json, but for `layer`, which depends on dropout: where each layer's weight
    and bias begin in the flat vector and how long they are, its outputs, its kernel's h·w, and its inputs."""
    keys = ("idx_start", "idx_length", "kernel_no", "kernel_size", "channels_in")
    index: dict[str, list[int]] = {key: [] for key in keys}
    for spec in layout.tensors:
        if len(spec.shape) > 1:
            kernel = spec.size // (spec.shape[0] * spec.shape[1])
            for key, value in zip(keys, (spec.offset, spec.size, spec.shape[0], kernel, spec.shape[1]), strict=True):
                index[key].append(value)
        elif spec.name.endswith(".bias") and index["idx_length"]:
            index["idx_length"][-1] += spec.size
    return index


def _tallied(tallies: Mapping[str, int], what: str) -> dict[str, int]:
    """The tallies of one thing, by what follows its name."""
    return {key.removeprefix(f"{what}/"): n for key, n in sorted(tallies.items()) if key.startswith(f"{what}/")}


def _compared(value: float, said: float | None) -> str:
    if said is None:
        return "not recorded"
    return "as recorded" if abs(value - said) < 1e-6 else _DIFFERS
