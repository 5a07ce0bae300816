"""The Small CNN Zoo: flat weights of TensorFlow in one array, a table of figures and a table of the layout
(Unterthiner et al.: Predicting Neural Network Accuracy from Weights, 2020)."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES
from zoo_datasets.builders.checkpoints.torch_file import Slices, StoredTensor
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import Place, folders_in
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.shards.writer import rows_of_a_group
from zoo_datasets.builders.sources.base import Reading, StateBlock, States
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing
from zoo_datasets.builders.sources.populations.nfn_splits import plain_numbers, published_splits
from zoo_datasets.builders.sources.splits import Named, assign, read_splits
from zoo_datasets.builders.state_dicts.columns import column_name
from zoo_datasets.builders.state_dicts.numpy_file import array_in
from zoo_datasets.documents import brief
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.native.rows import Recycled
from zoo_datasets.networks.architectures import MAX_WIDTH, get_architecture
from zoo_datasets.networks.layers import Activate, Conv, Dropout, GlobalAveragePool, Layer, Linear, build_layout
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.layout import MAX_SIZE
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.populations import SMALL_CNN, SMALL_CNN_FACTS, SMALL_CNN_PIXELS
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import FURTHER_TYPES, further_column, further_problem
from zoo_datasets.specs.bounds import MAX_EPOCH, NAME
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import sha256_of

WEIGHTS_FILE, LAYOUT_FILE = "weights.npy", "layout.csv"
METRICS_FILES: Final = ("metrics.csv.gz", "metrics.csv")
FILES: Final = (WEIGHTS_FILE, LAYOUT_FILE, *METRICS_FILES)
_LARGEST = 1 << 40  # bytes of the array
_LARGEST_MEMBER = 1 << 31  # where it is compressed, and so read as a whole
_LARGEST_TABLE = 1 << 30
_LARGEST_LAYOUT = 1 << 20
_MOST_COLUMNS = 500
_FLOATS: Final = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
_STRIDE = 2  # of every convolution, none of which is padded
SMALL_CNN_ARCHITECTURE = "small_cnn"

# Our columns by theirs, `config.` left out.
_STANDARD: Final = {
    "activation": "activation",
    "dropout": "dropout",
    "learning_rate": "lr",
    "optimizer": "optimizer",
    "w_init": "init",
    "random_seed": "seed",
    "test_accuracy": "test_acc",
    "test_loss": "test_loss",
    "train_accuracy": "train_acc",
    "train_loss": "train_loss",
}
_TYPES: Final[Mapping[str, pa.DataType]] = {
    **{name: pa.string() for name in ("activation", "optimizer", "w_init", "b_init", "dataset", "dnn_architecture")},
    **{name: pa.float64() for name in ("dropout", "learning_rate", "l2reg", "init_std", "train_fraction")},
    **{name: pa.float64() for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss")},
    **{name: pa.int64() for name in ("epochs", "epochs_between_checkpoints", "num_layers", "num_units")},
    **{name: pa.int64() for name in ("random_seed", "step")},
    "modeldir": pa.string(),
}
_ROW = "row"
_DOCS: Final = {
    _ROW: f"number of the row of {WEIGHTS_FILE}, from 0",
    "modeldir": "the authors' folder of the run",
    "l2reg": "Keras's L2 coefficient; weight_decay is twice that",
    "dataset": "the authors' name of the images",
    "train_fraction": "share of the training images that the model was trained on",
}
_IMAGES: Final = {"svhn_cropped": "svhn"}
_ACCURACIES: Final = ("test_acc", "train_acc")


def is_small_cnn(place: Place) -> bool:
    """Whether a place holds a zoo of this format: weights, figures and layout in one folder."""
    if isinstance(place, Path):
        if not place.is_dir():
            return False
        return any(map(_is_folder, _near(place)))
    return bool(_folders(place))


def _near(place: Path) -> Iterator[Path]:
    """A folder, and those in it down to two levels."""
    yield place
    folders = folders_in(place)
    yield from folders
    for folder in folders:
        with contextlib.suppress(PermissionError):
            yield from folders_in(folder)


def _is_folder(path: Path) -> bool:
    has = [(path / name).is_file() for name in FILES]
    return has[0] and has[1] and any(has[2:])


def _folders(container: Container) -> list[str]:
    """The folders of a container that are zoos, each with a slash at its end unless it is the container."""
    entries = {*container.entries}
    folders = [entry.removesuffix(WEIGHTS_FILE) for entry in entries if entry.rsplit("/", 1)[-1] == WEIGHTS_FILE]
    return sorted(
        folder
        for folder in folders
        if f"{folder}{LAYOUT_FILE}" in entries and any(f"{folder}{name}" in entries for name in METRICS_FILES)
    )


# the layout


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of TensorFlow in each row: its layer, whether it is a bias, and where it lies."""

    layer: str
    bias: bool
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Where the next one begins."""
        return self.start + math.prod(self.shape)


def read_layout(data: bytes) -> list[Variable]:
    """The variables of a layout file, in the order of a row.

    Raises:
        SourceError: if it is none, or its variables do not lie side by side.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{LAYOUT_FILE} is no CSV: {error}") from error
    variables = sorted(map(_variable, rows), key=lambda one: one.start)
    place = 0
    for one in variables:
        if one.start != place:
            what = "leaves out" if one.start > place else "has twice"
            low, high = sorted((place, one.start))
            raise SourceError(f"{LAYOUT_FILE} {what} the weights {low:,} to {high:,}; expected each once")
        place = one.stop
    if not variables or place > MAX_SIZE:
        raise SourceError(f"{LAYOUT_FILE} tells {place:,} weights, 1 to {MAX_SIZE:,} expected")
    return variables


