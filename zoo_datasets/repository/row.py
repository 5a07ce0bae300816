"""The columns of a row, one row being one model at one epoch, and the split a model belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.documents import brief, parse_json
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord, records_of
from zoo_datasets.networks.variational import LOG_SIGMA2
from zoo_datasets.specs.spec import digest_of, digest_of_texts

if TYPE_CHECKING:
    from datasets import Features

REPOSITORY_FORMAT = 1
# Of configs whose rows are open: networks of any shape, with columns of their own.
OPEN_FORMAT = 2
METADATA_KEY = b"zoo_datasets"
WEIGHTS = "weights"
MEANS, KL_WEIGHT = "means", "kl_weight"
SPLITS = ("train", "validation", "test")

# An id is free text: printable, and no longer than this.
ID_BYTES = 512

# Of each hundred models.
_SPLIT_AT = tuple(split for split, share in zip(SPLITS, (70, 15, 15), strict=True) for _ in range(share))


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a row; `type` is None for the weights, whose type follows from the layout."""

    name: str
    type: pa.DataType | None
    nullable: bool
    doc: str


COLUMNS: tuple[Column, ...] = (
    Column("zoo", pa.string(), False, "name of the zoo, which is the name of the config"),
    Column("model_id", pa.string(), False, "hash of the model's whole recipe, or of its source where it is imported"),
    Column("epoch", pa.int32(), False, "0 is initialisation"),
    Column("seed", pa.int64(), False, "seed of initialisation, data order and dropout"),
    Column("images", pa.string(), False, "image dataset it was trained on"),
    Column("architecture", pa.string(), False, "with in_channels and classes enough to make the module"),
    Column("in_channels", pa.int32(), False, "channels of an input image"),
    Column("classes", pa.int32(), False, "number of outputs"),
    Column("activation", pa.string(), False, "tanh, relu, sigmoid or gelu"),
    Column("init", pa.string(), False, "how the weights were initialised"),
    Column("optimizer", pa.string(), False, "adam or sgd"),
    Column("dropout", pa.float64(), False, "rate, 0 is none"),
    Column("lr", pa.float64(), False, "learning rate; the highest one where it is scheduled"),
    Column("weight_decay", pa.float64(), False, "L2 coefficient"),
    Column("momentum", pa.float64(), True, "null for Adam"),
    Column("batch_size", pa.int32(), False, "images a step"),
    Column("train_loss", pa.float32(), True, "mean cross-entropy over the epoch while it was trained"),
    Column("train_acc", pa.float32(), True, "share of correct answers in [0, 1], over the epoch while it was trained"),
    Column("val_loss", pa.float32(), True, "mean cross-entropy of the validation images after the epoch"),
    Column("val_acc", pa.float32(), True, "accuracy in [0, 1]"),
    Column("test_loss", pa.float32(), True, "mean cross-entropy of the test images after the epoch"),
    Column("test_acc", pa.float32(), True, "accuracy in [0, 1]"),
    Column("ggap", pa.float32(), True, "generalisation gap: train_acc − test_acc"),
    Column("parent_id", pa.string(), True, "model_id of the dense model a sparse twin was made from"),
    Column("sparsifier", pa.string(), True, "how a twin was made sparse"),
    Column("sparsity", pa.float32(), True, "share of prunable weights that are zero, in twins"),
    Column("source_split", pa.string(), True, "split in which the original authors' file holds the model"),
    Column(WEIGHTS, None, False, "parameters and BatchNorm's running statistics in the layout's order"),
)

NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
FIGURES = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
# Null if the source of an imported model does not state them; only then does a shard's schema allow nulls.
HYPERPARAMETERS = ("seed", "init", "optimizer", "dropout", "lr", "weight_decay", "batch_size")
if len(set(NAMES)) != len(NAMES) or not {*FIGURES, *HYPERPARAMETERS} <= set(NAMES):
    raise ValueError(f"the table of columns is inconsistent: {NAMES}")


# Columns of twins by variational dropout that follow the others on request.
RECORDED = {"train_loss": "recorded_train_loss", "val_loss": "recorded_val_loss", "test_loss": "recorded_test_loss"}
EXTRA_COLUMNS: tuple[Column, ...] = (
    Column(LOG_SIGMA2, None, False, "log σ² of each weight; −∞ where a weight has no noise"),
    Column(MEANS, None, False, "the weights before pruning: with log σ² all of the posterior"),
    Column(KL_WEIGHT, pa.float64(), True, "β of the epoch's recorded losses"),
    *(Column(name, pa.float32(), True, "as recorded: cross-entropy + kl_weight · KL") for name in RECORDED.values()),
)
_NEEDED = frozenset({"zoo", "model_id", "epoch", WEIGHTS})
EXTRAS: tuple[str, ...] = tuple(column.name for column in EXTRA_COLUMNS)


