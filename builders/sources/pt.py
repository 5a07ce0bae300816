"""The preprocessed `.pt` datasets of the original authors as a source.

They are pickles of the authors' own dataset class; a stand-in takes its place and nothing of it runs. Their
properties are read off result.json by line and can be those of another epoch: they are matched by the
`training_iteration` that they carry.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES, StandIn, TensorStub
from zoo_datasets.builders.checkpoints.pickles import load_pickle
from zoo_datasets.builders.checkpoints.recognise import Recognised, acting_weights, recognise
from zoo_datasets.builders.checkpoints.torch_file import Structure, member_bytes, open_archive, state_tensors
from zoo_datasets.builders.checkpoints.vocabulary import DATASET
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.shards.rows import RowMaker
from zoo_datasets.builders.sources.base import Reading, Source, StateBlock, States, unknown_columns
from zoo_datasets.builders.sources.raw.figures import REPORTED, cleaned, number
from zoo_datasets.builders.sources.raw.hyperparameters import columns_of
from zoo_datasets.builders.sources.raw.models import read_params
from zoo_datasets.builders.sources.raw.names import raw_model_id, read_folder_name, zoo_name
from zoo_datasets.builders.sources.raw.published import common_to_all, credit_of, doi_of
from zoo_datasets.builders.sources.raw.trials import grid_of
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.networks.architectures import ARCHITECTURES
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import FIGURES
from zoo_datasets.repository.where import Condition
from zoo_datasets.runs.rows import Model, matching
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.spec import digest_of

_NOT_AT_HAND = Note(
    "import-no-raw-zoo", "the raw zoo is not at hand; hyperparameters are those in the names of its folders"
)
SPLIT_OF_KEY = {"trainset": "train", "valset": "validation", "testset": "test"}
MAX_PT = 1 << 40
PREPROCESSED = ".pt"


def is_pt(place: Place) -> bool:
    """Whether a file has the ending of a preprocessed dataset."""
    return isinstance(place, Path) and place.suffix == PREPROCESSED and place.is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """One state of one model: a state dict or a vector, as the file describes it."""

    value: Any
    figures: Mapping[str, float | None]


@dataclass(kw_only=True, slots=True)
class _Found:
    """One model of the file and its samples by epoch."""

    zoo: str
    trial: str
    source_split: str
    samples: dict[int, _Sample] = field(default_factory=dict)
    model: Model | None = None
    reason: str = ""


class PtSource(Source):
    """A preprocessed dataset. If the raw zoo lies beside it, hyperparameters come from its params.json."""

    network: NetworkKind

    kind = "preprocessed dataset"

    def __init__(self, path: Path, reading: Reading) -> None:
        self._reading = reading
        self._path = path
        self._notes = Notes()
        try:
            with path.open("rb") as file:
                # Mapped, because published files hold gigabytes; slices of a map are bytes.
                self._data = cast(bytes, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            self._members, self._starts = open_archive(self._data, MAX_PT)
            self._checked: set[str] = set()
            content = load_pickle(member_bytes(self._data, self._members, self._starts, "data.pkl"), DATASET)
            self._found = _models_of(content, self._notes)
        except (CheckpointError, OSError, ValueError) as error:
            raise SourceError(f"{path}: {error}") from error
        self._zoo_folder = Counter(entry.zoo for entry in self._found).most_common(1)[0][0]
        named = [read_folder_name(name) for name in (self._zoo_folder, path.stem, reading.name or "")]
        self._images = next((name.images for name in named if name.images), None)
        if self._images is None:
            raise SourceError(f"{path}: cannot tell which images its models were trained on; give --name mnist_cnn_s")
        self._kind = self._probe()
        self.network = self._kind.network
        self.name = zoo_name(self._images, self.network.architecture, named[0].suffix, None, None)
        trials = [entry.trial for entry in self._found if entry.zoo == self._zoo_folder]
        self.credit = credit_of(self.name, self._zoo_folder, trials)
        self._describe_models()
        self._found = self._select()
        self.models = len(self._found)
        self.states = sum(len(entry.samples) for entry in self._found)

    @classmethod
    def open(cls, path: Place, reading: Reading | None = None) -> PtSource:
        """The dataset in a local file.

        Raises:
            SourceError: if it is not such a dataset, or is broken.
        """
        reading = reading or Reading()
        if not isinstance(path, Path):
            raise SourceError(f"{path.name} is not a single file; a preprocessed dataset is one {PREPROCESSED} file")
        if reading.keep_log_sigma2:
            raise SourceError(f"{path}: preprocessed datasets hold no log_sigma2; build the raw zoo")
        return cls(path, reading)

    @property
    def source_id(self) -> str:
        """Digest of the zoo's name and of what decides which rows it can have."""
        where = None if self._reading.where is None else self._reading.where.text
        return digest_of(["pt", self._zoo_folder, where, dataclasses.asdict(self._reading.limits)])

    @property
    def zoo(self) -> Mapping[str, Any]:
        """The known fields of the recipe."""
        models = [entry.model for entry in self._found if entry.model is not None]
        value = {"name": self.name, "images": self._images, "architecture": self.network.architecture}
        value["doi"] = doi_of(self.name, self.credit)
        return value | grid_of([model.columns for model in models])

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """Its origin, limits and selection, and the notes about it."""
        return {
            "folder": self._zoo_folder,
            "images": {"name": self._images},
            "limits": dataclasses.asdict(self._reading.limits),
            "selection": self._reading.selection(),
            **self._notes.describe(),
        }

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        """Irregularities that excluded no state."""
        return self._notes

    @property
    def unknown(self) -> tuple[str, ...]:
        """The hyperparameter columns that are null for some of its models."""
        return unknown_columns(entry.model for entry in self._found)

    def refused(self) -> list[LeftOut]:
        """Models whose hyperparameters are missing, each with the reason."""
        return [
            LeftOut(model=entry.trial, epochs=tuple(sorted(entry.samples)), reason=entry.reason)
            for entry in self._found
            if entry.model is None
        ]

    def fingerprint(self) -> str:
        """Changes when the file changes."""
        status = self._path.stat()
        return digest_of([status.st_size, status.st_mtime_ns, self.source_id])

    @cached_property
    def _epochs(self) -> tuple[int, ...]:
        return tuple(sorted({epoch for entry in self._found for epoch in entry.samples}))

    def blocks(self) -> Sequence[StateBlock]:
        """One block of all models and epochs."""
        models = tuple(entry.model for entry in self._found if entry.model is not None)
        return [StateBlock(models=models, epochs=self._epochs)] if models else []

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, one at a time."""
        wanted = {model.model_id for model in block.models}
        for epoch in block.epochs:
            for entry in self._found:
                if entry.model is None or entry.model.model_id not in wanted or epoch not in entry.samples:
                    continue
                sample = entry.samples[epoch]
                try:
                    weights = self._weights(sample.value)
                except CheckpointError as error:
                    yield LeftOut(model=entry.trial, epochs=(epoch,), reason=str(error))
                    continue
                yield States(
                    epochs=(epoch,),
                    models=[entry.model],
                    weights=torch.from_numpy(weights),
                    figures=_columns_of([sample]),
                )

    def _weights(self, value: Any) -> NDArray[np.float32]:
        """float32 [1, D] of a state dict or a vector."""
        recognised = self._recognise(value)
        if recognised.layout != self.layout:
            raise CheckpointError(
                f"it is a {recognised.network.architecture}, the others are {self.network.architecture}"
            )
        files = np.frombuffer(self._data, np.uint8).reshape(1, -1)
        return acting_weights(recognised, files)[0]

    def _recognise(self, value: Any) -> Recognised:
        vector = isinstance(value, TensorStub)
        tensors = state_tensors({"vector": value} if vector else value, self._members, self._starts)
        for name in self._keys(value):
            if name not in self._checked:
                begin = self._starts[name]
                if crc32(self._data[begin : begin + self._members[name].size]) != self._members[name].crc:
                    raise CheckpointError(f"the checksum of {name} is wrong; the file is damaged")
                self._checked.add(name)
        if not vector:
            return recognise(Structure(len(self._data), tensors, (), ()))
        (whole,) = tensors
        spec = get_image_spec(self._images or "")
        for architecture in ARCHITECTURES:
            layout = NetworkKind.on(architecture, spec).layout
            if len(whole.shape) == 1 and whole.stride is None and layout.size == whole.size:
                item = ITEM_SIZES[whole.dtype]
                pieces = tuple(
                    dataclasses.replace(
                        whole, name=one.name, shape=one.shape, size=one.size, start=whole.start + item * one.offset
                    )
                    for one in layout.tensors
                )
                return recognise(Structure(len(self._data), pieces, (), ()))
        raise CheckpointError(f"its vector {list(whole.shape)} matches no architecture on {self._images}")

    def _keys(self, value: Any) -> set[str]:
        stubs = [value] if isinstance(value, TensorStub) else value.values()
        return {f"data/{stub.storage.key}" for stub in stubs}

    def _probe(self) -> Recognised:
        reason = "it holds no sample"
        for entry in self._found:
            for sample in entry.samples.values():
                try:
                    return self._recognise(sample.value)
                except CheckpointError as error:
                    reason = str(error)
        raise SourceError(f"{self._path}: no sample of it could be read: {reason}")

    def _describe_models(self) -> None:
        """Hyperparameters: of the raw zoo beside the file, else in the trial's name, else the published zoo's."""
        params = read_params(self._reading.parents, self._path.resolve().parent, {entry.zoo for entry in self._found})
        common: dict[str, dict[str, Any]] = {}
        for zoo in {entry.zoo for entry in self._found}:
            common[zoo] = common_to_all(self.name, zoo, [entry.trial for entry in self._found if entry.zoo == zoo])
        for entry in self._found:
            notes: list[Note] = []
            try:
                hyperparameters = params.get((entry.zoo, entry.trial))
                if hyperparameters is None:
                    notes.append(_NOT_AT_HAND)
                    hyperparameters, strange = columns_of([], entry.trial, common[entry.zoo])
                    notes += strange
                columns = hyperparameters | {"images": self._images, "source_split": entry.source_split}
                entry.model = Model(model_id=raw_model_id(entry.zoo, entry.trial), columns=columns, label=entry.trial)
            except CheckpointError as error:
                entry.reason = str(error)
            self._notes.add(notes)

    def _select(self) -> list[_Found]:
        reading = self._reading
        entries = sorted(self._found, key=lambda entry: raw_model_id(entry.zoo, entry.trial))
        for entry in entries:
            if reading.epochs is not None:
                entry.samples = {epoch: entry.samples[epoch] for epoch in entry.samples if epoch in reading.epochs}
        if reading.where is not None:
            self._keep(reading.where, entries)
        kept = [entry for entry in entries if entry.samples]
        if not kept:
            raise SourceError(f"{self._path}: no state of it fits the selection")
        return kept[: reading.models]

    def _keep(self, where: Condition, entries: Sequence[_Found]) -> None:
        """Keep of each model the samples that a condition keeps; what is not a model cannot be judged and stays."""
        judged = [(entry, entry.model, epoch) for entry in entries if entry.model for epoch in entry.samples]
        kept = matching(
            where,
            RowMaker(self, self._reading.name or self.name),
            [(model, epoch) for _, model, epoch in judged],
            lambda here: _columns_of([entry.samples[epoch] for entry, _, epoch in judged[here]]),
        )
        samples = [(entry, epoch, entry.samples[epoch]) for entry, _, epoch in (judged[number] for number in kept)]
        for entry, _, _ in judged:
            entry.samples = {}
        for entry, epoch, sample in samples:
            entry.samples[epoch] = sample


def _columns_of(samples: Sequence[_Sample]) -> dict[str, pa.Array]:
    """The figures of some states as one array for each of `FIGURES`."""
    columns = {name: [sample.figures.get(name) for sample in samples] for name in FIGURES}
    return {name: pa.array(values, pa.float32()) for name, values in columns.items()}


def _models_of(content: Any, notes: Notes) -> list[_Found]:
    """The models of all splits.

    Raises:
        CheckpointError: if the content is not that of a preprocessed dataset.
    """
    if not isinstance(content, dict) or not set(SPLIT_OF_KEY) & set(content):
        raise CheckpointError(
            f"it holds a {type(content).__name__}, expected a dictionary with trainset, valset, testset"
        )
    models: dict[tuple[str, str], _Found] = {}
    for key, split in SPLIT_OF_KEY.items():
        part = content.get(key)
        if part is None:
            notes.add([Note("import-missing-split", f"{key} is missing")])
            continue
        if not isinstance(part, StandIn):
            raise CheckpointError(f"its {key} is a {type(part).__name__}, expected the authors' dataset")
        _add_samples(models, part.attributes, key, split, notes)
    if not models:
        raise CheckpointError("it holds no sample")
    return list(models.values())


def _add_samples(
    models: dict[tuple[str, str], _Found], attributes: Mapping[Any, Any], key: str, split: str, notes: Notes
) -> None:
    data, paths, epochs = (attributes.get(name) for name in ("data_in", "paths", "epochs"))
    if not (isinstance(data, list) and isinstance(paths, list) and isinstance(epochs, list)):
        raise CheckpointError(f"its {key} lacks data_in, paths or epochs")
    if not len(data) == len(paths) == len(epochs):
        raise CheckpointError(f"its {key} has {len(data)} samples, {len(paths)} paths and {len(epochs)} epochs")
    figures = _figures(attributes.get("properties"), paths, notes)
    for value, path, epoch in zip(data, paths, epochs, strict=True):
        parts = PurePosixPath(path.replace("\\", "/")).parts if isinstance(path, str) else ()
        if len(parts) < 2 or type(epoch) is not int or not 0 <= epoch <= MAX_EPOCH:
            raise CheckpointError(f"a sample of its {key} has no path to a trial, or no epoch")
        if not isinstance(value, (dict, TensorStub)) or not _sound(value):
            raise CheckpointError(f"a sample of its {key} is a {type(value).__name__}, expected tensors")
        identity = (parts[-2], parts[-1])
        entry = models.setdefault(identity, _Found(zoo=parts[-2], trial=parts[-1], source_split=split))
        if entry.source_split != split:
            notes.add([Note("import-two-splits", "a model stands in two splits of the file; the first counts")])
        if epoch in entry.samples:
            notes.add([Note("import-repeated-sample", "a sample stands in the file twice; the first counts")])
            continue
        if (row := figures.get((path, epoch))) is None:
            notes.add([Note("import-missing-report", "no properties of a sample's epoch; its figures are null")])
        entry.samples[epoch] = _Sample(value=value, figures=row or {})


def _sound(value: Any) -> bool:
    """Whether a sample holds tensors under names and nothing else."""
    return isinstance(value, TensorStub) or all(
        isinstance(name, str) and isinstance(stub, TensorStub) for name, stub in value.items()
    )


def _figures(properties: Any, paths: Sequence[Any], notes: Notes) -> dict[tuple[str, int], dict[str, float | None]]:
    """The figures of each (path, training_iteration)."""
    iterations = properties.get("training_iteration") if isinstance(properties, dict) else None
    if not isinstance(iterations, list) or len(iterations) != len(paths):
        text = "properties carry no training_iteration and cannot be trusted; figures are null"
        notes.add([Note("import-no-iterations", text)])
        return {}
    columns = {name: value for name in (*REPORTED, "ggap") if isinstance(value := properties.get(name), list)}
    reports: dict[str, dict[int, tuple[Any, ...]]] = {}
    gaps: dict[tuple[str, int], Any] = {}
    for index, (path, iteration) in enumerate(zip(paths, iterations, strict=True)):
        # A path that is something else refuses the file later; tuples of tuples would take exponential time to hash.
        if type(iteration) is not int or not isinstance(path, str):
            continue
        row = {name: values[index] for name, values in columns.items() if index < len(values)}
        gaps[path, iteration] = row.get("ggap")
        reports.setdefault(path, {})[iteration] = tuple(map(row.get, REPORTED))
    figures: dict[tuple[str, int], dict[str, float | None]] = {}
    for path, rows in reports.items():
        kept, strange = cleaned(rows, file="properties")
        notes.add(strange)
        in_percent = any(note.code == "import-percent" for note in strange)
        for iteration, values in kept.items():
            row = dict(zip(FIGURES, values, strict=False))
            gap, accuracy = number(gaps[path, iteration]), row["test_acc"]
            if row["train_acc"] is None and accuracy is not None and gap is not None and math.isfinite(gap):
                accuracy += gap / 100 if in_percent else gap
                row["train_acc"] = accuracy if 0 <= accuracy <= 1 else None
            figures[path, iteration] = row
    return figures