def _variable(row: Mapping[str, Any]) -> Variable:
    name, start, stop, shape = (row.get(column) for column in ("varname", "start_idx", "end_idx", "shape"))
    if not all(isinstance(text, str) for text in (name, start, stop, shape)):
        raise SourceError(f"{LAYOUT_FILE}: expected the columns varname, start_idx, end_idx and shape in each row")
    layer, _, kind = str(name).rpartition(":")[0].rpartition("/")
    axes = _shape(str(shape))
    try:
        begin, end = int(str(start)), int(str(stop))
    except ValueError:
        begin = end = -1
    if begin < 0 or end - begin != math.prod(axes):
        raise SourceError(
            f"{LAYOUT_FILE}: {brief(name)} of shape {list(axes)} reaches from {brief(start)} to {brief(stop)}; "
            f"expected {math.prod(axes):,} weights"
        )
    if len(axes) not in {"bias": (1,), "kernel": (2, 4)}.get(kind, ()):
        raise SourceError(
            f"{LAYOUT_FILE}: {brief(name)} has the shape {list(axes)}; expected kernels of 4 axes (convolutions) or 2 "
            "(dense), and biases of 1"
        )
    return Variable(layer, kind == "bias", begin, axes)


def _shape(text: str) -> tuple[int, ...]:
    """The text of a tuple, read as a literal of at most a few numbers: nothing in it is ever run."""
    try:
        value = ast.literal_eval(text.strip()) if len(text) <= 100 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    axes = value if isinstance(value, (tuple, list)) else ()
    whole = all(isinstance(axis, int) and not isinstance(axis, bool) and 1 <= axis <= MAX_WIDTH for axis in axes)
    if not 1 <= len(axes) <= 4 or not whole:
        raise SourceError(f"{LAYOUT_FILE}: the shape {brief(text)} is none; expected as (3, 3, 1, 16)")
    return tuple(axes)