LAYOUT, RAW = "layout", "raw"
# Follow the columns above in an open config, where all but zoo, model_id, epoch and the weights may be null.
OPEN_COLUMNS: tuple[Column, ...] = (
    Column("step", pa.int64(), True, "optimizer steps so far; null where states are whole epochs"),
    Column("task", pa.string(), True, "classification, field, regression, language or adapter"),
    Column("group", pa.string(), True, "models of one group lie in one split"),
    Column(LAYOUT, pa.string(), False, "hash of the layout of the weights; NAME-layouts tells it"),
)
STANDARD: Mapping[str, Column] = {column.name: column for column in (*COLUMNS, *OPEN_COLUMNS)}
KEY = ("model_id", "epoch", "step")
FURTHER_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64(), "string": pa.string(),
}  # fmt: skip
_RAW_COLUMN = Column(RAW, pa.large_binary(), True, "tensors that float32 cannot hold, one behind the other, and a 1")
# Behind the bytes: numpy drops zeros at their end.
RAW_END = b"\1"
_RESERVED = frozenset({*NAMES, *(column.name for column in OPEN_COLUMNS), *EXTRAS, RAW, "tensor", "tensors"})
_FURTHER_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_FURTHER = 1000


LAYOUTS_SCHEMA = pa.schema(
    [
        pa.field(LAYOUT, pa.string(), nullable=False),
        pa.field("tensors", pa.string(), nullable=False),  # as WeightLayout.to_json
        pa.field("layers", pa.string()),  # as JSON; null where the network is not known
        pa.field("weights", pa.int64(), nullable=False),  # D
        pa.field("rows", pa.int64(), nullable=False),
    ]
)


def further_column(name: str, kind: str, doc: str = "") -> Column:
    """A further column of an open config.

    Args:
        kind: a key of `FURTHER_TYPES`.

    Raises:
        SpecError: if the name or the type cannot be that of a further column.
    """
    problem = further_problem(name)
    if problem is not None:
        raise SpecError(problem)
    if kind not in FURTHER_TYPES:
        raise SpecError(f"column {name!r} of type {brief(kind)}: expected {', '.join(FURTHER_TYPES)}")
    return Column(name, FURTHER_TYPES[kind], True, doc)


def further_problem(name: str) -> str | None:
    """What keeps a name from being that of a further column; None where nothing does."""
    if name in _RESERVED:
        return f"a further column cannot be called {name!r}: this name is reserved; rename the column"
    if not _FURTHER_NAME.fullmatch(name) or "__" in name:
        return (
            f"a further column cannot be called {brief(name)}: expected small letters, digits and single '_', at most "
            "64, beginning with a letter; rename the column"
        )
    return None


@dataclass(frozen=True, kw_only=True)
class OpenRows:
    """The columns of an open config.

    Attributes:
        further: columns of its own.
        size: D of all rows; None where rows have several layouts: weights are lists of any length then.
        raw: whether any layout has raw tensors.
    """

    further: tuple[Column, ...] = ()
    size: int | None = None
    raw: bool = False

    @property
    def narrow(self) -> tuple[Column, ...]:
        """All columns but the weights and the raw tensors."""
        standard = tuple(replace(c, nullable=c.name not in _NEEDED) for c in COLUMNS if c.name != WEIGHTS)
        return (*standard, *OPEN_COLUMNS, *self.further)

    @property
    def weights(self) -> pa.DataType:
        """Arrow type of the weights."""
        element = pa.field("element", pa.float32(), nullable=False)
        return pa.large_list(element) if self.size is None else pa.list_(element, self.size)

    def fields(self) -> list[pa.Field]:
        """Of a shard."""
        columns = [*self.narrow, *([_RAW_COLUMN] if self.raw else ())]
        wide = pa.field(WEIGHTS, self.weights, nullable=False)
        return [*(pa.field(column.name, column.type, column.nullable) for column in columns), wide]

    def schema(self, records: Mapping[str, NetworkRecord]) -> pa.Schema:
        """The schema of a shard, whose metadata has what `datasets` reads and the records of its rows."""
        ours = {"format": OPEN_FORMAT, "layouts": {name: record.to_dict() for name, record in records.items()}}
        return _with_features(self.fields(), {METADATA_KEY: json.dumps(ours).encode()})

    def light_schema(self) -> pa.Schema:
        """The schema of the config without weights."""
        return _with_features([pa.field(column.name, column.type, column.nullable) for column in self.narrow])


def _with_features(fields: Sequence[pa.Field], metadata: Mapping[bytes, bytes] | None = None) -> pa.Schema:
    return pa.schema(fields, metadata={**_features_metadata(tuple(fields)), **(metadata or {})})


@lru_cache(maxsize=64)  # asked once a shard
def _features_metadata(fields: tuple[pa.Field, ...]) -> Mapping[bytes, bytes]:
    """How `datasets` describes columns in the metadata of a schema."""
    from datasets import Features

    return dict(Features.from_arrow_schema(pa.schema(fields)).arrow_schema.metadata)


def is_wide(kind: pa.DataType) -> bool:
    """Whether a column of this type is as wide as the weights, or holds raw tensors."""
    return bool(
        pa.types.is_fixed_size_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_list(kind)
        or pa.types.is_large_binary(kind)
    )


