"""The raw zoos of the original authors as a source: one folder a model, one torch file an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from zoo_datasets.builders.checkpoints import MAX_CHECKPOINT, CheckpointReader, Structure, as_files
from zoo_datasets.builders.containers import Container, is_archive, open_container
from zoo_datasets.builders.raw_names import FolderName, parent_of, raw_model_id, read_folder_name, zoo_name
from zoo_datasets.builders.raw_trials import (
    MAX_JSON,
    RawFolder,
    Results,
    Trial,
    columns_of,
    contradictions,
    find_zoo,
    grid_of,
    looks_raw,
    parse_results,
    read_json,
)
from zoo_datasets.builders.recognise import Recognised, acting_weights, fits, recognise, sparsity_of
from zoo_datasets.builders.source import Block, Model, Reading, States
from zoo_datasets.errors import CheckpointError, SourceError, UnknownNameError
from zoo_datasets.layout import WeightLayout
from zoo_datasets.manifest import LeftOut
from zoo_datasets.schema import FIGURES
from zoo_datasets.specs import GRID_FIELDS, digest_of
from zoo_datasets.zoos import get_zoo

CHUNK_BYTES = 32_000_000
_PROBES = 9
_SHOWN = 50


def is_raw(path: Path) -> bool:
    """Whether a raw zoo lies at a path: an archive, or a folder with trials in it."""
    if path.is_file():
        return is_archive(path)
    if not path.is_dir():
        return False
    # Two levels tell; a full listing of a large zoo is made once, by the source.
    listing = [f"{child.name}/{inside.name}/" if inside.is_dir() else f"{child.name}/{inside.name}"
               for child in path.iterdir() if child.is_dir() and not child.is_symlink()
               for inside in child.iterdir()]  # fmt: skip
    return looks_raw(listing) or any(looks_raw([f"{entry}x"]) for entry in listing if entry.endswith("/"))


@dataclass(kw_only=True, slots=True)
class _Found:
    """One trial and what became of it: a model with its states, or the reason why it is none."""

    trial: Trial
    model: Model | None = None
    results: Results | None = None
    epochs: tuple[int, ...] = ()
    reason: str = ""


class RawSource:
    """A raw zoo, in a folder or an archive. Its only block holds its models in the order of their ids."""

    def __init__(self, container: Container, reading: Reading | None = None, beside: Path | None = None) -> None:
        self._container = container
        self._reading = reading or Reading()
        self._beside = beside
        self._folder = find_zoo(container)
        self._reader = CheckpointReader()
        self._recognised: dict[int, tuple[Structure, Recognised | str]] = {}
        self._notes: Counter[str] = Counter()
        self._converted: Counter[str] = Counter()
        self._sparsities: Counter[str] = Counter()
        first = self._probe()
        self._sparsifier = first.sparsifier or read_folder_name(self._folder.name).sparsifier
        self.layout: WeightLayout = first.layout
        self.architecture = first.architecture
        self.in_channels = first.in_channels
        self.classes = first.classes
        self.images, self.name = self._identify()
        self._found = self._select([self._find(trial) for trial in self._folder.trials])
        self.models = len(self._found)
        self.states = sum(len(found.epochs) for found in self._found)
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
        """Digest of the zoo folder's name, of the condition and of the limits."""
        reading = self._reading
        where = None if reading.where is None else reading.where.text
        return digest_of(["raw", self._folder.name, where, vars_of(reading.limits), reading.keep_log_sigma2])

    @property
    def zoo(self) -> Mapping[str, Any]:
        """What the trials tell of the recipe, in the fields of a zoo's spec."""
        models = [found.model for found in self._found if found.model is not None]
        value: dict[str, Any] = {
            "name": self.name,
            "images": self.images,
            "architecture": self.architecture,
            **grid_of([model.columns for model in models]),
            "sparsifier": self._sparsifier,
        }
        if self._sparsifier is not None:
            parents = sorted({model.columns["parent_zoo"] for model in models if model.columns.get("parent_zoo")})
            value["parent"] = ", ".join(parents) or None
        try:
            value["doi"] = get_zoo(self.name).doi
        except UnknownNameError:
            value["doi"] = None
        return value

    def describe(self) -> dict[str, Any]:
        """Where it came from and what was strange about it."""
        reading = self._reading
        chosen = {
            "epochs": None if reading.epochs is None else sorted(reading.epochs),
            "models": reading.models,
            "where": None if reading.where is None else reading.where.text,
        }
        return {
            "kind": "raw zoo",
            "folder": self._folder.name,
            "images": {"name": self.images},
            "limits": vars_of(reading.limits),
            "selection": {key: value for key, value in chosen.items() if value is not None},
            "converted_to_float32": dict(sorted(self._converted.items())),
            "sparsity": dict(sorted(self._sparsities.items())),
            "notes": dict(sorted(self._notes.items())),
            "stray_files": [*self._folder.stray[:_SHOWN]],
            "stray_files_count": len(self._folder.stray),
        }

    def fingerprint(self) -> str:
        """Changes when the files change."""
        return digest_of([self._container.fingerprint(), self.source_id])

    @cached_property
    def _epochs(self) -> tuple[int, ...]:
        return tuple(sorted({epoch for found in self._found for epoch in found.epochs}))

    def blocks(self) -> Sequence[Block]:
        """One block of all models and epochs."""
        models = tuple(found.model for found in self._found if found.model is not None)
        return [Block(models=models, epochs=self._epochs)] if models and self._epochs else []

    def read(self, block: Block) -> Iterator[States | LeftOut]:
        """The states of a block; trials that are no model come as left out with the whole source's first epoch."""
        wanted = {model.model_id for model in block.models}
        for epoch in block.epochs:
            if epoch == self._epochs[0]:
                yield from (
                    LeftOut(model=found.trial.name, epochs=found.epochs, reason=found.reason)
                    for found in self._found
                    if found.model is None
                )
            chosen = [
                found
                for found in self._found
                if found.model is not None and found.model.model_id in wanted and epoch in found.epochs
            ]
            yield from self._read_epoch(epoch, chosen)

    def _read_epoch(self, epoch: int, chosen: Sequence[_Found]) -> Iterator[States | LeftOut]:
        size = max(CHUNK_BYTES // (4 * self.layout.size), 1)
        for start in range(0, len(chosen), size):
            yield from self._read_chunk(epoch, chosen[start : start + size])

    def _read_chunk(self, epoch: int, chosen: Sequence[_Found]) -> Iterator[States | LeftOut]:
        groups: dict[int, tuple[Recognised, list[int], list[bytes]]] = {}
        reasons: dict[int, str] = {}
        for position, found in enumerate(chosen):
            try:
                recognised, data = self._read_checkpoint(found.trial, epoch)
            except CheckpointError as error:
                reasons[position] = str(error)
                continue
            _, positions, files = groups.setdefault(id(recognised), (recognised, [], []))
            positions.append(position)
            files.append(data)
        for position, reason in reasons.items():
            yield LeftOut(model=chosen[position].trial.name, epochs=(epoch,), reason=reason)
        good = [position for position in range(len(chosen)) if position not in reasons]
        if not good:
            return
        place = {position: row for row, position in enumerate(good)}
        weights = np.empty((len(good), self.layout.size), np.float32)
        for recognised, positions, files in groups.values():
            acting, _ = acting_weights(recognised, as_files(files))
            weights[[place[position] for position in positions]] = acting
            for dtype in recognised.converted:
                self._converted[dtype] += len(files)
        yield self._states(epoch, [chosen[position] for position in good], weights)

    def _read_checkpoint(self, trial: Trial, epoch: int) -> tuple[Recognised, bytes]:
        path = trial.checkpoints.get(epoch)
        if epoch not in trial.checkpoints:
            raise CheckpointError("there is no checkpoint of this epoch, though result.json reports it")
        if path is None:
            raise CheckpointError("its checkpoint folder holds no file named checkpoints")
        data = self._container.read(path, MAX_CHECKPOINT)
        structure = self._reader.structure(data)
        recognised = self._recognise(structure)
        if isinstance(recognised, str):
            raise CheckpointError(recognised)
        return recognised, data

    def _recognise(self, structure: Structure) -> Recognised | str:
        """What a structure is, or why it is not of this zoo; worked out once for each."""
        kept = self._recognised.get(id(structure))
        if kept is not None and kept[0] is structure:
            return kept[1]
        found: Recognised | str
        try:
            found = recognise(structure)
            if found.layout != self.layout or found.sparsifier not in (None, self._sparsifier):
                found = (
                    f"it is a {found.architecture}: {fits(structure, self.layout)}; the zoo is of {self.architecture}"
                )
        except CheckpointError as error:
            found = f"{fits(structure, self.layout)} ({error})"
        if len(self._recognised) > 1000:
            self._recognised.clear()
        self._recognised[id(structure)] = (structure, found)
        return found

    def _states(self, epoch: int, found: Sequence[_Found], weights: np.ndarray[Any, np.dtype[np.float32]]) -> States:
        rows = [(entry.results.epochs.get(epoch) if entry.results else None) or _UNKNOWN for entry in found]
        figures: dict[str, pa.Array] = {}
        for index, name in enumerate(FIGURES):
            # The recorded losses of twins are cross-entropy + β·KL.
            known = not (self._sparsifier and name.endswith("loss"))
            figures[name] = pa.array([row[index] if known else None for row in rows], pa.float32(), from_pandas=False)
        if self._sparsifier is not None:
            sparsity = sparsity_of(self.layout, weights)
            figures["sparsity"] = pa.array(sparsity)
            for value, row in zip(sparsity.tolist(), rows, strict=True):
                said = row[len(FIGURES)]
                agrees = said is not None and abs(value - said) < 1e-6
                self._sparsities[
                    "not recorded" if said is None else "as recorded" if agrees else "not as recorded"
                ] += 1
        models = [entry.model for entry in found if entry.model is not None]
        return States(epoch=epoch, models=models, weights=torch.from_numpy(weights), figures=figures)

    def _probe(self) -> Recognised:
        """What most of a few checkpoints are, spread over the zoo."""
        paths = [path for trial in self._folder.trials for path in trial.checkpoints.values() if path is not None]
        if not paths:
            raise SourceError(
                f"{self._folder.name} holds no checkpoint: {len(self._folder.trials):,} trials, none has one"
            )
        votes: Counter[tuple[str, int, int]] = Counter()
        seen: dict[tuple[str, int, int], Recognised] = {}
        reason = ""
        for path in _spread(paths):
            try:
                found = recognise(self._reader.structure(self._container.read(path, MAX_CHECKPOINT)))
            except CheckpointError as error:
                reason = f"{path}: {error}"
                continue
            key = (found.architecture, found.in_channels, found.classes)
            votes[key] += 1
            if key not in seen or seen[key].sparsifier is None:
                seen[key] = found
            if sum(votes.values()) >= _PROBES:
                break
        if not votes:
            raise SourceError(f"{self._folder.name}: no checkpoint of it could be read; one of them, {reason}")
        return seen[votes.most_common(1)[0][0]]

    def _identify(self) -> tuple[str, str]:
        """Images and name: from the folder's name, else from the one that the user gave, else from params.json."""
        own = read_folder_name(self._folder.name)
        parent = self._parent_folder()
        told: list[FolderName] = [own, *([parent] if parent else [])]
        if self._reading.name is not None:
            told.append(read_folder_name(self._reading.name))
        told += [read_folder_name(dump) for dump in self._dumps()]
        images = next((name.images for name in told if name.images is not None), None)
        if images is None:
            raise SourceError(
                f"{self._folder.name}: nothing tells which images its models were trained on; "
                "rename the folder as the authors did (tune_zoo_mnist_…), or give --name mnist_cnn_s or the like"
            )
        suffix = (parent or own).suffix or own.suffix
        return images, zoo_name(images, self.architecture, suffix, self._sparsifier, own.percent)

    def _dumps(self) -> Iterator[str]:
        for trial in self._folder.trials[:1]:
            dump = self._params(trial).get("dataset::dump")
            if isinstance(dump, str):
                yield dump

    def _parent_folder(self) -> FolderName | None:
        """What the parents' zoo folder is called."""
        for trial in self._folder.trials[:_PROBES]:
            parent = parent_of(self._params(trial).get("training::init_checkpoint_path"))
            if parent is not None:
                return read_folder_name(parent[0])
        return None

    def _params(self, trial: Trial) -> dict[str, Any]:
        """params.json, empty where there is none that can be read; `_find` says why."""
        try:
            return self._json(trial, "params.json")
        except CheckpointError:
            return {}

    def _json(self, trial: Trial, name: str) -> dict[str, Any]:
        return read_json(self._container.read(f"{trial.path}{name}", MAX_JSON))

    def _find(self, trial: Trial) -> _Found:
        """A trial as a model, with the epochs of which it should have states."""
        found = _Found(trial=trial)
        problems = []
        try:
            if "result.json" not in trial.files:
                raise CheckpointError("the folder holds no result.json")
            found.results = parse_results(self._container.read(f"{trial.path}result.json", MAX_JSON))
            if not found.results.epochs:
                raise CheckpointError("result.json reports no epoch")
            self._notes.update(found.results.notes(trial.checkpoints))
        except CheckpointError as error:
            problems.append(str(error) if "result.json" in str(error) else f"result.json: {error}")
        reported = set(found.results.epochs) if found.results else set()
        found.epochs = tuple(sorted(trial.checkpoints.keys() | (reported & self._checkpoint_epochs)))
        try:
            found.model = self._model(trial)
        except CheckpointError as error:
            problems.append(str(error))
        if not found.epochs:
            problems.append("the folder holds no checkpoint")
        if problems:
            found.model, found.reason = None, "; ".join(problems)
        return found

    @cached_property
    def _checkpoint_epochs(self) -> frozenset[int]:
        """Epochs of which any trial has a checkpoint: zoos may keep fewer than they report."""
        return frozenset(epoch for trial in self._folder.trials for epoch in trial.checkpoints)

    def _model(self, trial: Trial) -> Model:
        params: dict[str, Any] = {}
        if "params.json" in trial.files:
            try:
                params = self._json(trial, "params.json")
            except CheckpointError as error:
                self._notes[f"params.json: {error}; the folder's name was used instead"] += 1
        else:
            self._notes["there is no params.json; the folder's name was used instead"] += 1
        columns = columns_of(params, trial.name, self._defaults)
        for note in contradictions(params, columns, self.classes, self.in_channels):
            self._notes[note] += 1
        columns |= {"images": self.images, "sparsifier": self._sparsifier}
        parent = parent_of(params.get("training::init_checkpoint_path"))
        if self._sparsifier is not None:
            if parent is None:
                raise CheckpointError("params.json tells no parent (training::init_checkpoint_path)")
            columns |= {"parent_id": raw_model_id(*parent), "parent_zoo": parent[0]}
            columns |= {key: value for key, value in self._parent_columns(parent).items() if key not in _OWN}
        return Model(model_id=raw_model_id(self._folder.name, trial.name), columns=columns, label=trial.name)

    def _parent_columns(self, parent: tuple[str, str]) -> dict[str, Any]:
        """The parent's hyperparameters, as far as the name of its folder tells them."""
        from zoo_datasets.builders.raw_names import read_trial_name

        return read_trial_name(parent[1])

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        """What all members of a published zoo have in common; config.json first."""
        try:
            spec = get_zoo(self.name)
        except UnknownNameError:
            return {}
        common = {axis: getattr(spec, axis)[0] for axis in GRID_FIELDS if len(getattr(spec, axis)) == 1}
        return common | {"momentum": spec.momentum, "batch_size": spec.batch_size}

    def _select(self, found: list[_Found]) -> list[_Found]:
        """What the user asked for, in the order of the ids: a hash, so that the first N spread over the grid."""
        reading = self._reading
        for entry in found:
            if reading.epochs is not None:
                entry.epochs = tuple(epoch for epoch in entry.epochs if epoch in reading.epochs)
        found.sort(key=lambda entry: raw_model_id(self._folder.name, entry.trial.name))
        if reading.where is not None:
            found = [entry for entry in found if self._keeps(entry)]
        found = found[: reading.models]
        for entry in found:
            if entry.model is not None and not entry.epochs:
                entry.model, entry.reason = None, "it has no state of the epochs that were asked for"
        if not any(entry.epochs for entry in found):
            raise SourceError(f"{self._folder.name}: no state of it fits the selection")
        return found

    def _keeps(self, entry: _Found) -> bool:
        """Whether a condition keeps any state of a trial; a trial that is no model cannot be judged and stays."""
        where = self._reading.where
        if where is None or entry.model is None:
            return True
        base = dict(entry.model.columns) | {
            "zoo": self.name, "model_id": entry.model.model_id, "architecture": self.architecture,
            "in_channels": self.in_channels, "classes": self.classes,
        }  # fmt: skip
        kept = []
        for epoch in entry.epochs:
            row = (entry.results.epochs.get(epoch) if entry.results else None) or _UNKNOWN
            if where.matches(base | {"epoch": epoch} | dict(zip(FIGURES, row, strict=False))):
                kept.append(epoch)
        entry.epochs = tuple(kept)
        return bool(kept)

    def _check_index(self) -> None:
        """Compare index_dict.json, where there is one, with the layout."""
        if "index_dict.json" not in self._folder.files:
            return
        try:
            index = read_json(self._container.read(f"{self._folder.path}index_dict.json", MAX_JSON))
        except CheckpointError as error:
            self._notes[f"index_dict.json: {error}"] += 1
            return
        for key, expected in index_of(self.layout).items():
            if index.get(key) != expected:
                self._notes[f"index_dict.json: {key} is not that of the tensors, which count"] += 1

    def warnings(self) -> list[str]:
        """Notes for the user, the most frequent first."""
        return [f"{count:,} × {note}" for note, count in self._notes.most_common()]


_UNKNOWN: tuple[float | None, ...] = (None,) * (len(FIGURES) + 1)
# Of a twin itself, whatever its parent had.
_OWN = ("batch_size",)


def index_of(layout: WeightLayout) -> dict[str, list[int]]:
    """The parallel lists of an index_dict.json, but for `layer`, which depends on dropout: where each layer's weight
    and bias begin in the flat vector and how long they are, its outputs, its kernel's h·w, and its inputs."""
    index: dict[str, list[int]] = {
        "idx_start": [],
        "idx_length": [],
        "kernel_no": [],
        "kernel_size": [],
        "channels_in": [],
    }
    for spec in layout.tensors:
        if len(spec.shape) > 1:
            index["idx_start"].append(spec.offset)
            index["idx_length"].append(spec.size)
            index["kernel_no"].append(spec.shape[0])
            index["kernel_size"].append(spec.size // (spec.shape[0] * spec.shape[1]))
            index["channels_in"].append(spec.shape[1])
        elif spec.name.endswith(".bias") and index["idx_length"]:
            index["idx_length"][-1] += spec.size
    return index


def vars_of(limits: Any) -> dict[str, int | None]:
    """Limits as JSON values."""
    return {"train": limits.train, "val": limits.val, "test": limits.test}


def _spread(paths: Sequence[str]) -> list[str]:
    """All paths, the first few of them far from each other."""
    step = max(len(paths) // _PROBES, 1)
    first = paths[::step]
    return [*first, *(path for index, path in enumerate(paths) if index % step)]


__all__ = ["RawFolder", "RawSource", "index_of", "is_raw"]