@dataclass(frozen=True)
class Orientation:
    """The network of a layout, and where each of its weights, in torch's order, lies in a row of TensorFlow's."""

    layers: tuple[Layer, ...]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, variables: Sequence[Variable]) -> Orientation:
        """Convolutions of stride 2 without padding, each with activation and dropout, the mean of all pixels, and a
        dense layer.

        Raises:
            SourceError: if the variables are not of such a network.
        """
        by_layer: dict[str, dict[bool, Variable]] = {}
        for one in variables:
            if by_layer.setdefault(one.layer, {}).setdefault(one.bias, one) is not one:
                raise SourceError(f"{LAYOUT_FILE}: two kernels, or biases, of {brief(one.layer)}; expected one")
        layers: list[Layer] = []
        sources: dict[str, NDArray[np.int64]] = {}
        width: int | None = None
        for number, (name, parts) in enumerate(by_layer.items(), 1):
            kernel, last = parts.get(False), number == len(by_layer)
            if kernel is None or len(kernel.shape) != (2 if last else 4):
                expected = "a dense layer at the end" if last else "convolutions before the last layer"
                raise SourceError(
                    f"{LAYOUT_FILE}: {brief(name)} is another layer than expected: {expected}, with kernel"
                )
            inputs, outputs = kernel.shape[-2:]
            own = "fc" if last else f"conv{number}"
            bias = parts.get(True)
            square = last or kernel.shape[0] == kernel.shape[1]
            if not square or (width not in (None, inputs)) or (bias is not None and bias.shape != (outputs,)):
                raise SourceError(
                    f"{LAYOUT_FILE}: {brief(name)} of shape {list(kernel.shape)} does not fit: square kernels, as many "
                    "inputs as the layer before has outputs, and as many biases as outputs expected"
                )
            width = outputs
            if last:
                layers += [GlobalAveragePool(), Linear(own, inputs, outputs)]
            else:
                convolution = Conv(own, inputs, outputs, kernel.shape[0], _STRIDE, bias=bias is not None)
                layers += [convolution, Activate(), Dropout()]
            if last and bias is None:
                raise SourceError(f"{LAYOUT_FILE}: {brief(name)} has no bias; expected one")
            axes = (1, 0) if last else (3, 2, 0, 1)  # (in, out) and HWIO
            sources[f"{own}.weight"] = _indices(kernel).transpose(axes)
            if bias is not None:
                sources[f"{own}.bias"] = _indices(bias)
        ordered = [sources[spec.name].ravel() for spec in build_layout(layers).tensors]
        return cls(tuple(layers), np.concatenate(ordered))

    @cached_property
    def record(self) -> NetworkRecord:
        """What rows name their network by."""
        return NetworkRecord(build_layout(self.layers), json.dumps(layers_to_json(self.layers)))

    def columns(self) -> dict[str, Any]:
        """`architecture`, where it is that of the table, and numbers of inputs and classes."""
        first, last = self.layers[0], self.layers[-1]
        inputs = first.in_channels if isinstance(first, Conv) else 1
        classes = last.out_features if isinstance(last, Linear) else 1
        known = get_architecture(SMALL_CNN_ARCHITECTURE).layers(inputs, classes) == self.layers
        return {
            "architecture": SMALL_CNN_ARCHITECTURE if known else None,
            "in_channels": inputs,
            "classes": classes,
        }


def _indices(one: Variable) -> NDArray[np.int64]:
    return np.arange(one.start, one.stop).reshape(one.shape)


# the table of figures


def read_metrics(data: bytes, compressed: bool) -> pa.Table:
    """The columns of a table of figures by their plain names; what has no name, as an index, is left out.

    Raises:
        SourceError: if it is no CSV, a bomb, or lacks what tells the rows apart.
    """
    text = _gunzipped(data) if compressed else data
    try:
        header = next(csv.reader(io.StringIO(text[:_LARGEST_LAYOUT].decode("utf-8-sig", "replace"), newline="")), [])
    except csv.Error as error:
        raise SourceError(f"{METRICS_FILES[0]} is no CSV: {error}") from error
    names = [column_name(name.removeprefix("config.")) for name in header]
    named = [name for name in names if name]
    if len(names) > _MOST_COLUMNS or len({*named}) != len(named):
        twice = [name for name, count in Counter(named).items() if count > 1]
        problem = f"has two columns {brief(twice[0])}" if twice else f"has {len(names):,} columns"
        raise SourceError(f"{METRICS_FILES[0]} {problem}; expected names that differ, {_MOST_COLUMNS} at most")
    if missing := [name for name in ("modeldir", "step") if name not in named]:
        raise SourceError(f"{METRICS_FILES[0]} lacks the column {missing[0]}; expected one of these: modeldir, step")
    unique = [name or f" {place}" for place, name in enumerate(names)]
    options = pa_csv.ConvertOptions(
        column_types={
            name: pa.float64() if _TYPES[name] == pa.int64() else _TYPES[name] for name in named if name in _TYPES
        },
        include_columns=named,
        strings_can_be_null=True,
    )
    reading = pa_csv.ReadOptions(column_names=unique, skip_rows=1, use_threads=False)
    try:
        table = pa_csv.read_csv(pa.BufferReader(text), reading, pa_csv.ParseOptions(), options)
    except (pa.ArrowException, ValueError) as error:
        raise SourceError(f"{METRICS_FILES[0]} could not be read: {' '.join(str(error).split())[:200]}") from error
    return pa.table({name: _typed(name, table[name].combine_chunks()) for name in table.column_names})


