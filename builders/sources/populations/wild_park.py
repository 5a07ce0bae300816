"""The CNN Wild Park: CNNs of all kinds trained on CIFAR-10, each with layers, activations and residual sums of its own
(Kofinas et al.: Graph neural networks for learning equivariant representations of neural networks, ICLR 2024)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from zoo_datasets.builders.checkpoints.pickled import Name, TensorStub
from zoo_datasets.builders.checkpoints.torch_file import (
    MAX_CHECKPOINT,
    MAX_PICKLE,
    Slices,
    StoredTensor,
    as_files,
    member_bytes,
    open_archive,
    read_pickle,
    state_tensors,
    structure_of,
)
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing, table_of
from zoo_datasets.builders.sources.populations.omegaconf import plain, vocabulary
from zoo_datasets.builders.sources.splits import SOURCE_SPLIT, Named, assign, read_splits
from zoo_datasets.documents import brief, finite_number, problems_of
from zoo_datasets.errors import CheckpointError, LayerError, SourceError, SpecError
from zoo_datasets.networks.layers import (
    ACTIVATIONS,
    Activate,
    AddRemembered,
    Conv,
    GlobalAveragePool,
    Layer,
    Linear,
    Remember,
    build_layout,
)
from zoo_datasets.networks.layers.documents import check_network, layers_to_json
from zoo_datasets.networks.module import Network
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.populations import WILD_PARK
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import further_column
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import sha256_of

_VOCABULARY = vocabulary(Name("create_random_cnns", "CNNConfig"))
_MARK = b"create_random_cnns"
_PICKLE = "data.pkl"
_PATH = re.compile(r"(?:.*/)?(?P<zoo>[^/]+)/(?P<trial>[^/]+)/(?P<state>[^/]+)/checkpoint\.pt")
_NUMBER = re.compile(r"(\d{1,9})$")
_ARCHIVE, SPLITS_FILE = "cnn_wild_park.zip", "cnn_park_splits.json"
_IMAGE = (3, 32, 32)  # CIFAR-10
_LOOKED_INTO = 3  # files that decide whether it is this population
# Figures as the files call them.
_FIGURES: Final = {
    f"{split}_{figure}": f"{split}/{figure}" for split in ("train", "val", "test") for figure in ("loss", "acc")
}
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

_Width = Annotated[int, Field(ge=1, le=1 << 12)]
_Widths = Annotated[list[_Width], Field(max_length=64)]


@checked_dataclass(frozen=True, kw_only=True)
class WildConfig:
    """The settings of one CNN; lists have an entry a layer, `channels` one more.

    Attributes:
        residual: of each layer, the earlier one whose output is added to its own before the activation; −1: none.
    """

    n_layers: Annotated[int, Field(ge=1, le=64)]
    n_classes: _Width
    channels: _Widths
    kernel_size: _Widths
    stride: _Widths
    padding: Annotated[list[Annotated[int, Field(ge=0, le=1 << 12)]], Field(max_length=64)]
    residual: Annotated[list[Annotated[int, Field(ge=-1, le=64)]], Field(max_length=64)]
    activation: Annotated[list[str], Field(max_length=64)]

    def layers(self) -> tuple[Layer, ...]:
        """The network.

        Raises:
            CheckpointError: if the settings are of none.
        """
        self._check()
        layers: list[Layer] = []
        for number in range(self.n_layers):
            layers.append(
                Conv(
                    f"layers.{number}",
                    self.channels[number],
                    self.channels[number + 1],
                    self.kernel_size[number],
                    self.stride[number],
                    self.padding[number],
                )
            )
            if self.residual[number] >= 0:
                layers.append(AddRemembered(_key(self.residual[number])))
            layers.append(Activate(self.activation[number]))
            if number in self.residual:
                layers.append(Remember(_key(number)))
        return (*layers, GlobalAveragePool(), Linear("fc", self.channels[-1], self.n_classes))

    def _check(self) -> None:
        lists = {
            name: len(getattr(self, name)) for name in ("kernel_size", "stride", "padding", "residual", "activation")
        }
        if wrong := [name for name, length in lists.items() if length != self.n_layers]:
            raise CheckpointError(f"its settings have {self.n_layers} layers, but {lists[wrong[0]]} of {wrong[0]}")
        if len(self.channels) != self.n_layers + 1:
            raise CheckpointError(f"its settings have {self.n_layers} layers, but {len(self.channels)} channels")
        if late := [number for number, source in enumerate(self.residual) if source >= number]:
            raise CheckpointError(f"its settings add the output of layer {self.residual[late[0]]} to layer {late[0]}")
        if unknown := [name for name in self.activation if name not in ACTIVATIONS]:
            raise CheckpointError(
                f"its settings name the activation {brief(unknown[0])}, known are {', '.join(ACTIVATIONS)}"
            )


_CONFIG = TypeAdapter(WildConfig)


def _key(number: int) -> str:
    return f"layers.{number}"


@lru_cache(maxsize=1 << 14)
def _record_of(config: str) -> NetworkRecord:
    """The network of settings as JSON, tried on an image.

    Raises:
        CheckpointError: if they are of none.
    """
    try:
        settings = _CONFIG.validate_json(config, strict=True)
    except ValidationError as error:
        raise CheckpointError(f"its settings are no CNN's: {problems_of(error, 'config')}") from None
    layers = settings.layers()
    try:
        check_network(layers)
        with torch.device("meta"):
            Network(layers)(torch.empty(1, *_IMAGE))
    except (SpecError, LayerError, RuntimeError) as error:
        raise CheckpointError(f"its settings make no network for CIFAR-10: {brief(str(error))}") from None
    return NetworkRecord(build_layout(layers), json.dumps(layers_to_json(layers)))


@dataclass(frozen=True, slots=True)
class _State:
    """What one file says of its tensors, and beside them.

    Attributes:
        tensors: where they lie, in the order of the layout.
        checksum: of the pickle that says so.
    """

    epoch: int
    config: str
    record: NetworkRecord
    tensors: tuple[StoredTensor, ...]
    checksum: int
    figures: Mapping[str, float | None]
    optimizer: Mapping[str, Any]


class _Checkpoint:
    """A checkpoint while it is interpreted.

    Raises:
        CheckpointError: if it is none of the Wild Park.
    """

    def __init__(self, data: Slices) -> None:
        self._members, self._starts = open_archive(data)
        content = read_pickle(data, self._members, self._starts, _VOCABULARY)
        if not isinstance(content, dict) or not {"model", "config"} <= content.keys():
            raise CheckpointError("it holds no model with a config, expected a checkpoint of the CNN Wild Park")
        self._content = content

    def described(self, path: str) -> _State:
        """All that it says."""
        config = self._config()
        record = _record_of(config)
        result = self._content.get("last_result")
        results = result if isinstance(result, dict) else {}
        return _State(
            epoch=self._epoch(path),
            config=config,
            record=record,
            tensors=self._tensors(record),
            checksum=self._members[_PICKLE].crc,
            figures={name: finite_number(results.get(theirs)) for name, theirs in _FIGURES.items()},
            optimizer=self._optimizer(),
        )

    def _config(self) -> str:
        """The settings as JSON."""
        try:
            config = plain(self._content["config"])
            return json.dumps({name: config[name] for name in WildConfig.__dataclass_fields__}, allow_nan=False)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"its settings lack {brief(str(error))}, or are none") from None

    def _epoch(self, path: str) -> int:
        """The number of epochs behind it: its `iteration`, else what the folder is named by."""
        iteration = self._content.get("iteration")
        if iteration is None and (number := _NUMBER.search(path.split("/")[-2])):
            iteration = int(number[1])
        if isinstance(iteration, bool) or not isinstance(iteration, int) or not 0 <= iteration <= MAX_EPOCH:
            raise CheckpointError(f"its iteration is {brief(iteration)}, expected a whole number of epochs")
        return iteration

    def _optimizer(self) -> dict[str, Any]:
        """Learning rate and weight decay, where the optimizer's state says them."""
        optimizer = self._content.get("optimizer")
        groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
        group = groups[0] if isinstance(groups, list) and groups and isinstance(groups[0], dict) else {}
        return {name: finite_number(group.get(name)) for name in ("lr", "weight_decay")}

    def _tensors(self, record: NetworkRecord) -> tuple[StoredTensor, ...]:
        """Where the tensors lie, which are those of the record and no others.

        Raises:
            CheckpointError: naming one that is not.
        """
        state = self._content["model"]
        if not isinstance(state, dict) or not all(isinstance(value, TensorStub) for value in state.values()):
            raise CheckpointError("its model is no state dict")
        shapes = {name: (stub.shape, stub.storage.dtype) for name, stub in state.items()}
        expected = {spec.name: (spec.shape, spec.dtype) for spec in record.layout.tensors}
        if shapes != expected:
            other = min(str(name) for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
            here, wanted = _shown(shapes.get(other)), _shown(expected.get(other))
            raise CheckpointError(f"its tensor {brief(other)} is {here}, its settings say {wanted}")
        tensors = {tensor.name: tensor for tensor in state_tensors(state, self._members, self._starts)}
        return tuple(tensors[spec.name] for spec in record.layout.tensors)


def _weights(data: bytes, state: _State) -> NDArray[np.float32]:
    """The flat weights [D] of a file that was described before.

    Raises:
        CheckpointError: if it is another one by now, or damaged.
    """
    members, starts = open_archive(data)
    if _PICKLE not in members or crc32(member_bytes(data, members, starts, _PICKLE)) != state.checksum:
        raise CheckpointError("it is another file than when it was first read; run the command again")
    structure = structure_of(data, members, starts, state.tensors)
    structure.check(data)
    files = as_files([data])
    return np.concatenate([structure.gather(files, tensor)[0] for tensor in state.tensors])


def _shown(tensor: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if tensor is None else f"{tensor[1]} of {list(tensor[0])}"


def is_wild_park(place: Place) -> bool:
    """Whether a place holds the CNN Wild Park: its archive, a folder with the archive in it, or what was unpacked."""
    if isinstance(place, Path):
        if not place.is_dir():
            return False
        if (place / _ARCHIVE).is_file():
            return True
        if (
            next(place.glob("*/*/checkpoint.pt"), None) is None
            and next(place.glob("*/*/*/checkpoint.pt"), None) is None
        ):
            return False
        place = open_container(place)
    paths = _paths(place)
    return any(_has_mark(place, path) for path, _ in zip(paths, range(_LOOKED_INTO), strict=False))


def _has_mark(container: Container, path: str) -> bool:
    """Whether the pickle of a file names the dataclass of the Wild Park."""
    try:
        with container.opened(path, MAX_CHECKPOINT) as data:
            members, starts = open_archive(data)
            return members[_PICKLE].size <= MAX_PICKLE and _MARK in member_bytes(data, members, starts, _PICKLE)
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
        self._states: list[_State] = []
        for path in self._paths:
            number = _NUMBER.search(path.split("/")[-2])
            try:
                with self._container.opened(path, MAX_CHECKPOINT) as data:
                    state = _Checkpoint(data).described(path)
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

    def _row(self, path: str, state: _State) -> dict[str, Any]:
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
                weights.append(_weights(data, self._states[number]))
            except CheckpointError as error:
                reasons[position] = str(error)
        return np.stack(weights) if weights else np.empty((0, record.layout.size), np.float32), reasons
