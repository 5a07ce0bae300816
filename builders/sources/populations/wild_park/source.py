"""The CNN Wild Park: CNNs of all kinds trained on CIFAR-10, each with layers, activations and residual sums of its own
(Kofinas et al.: Graph neural networks for learning equivariant representations of neural networks, ICLR 2024)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.structure import StoredTensor
from zoo_datasets.builders.checkpoints.torch_file import MAX_CHECKPOINT, MAX_PICKLE, member_bytes, open_archive
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.containers.look import folders_near
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing, table_of
from zoo_datasets.builders.sources.populations.wild_park.checkpoint import (
    _NUMBER,
    PICKLE,
    WildCheckpoint,
    WildState,
    weights_of,
)
from zoo_datasets.builders.sources.splits import SOURCE_SPLIT, Named, assign, read_splits
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.populations import WILD_PARK
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import further_column
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import sha256_of

_MARK = b"create_random_cnns"
_PATH = re.compile(r"(?:.*/)?(?P<zoo>[^/]+)/(?P<trial>[^/]+)/(?P<state>[^/]+)/checkpoint\.pt")
_ARCHIVE, SPLITS_FILE = "cnn_wild_park.zip", "cnn_park_splits.json"
_LOOKED_INTO = 3  # files that decide whether it is this population
_FURTHER = (
    further_column("n_layers", "int64", "convolutions"),
    further_column("channels", "string", "JSON: of the images, then of each convolution"),
    further_column("kernel_size", "string", "JSON: of each convolution"),
    further_column("stride", "string", "JSON: of each convolution"),
    further_column("padding", "string", "JSON: of each convolution"),
    further_column("residual", "string", "JSON: the layer whose output is added before the activation; -1 is none"),
    further_column("activations", "string", "JSON: of each convolution"),
    further_column("residual_sums", "int64", "layers to which another one's output is added"),
    further_column("path", "string", "of the file in the archive"),
)
_REMARKS = (
    "Each network is the one that its settings describe, with its residual sums: loaders that leave these out "
    "compute other functions.",
    "Figures are those that the training saved with each state; the recipe (AdamW, learning rate 0.001, no weight "
    "decay, batches of 512, 200 epochs) is that of the published code.",
)


def is_wild_park(place: Place) -> bool:
    """Whether a place holds the CNN Wild Park: its archive, a folder with the archive in it, or what was unpacked."""
    if isinstance(place, Path):
        if not place.is_dir():
            return False
        if (place / _ARCHIVE).is_file():
            return True
        if not any((folder / "checkpoint.pt").exists() for folder in folders_near(place, 3)):
            return False
        place = open_container(place)
    paths = _paths(place)
    return any(_has_mark(place, path) for path, _ in zip(paths, range(_LOOKED_INTO), strict=False))


def _has_mark(container: Container, path: str) -> bool:
    """Whether the pickle of a file names the dataclass of the Wild Park."""
    try:
        with container.opened(path, MAX_CHECKPOINT) as data:
            members, starts = open_archive(data)
            return members[PICKLE].size <= MAX_PICKLE and _MARK in member_bytes(data, members, starts, PICKLE)
    except CheckpointError:
        return False


def _paths(container: Container) -> Iterator[str]:
    prefix = f"{container.name}/"  # of a folder that is the zoo itself
    return (path for path in container.entries if _PATH.fullmatch(prefix + path))


class WildParkSource(ListedSource):
    """The checkpoints of the CNN Wild Park in a folder or an archive, read in place."""

    kind = "CNN Wild Park"
    credit = WILD_PARK
    tells_splits = True

    def __init__(self, container: Container, reading: Reading, splits: Path | None = None) -> None:
        self._container = container
        self._told_splits = reading.splits is not None
        self._paths = self._wanted(sorted(_paths(container)), reading)
        container.prepare(self._paths, MAX_CHECKPOINT)
        listing = self._listed(splits)
        stamp = [container.fingerprint(), None if splits is None else sha256_of(splits)]
        super().__init__(reading.name or "cnn_wild_park", listing, reading, digest_of(stamp))

    @classmethod
    def open(cls, place: Place, reading: Reading) -> WildParkSource:
        """The population in a folder or an archive, with the authors' splits where their file lies beside or in it."""
        splits = None
        if isinstance(place, Path):
            if place.is_dir() and (place / _ARCHIVE).is_file():
                place = place / _ARCHIVE
            beside = [folder / SPLITS_FILE for folder in (place, place.parent) if folder.is_dir()]
            splits = next((path for path in beside if path.is_file()), None)
            place = open_container(place, reading.num_proc)
        elif place.beside is not None and (place.beside / SPLITS_FILE).is_file():
            splits = place.beside / SPLITS_FILE
        return cls(place, reading, reading.splits or splits)

    def _wanted(self, paths: list[str], reading: Reading) -> list[str]:
        """The files of the models that a number of them leaves, where no condition chooses among all."""
        if reading.models is None or reading.where is not None or reading.state_dicts.where is not None:
            return paths
        models = [self._model_of(path) for path in paths]
        chosen = {*sorted({*models})[: reading.models]}
        return [path for path, model in zip(paths, models, strict=True) if model in chosen]

    def _model_of(self, path: str) -> str:
        place = _PATH.fullmatch(f"{self._container.name}/{path}")
        assert place is not None
        return f"{place['zoo']}/{place['trial']}"

    def _listed(self, splits: Path | None) -> Listing:
        """Every file by what it says beside its tensors."""
        records: dict[str, NetworkRecord] = {}
        left_out: list[LeftOut] = []
        rows: list[dict[str, Any]] = []
        places: dict[tuple[StoredTensor, ...], tuple[StoredTensor, ...]] = {}
        self._states: list[WildState] = []
        for path in self._paths:
            number = _NUMBER.search(path.split("/")[-2])
            try:
                with self._container.opened(path, MAX_CHECKPOINT) as data:
                    state = WildCheckpoint(data).described(path)
            except CheckpointError as error:
                epoch = min(int(number[1]), MAX_EPOCH) if number else 0
                left_out.append(LeftOut(model=path, epochs=(epoch,), reason=str(error)))
                continue
            record = records.setdefault(state.record.hash, state.record)
            # Those of one model lie at the same places.
            tensors = places.setdefault(state.tensors, state.tensors)
            self._states.append(dataclasses.replace(state, record=record, tensors=tensors))
            rows.append(self._row(path, state))
        notes = Notes()
        described: dict[str, Any] = {"folder": self._container.name, "remarks": list(_REMARKS)}
        if splits is not None:
            described |= self._split(rows, splits, notes)
        names = dict.fromkeys(name for row in rows for name in row) or dict.fromkeys(("model_id", "epoch", "layout"))
        table = table_of({name: [row.get(name) for row in rows] for name in names}, _FURTHER)
        self._row_paths: list[str] = [row["path"] for row in rows]
        return Listing(
            table=table, records=records, further=_FURTHER, left_out=left_out, notes=notes, described=described
        )

    def _split(self, rows: Sequence[dict[str, Any]], splits: Path, notes: Notes) -> dict[str, Any]:
        """Fill the split of each row from a file; returns what the manifest records of that.

        Raises:
            SourceError: if the user names the file, and it is of none of them.
        """
        named = [Named(index=number, path=row["path"], names=(row["model_id"],)) for number, row in enumerate(rows)]
        try:
            assignment = assign(splits, read_splits(splits), named)
        except SourceError as error:
            if self._told_splits:
                raise
            notes.add([Note("splits-unread", f"{splits.name} lies beside it and is not used: {error}", whole=True)])
            return {}
        for row, split in zip(rows, assignment.splits, strict=True):
            row[SOURCE_SPLIT] = split
        notes.add(assignment.notes())
        return {"splits": assignment.describe()}

    def _row(self, path: str, state: WildState) -> dict[str, Any]:
        config = json.loads(state.config)
        model_id = self._model_of(path)
        lists = ("channels", "kernel_size", "stride", "padding", "residual")
        return {
            "model_id": model_id,
            "epoch": state.epoch,
            "layout": state.record.hash,
            "group": model_id,
            "images": "cifar10",
            "task": "classification",
            "in_channels": config["channels"][0],
            "classes": config["n_classes"],
            "n_layers": config["n_layers"],
            **{name: json.dumps(config[name]) for name in lists},
            "activations": json.dumps(config["activation"]),
            "residual_sums": sum(source >= 0 for source in config["residual"]),
            "path": path,
            **state.figures,
            **state.optimizer,
        }

    def label(self, number: int) -> str:
        return self._row_paths[number]

    def read_rows(self, numbers: Sequence[int], record: NetworkRecord) -> tuple[NDArray[np.float32], dict[int, str]]:
        weights, reasons = [], {}
        for position, number in enumerate(numbers):
            try:
                data = self._container.read(self._row_paths[number], MAX_CHECKPOINT)
                weights.append(weights_of(data, self._states[number]))
            except CheckpointError as error:
                reasons[position] = str(error)
        return np.stack(weights) if weights else np.empty((0, record.layout.size), np.float32), reasons