def _typed(name: str, values: pa.Array) -> pa.Array:
    """A column as bool, int64, float64 or string; of whole numbers, what is none is null."""
    if name in _TYPES and _TYPES[name] == pa.int64():
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), float(1 << 53)))
        return pc.if_else(pc.fill_null(whole, False), values, None).cast(pa.int64())
    if values.type in FURTHER_TYPES.values():
        return values
    return values.cast(pa.int64() if pa.types.is_integer(values.type) else pa.string())


def _gunzipped(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, _LARGEST_TABLE)
    except zlib.error as error:
        raise SourceError(f"{METRICS_FILES[0]} is no gzip, or broken: {error}") from error
    if unpacker.unconsumed_tail:
        raise SourceError(f"{METRICS_FILES[0]} unpacks to more than {_LARGEST_TABLE:,} bytes; it was refused")
    if not unpacker.eof:
        raise SourceError(f"{METRICS_FILES[0]} is cut short")
    return text


class SmallCnnSource(ListedSource):
    """A Small CNN Zoo in a folder or an archive; weights are read where they lie, some rows at a time."""

    kind = "Small CNN Zoo"
    credit = SMALL_CNN
    keeps_nonfinite = True
    tells_splits = True

    def __init__(self, container: Container, reading: Reading) -> None:
        folders = _folders(container)
        if len(folders) != 1:
            raise SourceError(
                f"{container.name} holds {len(folders)} zoos, as {', '.join(map(brief, folders[:4]))}; build from the "
                "folder of one"
            )
        self._container, self._folder = container, folders[0]
        self._recycled = Recycled()
        self._most_rows = 0
        self._metrics_file = next(name for name in METRICS_FILES if f"{self._folder}{name}" in {*container.entries})
        container.prepare(
            [f"{self._folder}{name}" for name in (WEIGHTS_FILE, LAYOUT_FILE, self._metrics_file)], _LARGEST
        )
        self._orientation = Orientation.of(read_layout(self._read(LAYOUT_FILE, _LARGEST_LAYOUT)))
        with self._weights() as data:
            self._array = self._checked(data)
        metrics = read_metrics(self._read(self._metrics_file, _LARGEST_TABLE), self._metrics_file.endswith(".gz"))
        listing = self._listed(metrics, reading)
        # By the number of a row of the listing, that of the array.
        self._rows: NDArray[np.int64] = listing.table[_ROW].to_numpy()
        images = (
            pc.unique(metrics["dataset"].cast(pa.string())).to_pylist() if "dataset" in metrics.column_names else []
        )
        self._images = _IMAGES.get(images[0], images[0]) if len(images) == 1 and images[0] else None
        name = f"small_cnn_zoo_{self._images}"
        stamp = digest_of([container.fingerprint(), [] if reading.splits is None else [sha256_of(reading.splits)]])
        super().__init__(
            reading.name or (name if self._images and NAME.fullmatch(name) else "small_cnn_zoo"),
            listing,
            reading,
            stamp,
        )

    @classmethod
    def open(cls, place: Place, reading: Reading) -> SmallCnnSource:
        """The zoo in a folder or an archive.

        Raises:
            SourceError: if there are several, or the files of it contradict each other.
        """
        return cls(open_container(place, reading.num_proc) if isinstance(place, Path) else place, reading)

    # files

    def _read(self, name: str, limit: int) -> bytes:
        try:
            return self._container.read(f"{self._folder}{name}", limit)
        except CheckpointError as error:
            raise SourceError(f"{self._container.name}: {name}: {error}") from error

    def _weights(self) -> Any:
        return self._container.opened(f"{self._folder}{WEIGHTS_FILE}", _LARGEST)

    def _checked(self, data: Slices) -> StoredTensor:
        """The array of weights, whose header alone is read.

        Raises:
            SourceError: if it is none of so many weights a row, or is cut short.
        """
        where = f"{self._container.name}: {WEIGHTS_FILE}"
        if isinstance(data, bytes) and len(data) > _LARGEST_MEMBER:
            raise SourceError(f"{where} is compressed and larger than {_LARGEST_MEMBER:,} bytes: unpack the archive")
        try:
            array = array_in(data, WEIGHTS_FILE)
        except CheckpointError as error:
            raise SourceError(f"{where}: {error}") from error
        size = len(self._orientation.places)
        if len(array.shape) != 2 or array.shape[1] != size or array.stride is not None or array.dtype not in _FLOATS:
            order = " in Fortran's order" if array.stride is not None else ""
            raise SourceError(
                f"{where} holds {array.dtype} of shape {list(array.shape)}{order}; expected float32 [rows, {size:,}], "
                f"as {LAYOUT_FILE} tells"
            )
        held = (len(data) - array.start) // (size * ITEM_SIZES[array.dtype])
        if held < array.shape[0]:
            raise SourceError(f"{where} is cut short: {held:,} of {array.shape[0]:,} rows are there; fetch it again")
        return array

    # columns

    def _listed(self, metrics: pa.Table, reading: Reading) -> Listing:
        rows = self._array.shape[0]
        if len(metrics) != rows:
            raise SourceError(
                f"{self._container.name}: {WEIGHTS_FILE} has {rows:,} rows, {self._metrics_file} {len(metrics):,}; "
                "expected as many"
            )
        notes = Notes()
        notes.add(self._container.notes)
        columns = self._columns(metrics, notes)
        described: dict[str, Any] = {
            "folder": self._container.name,
            "step": "theirs is the column epoch",
            "weight_decay": "2 · l2reg",
            **SMALL_CNN_FACTS,
        }
        if reading.splits is not None:
            columns["source_split"] = self._splits(reading.splits, columns, notes, described)
        left_out, kept = self._left_out(columns)
        standard = {*_STANDARD.values(), "model_id", "epoch", "layout", "images", "architecture", "in_channels"}
        standard |= {"classes", "task", "weight_decay", "source_split"}
        kinds = {kind: name for name, kind in FURTHER_TYPES.items()}
        further = tuple(
            further_column(name, kinds[values.type], _DOCS.get(name, "the authors' configuration"))
            for name, values in columns.items()
            if name not in standard
        )
        table = pa.table(columns)
        record = self._orientation.record
        return Listing(
            table=table if kept is None else table.take(pa.array(kept)),
            records={record.hash: record},
            further=further,
            left_out=left_out,
            notes=notes,
            described=described,
        )

    def _columns(self, metrics: pa.Table, notes: Notes) -> dict[str, pa.Array]:
        """All columns of the rows, by our names."""
        rows = len(metrics)
        theirs = {name: metrics[name].combine_chunks() for name in metrics.column_names}
        columns: dict[str, pa.Array] = {
            "model_id": self._model_ids(theirs),
            "epoch": theirs.pop("step"),
            "layout": pa.array([self._orientation.record.hash]).take(pa.array(np.zeros(rows, np.int64))),
            _ROW: pa.array(np.arange(rows)),
        }
        constants = {"task": "classification", **self._orientation.columns()}
        columns |= {name: pa.repeat(value, rows) for name, value in constants.items() if value is not None}
        if "dataset" in theirs:
            values = theirs["dataset"].dictionary_encode()
            known = [_IMAGES.get(name, name) for name in values.dictionary.to_pylist()]
            columns["images"] = pa.array(known, pa.string()).take(values.indices)
        if "l2reg" in theirs:
            columns["weight_decay"] = pc.multiply(theirs["l2reg"], 2.0)
        for name, values in theirs.items():
            own = _STANDARD.get(name, name)
            if own in columns or (own == name and name not in _STANDARD and further_problem(name) is not None):
                notes.add([Note("small-cnn-column", f"its column {name[:80]!r} was left out", whole=True)])
            elif values.null_count < rows:
                columns[own] = values
        return columns

    def _model_ids(self, theirs: Mapping[str, pa.Array]) -> pa.Array:
        """The hash of data set and folder of each run."""
        runs = theirs["modeldir"].dictionary_encode()
        sets = theirs.get("dataset")
        if sets is None or len(pc.unique(sets)) <= 1:
            own = sets[0].as_py() if sets is not None and len(sets) else None
            ids = [self._id(own, folder) for folder in runs.dictionary.to_pylist()]
            return pa.array(ids, pa.string()).take(runs.indices)
        pairs = zip(sets.to_pylist(), theirs["modeldir"].to_pylist(), strict=True)
        return pa.array([None if folder is None else self._id(own, folder) for own, folder in pairs], pa.string())

    @staticmethod
    def _id(images: str | None, folder: str) -> str:
        return digest_of(["small cnn zoo", images, folder])

    def _left_out(self, columns: Mapping[str, pa.Array]) -> tuple[list[LeftOut], NDArray[np.int64] | None]:
        """The rows that cannot be: of no run or step, or a second one of the same; and the numbers of the others."""
        ids, epochs = columns["model_id"], columns["epoch"]
        inside = pc.and_(pc.greater_equal(epochs, 0), pc.less_equal(epochs, MAX_EPOCH))
        good = pc.fill_null(pc.and_(pc.is_valid(ids), inside), False).to_numpy(zero_copy_only=False)
        reasons = dict.fromkeys(np.flatnonzero(~good).tolist(), "its modeldir or step is missing, or no whole number")
        numbered = pa.table({"id": ids, "epoch": epochs, "row": np.arange(len(ids))}).filter(pa.array(good))
        first = numbered.group_by(["id", "epoch"], use_threads=False).aggregate([("row", "min")])["row_min"].to_numpy()
        again = np.setdiff1d(numbered["row"].to_numpy(), first)
        reasons |= dict.fromkeys(again.tolist(), "an earlier row is of the same run and step")
        for name in _ACCURACIES:
            if name in columns:
                outside = pc.or_(pc.less(columns[name], 0.0), pc.greater(columns[name], 1.0))
                places = np.flatnonzero(pc.fill_null(outside, False).to_numpy(zero_copy_only=False))
                reasons |= dict.fromkeys(places.tolist(), f"its {name} is not in [0, 1]")
        if not reasons:
            return [], None
        left_out = [
            LeftOut(model=f"row {row}", epochs=(self._epoch(epochs[row].as_py()),), reason=reason)
            for row, reason in sorted(reasons.items())
        ]
        return left_out, np.setdiff1d(np.arange(len(ids)), np.fromiter(reasons, np.int64))

    @staticmethod
    def _epoch(value: int | None) -> int:
        return min(max(value or 0, 0), MAX_EPOCH)

    def _splits(self, path: Path, columns: Mapping[str, pa.Array], notes: Notes, described: dict[str, Any]) -> pa.Array:
        """The authors' split of each row: of NFN's files of numbers by the rule of its code, else as told."""
        ids = columns["model_id"].to_pylist()
        numbers = plain_numbers(path)
        if numbers is not None:
            found = published_splits(path, numbers, columns["epoch"].to_numpy(zero_copy_only=False), ids)
            described["splits"] = found.described
            notes.add(found.notes)
            return pa.array(found.splits, pa.string())
        folders = columns["modeldir"].to_pylist()
        named = [
            Named(index=row, path=folder, names=() if model_id is None else (model_id,))
            for row, (folder, model_id) in enumerate(zip(folders, ids, strict=True))
        ]
        assignment = assign(path, read_splits(path), named)
        notes.add(assignment.notes())
        described["splits"] = assignment.describe()
        return pa.array(assignment.splits, pa.string())

    # rows

    @property
    def zoo(self) -> Mapping[str, Any]:
        """Its images and architecture, as far as they are those of the table."""
        architecture = self._orientation.columns()["architecture"]
        known = {"images": self._images, "architecture": architecture}
        return {"name": self.name} | {name: value for name, value in known.items() if value is not None}

    def label(self, number: int) -> str:
        """The row of the authors' array."""
        return f"row {int(self._rows[number])}"

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        """Irregularities that excluded no state; rows that are not finite are among them."""
        own = Notes()
        if count := tallies.get("nonfinite", 0):
            text = f"{count:,} states have weights that are not finite; they are rows, as in the authors' files"
            own.add_counted(Note("nonfinite-kept", text, whole=True), count)
        return super().notes(tallies).joined(own)

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        images = {"name": self._images, "pixels": dict(SMALL_CNN_PIXELS)}
        return {**super().describe(tallies), "images": images, **self.notes(tallies).describe()}

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, a row group or several small epochs in a piece; see `Source.read`."""
        places = self._grid[[self._number_of[model.model_id] for model in block.models]]
        most = rows_of_a_group(4 * len(self._orientation.places))
        pieces = [
            here[start : start + most].tolist()
            for here in (places[:, self._epochs.index(epoch)] for epoch in block.epochs)
            for here in [here[here >= 0]]
            for start in range(0, len(here), most)
        ]
        for piece in pieces:
            for item in self._read_piece(piece):
                yield _with_tally(item) if isinstance(item, States) else item

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {model_id: number for number, model_id in enumerate(self._models)}

    @cached_property
    def _epochs(self) -> list[int]:
        epochs: list[int] = pc.unique(self._table["epoch"]).to_pylist()
        return sorted(epochs)

    @cached_property
    def _grid(self) -> NDArray[np.int64]:
        """The row of the table of each model at each epoch, −1 where it has none: int64 [models, epochs]."""
        grid = np.full((len(self._models), len(self._epochs)), -1, np.int64)
        models = pc.index_in(self._table["model_id"], value_set=pa.array(list(self._models), pa.string()))
        epochs = pc.index_in(self._table["epoch"], value_set=pa.array(self._epochs, pa.int64()))
        grid[models.to_numpy(), epochs.to_numpy()] = np.arange(len(self._table))
        return grid

    def blocks(self) -> Sequence[StateBlock]:
        """One block of all models and epochs."""
        return [StateBlock(models=tuple(self._models.values()), epochs=tuple(self._epochs))] if self._epochs else []

    def read_rows(self, numbers: Sequence[int], record: NetworkRecord) -> tuple[NDArray[np.float32], dict[int, str]]:
        places = self._orientation.places
        kind = np.dtype(_FLOATS[self._array.dtype]).newbyteorder("<")
        width = len(places) * kind.itemsize
        self._most_rows = max(self._most_rows, len(numbers))  # so that all pieces fit into memory of earlier ones
        weights = self._recycled.empty(self._most_rows, len(places), torch.float32).numpy()
        reasons: dict[int, str] = {}
        good = 0
        with self._weights() as data:
            for position, row in enumerate(self._rows[list(numbers)].tolist()):
                start = self._array.start + row * width
                held = data[start : start + width]
                if len(held) != width:
                    reasons[position] = f"{WEIGHTS_FILE} is cut short"
                    continue
                values = np.frombuffer(held, kind).astype(np.float32, copy=False)
                np.take(values, places, out=weights[good], mode="clip")  # else numpy makes a copy first
                good += 1
        return weights[:good], reasons


def _with_tally(states: States) -> States:
    """States with the number of those that are not finite."""
    if math.isfinite(states.weights.sum().item()):  # a finite sum has finite terms
        return states
    count = int((~torch.isfinite(states.weights).all(dim=1)).sum())
    return dataclasses.replace(states, tallies={"nonfinite": count})