def weights_type(layout: WeightLayout) -> pa.DataType:
    """Arrow type of the weights: a list of D float32, none of which is null (that doubles reading speed)."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), layout.size)


def features(layout: WeightLayout, extras: Sequence[str] = ()) -> Features:
    """The same columns as `datasets` describes them; weights are `List(Value("float32"), length=D)`."""
    from datasets import Features

    return Features.from_arrow_schema(pa.schema(_fields(layout, extras)))


def arrow_schema(layout: WeightLayout, extras: Sequence[str] = (), unknown: Sequence[str] = ()) -> pa.Schema:
    """The schema of every shard: the columns, and in its metadata the features and the layout.

    `extras` are columns that follow the weights, of `EXTRAS`; `unknown` those of `HYPERPARAMETERS` that have nulls.

    The key `huggingface` is what `datasets` reads; the key `zoo_datasets` holds format and layout as
    JSON, so that a shard alone can be turned back into networks.
    """
    ours = {"format": REPOSITORY_FORMAT, "layout": layout.to_list()}
    metadata = dict(features(layout, extras).arrow_schema.metadata)
    return pa.schema(_fields(layout, extras, unknown), metadata={**metadata, METADATA_KEY: json.dumps(ours).encode()})


def meta_schema(unknown: Sequence[str] = ()) -> pa.Schema:
    """The schema of a light config: all columns but the weights; `unknown` as in `arrow_schema`."""
    from datasets import Features

    fields = [
        pa.field(column.name, column.type, column.nullable or column.name in unknown)
        for column in COLUMNS
        if column.type is not None
    ]
    return pa.schema(fields, metadata=Features.from_arrow_schema(pa.schema(fields)).arrow_schema.metadata)


def layout_of_schema(schema: pa.Schema) -> WeightLayout:
    """The one layout that a shard's schema carries.

    Raises:
        LayoutError: if it carries none, several, or one of another format.
    """
    layouts = {record.layout for record in records_of_schema(schema).values()}
    if len(layouts) != 1:
        raise LayoutError(f"the rows have {len(layouts)} layouts, expected one; read them row by row")
    return layouts.pop()


def records_of_schema(schema: pa.Schema) -> dict[str, NetworkRecord]:
    """What a shard's schema says of the networks of its rows, by hash.

    Raises:
        LayoutError: if it says nothing, or is of another format.
    """
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise LayoutError("the schema carries no weight layout; this file was not written by zoo_datasets")
    try:
        value: Any = parse_json(text)
        version = value["format"]
        if version == OPEN_FORMAT:
            return records_of(value["layouts"], "the schema")
        layout = value["layout"]
    except LayoutError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise LayoutError(f"the schema's weight layout could not be read: {error}") from error
    if version != REPOSITORY_FORMAT:
        raise LayoutError(
            f"shard format {brief(version)} found, this version reads {REPOSITORY_FORMAT} and {OPEN_FORMAT}"
        )
    record = NetworkRecord(WeightLayout.from_list(layout))
    return {record.hash: record}


def id_problem(model_id: object) -> str | None:
    """What keeps a value from being the id of a model, or of an optional parent; None if nothing does."""
    if model_id is None:
        return None
    if not isinstance(model_id, str):
        return f"model id {str(model_id)[:80]!a} is no text"
    if len(model_id) <= ID_BYTES // 4 and model_id.isprintable():  # no character takes more than four
        return None
    shown = f"{model_id[:80]!a}{'' if len(model_id) <= 80 else '…'}"
    if not model_id.isprintable():
        return f"model id {shown} holds characters that cannot be printed; give the model another id"
    size = len(model_id.encode())
    return f"model id {shown} has {size:,} bytes, at most {ID_BYTES} expected" if size > ID_BYTES else None


@lru_cache(maxsize=1 << 17)  # asked once a row
def split_of(model_id: str) -> str:
    """The split of a model: train, validation or test = 70 / 15 / 15, by a hash of its id alone."""
    return _split_by(digest_of_texts("split", model_id))


def split_of_seed(seed: int | None) -> str:
    """The same by seed, which keeps models that started from equal weights in one split; unknown seeds are as one."""
    return _split_by(digest_of(["split of seed", seed]))


def split_of_group(column: str, value: Any) -> str:
    """The same by the value of any column; unknown values are as one."""
    return _split_by(digest_of(["split of", column, value]))


def _split_by(digest: str) -> str:
    return _SPLIT_AT[int(digest, 16) % len(_SPLIT_AT)]


def _fields(layout: WeightLayout, extras: Sequence[str], unknown: Sequence[str] = ()) -> list[pa.Field]:
    extra_columns = {column.name: column for column in EXTRA_COLUMNS}
    return [
        pa.field(
            column.name,
            weights_type(layout) if column.type is None else column.type,
            nullable=column.nullable or column.name in unknown,
        )
        for column in (*COLUMNS, *(extra_columns[name] for name in extras))
    ]


def weights_matrix(table: pa.Table, name: str = WEIGHTS) -> NDArray[np.float32]:
    """The weights column, or another of its type, as float32 [rows, D]."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    return np.asarray(column.flatten()).reshape(len(column), -1)
