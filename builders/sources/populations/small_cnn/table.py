"""The table of figures of the Small CNN Zoo."""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from zoo_datasets.builders.state_dicts.columns import column_name
from zoo_datasets.documents import brief
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.row import FURTHER_TYPES

METRICS_FILES: Final = ("metrics.csv.gz", "metrics.csv")
LARGEST_TABLE = 1 << 30
_LONGEST_HEADER = 1 << 20
_MOST_COLUMNS = 500
_TYPES: Final[Mapping[str, pa.DataType]] = {
    **{name: pa.string() for name in ("activation", "optimizer", "w_init", "b_init", "dataset", "dnn_architecture")},
    **{name: pa.float64() for name in ("dropout", "learning_rate", "l2reg", "init_std", "train_fraction")},
    **{name: pa.float64() for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss")},
    **{name: pa.int64() for name in ("epochs", "epochs_between_checkpoints", "num_layers", "num_units")},
    **{name: pa.int64() for name in ("random_seed", "step")},
    "modeldir": pa.string(),
}


def read_metrics(data: bytes, compressed: bool) -> pa.Table:
    """The columns of a table of figures by their plain names; what has no name, as an index, is left out.

    Raises:
        SourceError: if it is no CSV, a bomb, or lacks what tells the rows apart.
    """
    text = _gunzipped(data) if compressed else data
    try:
        header = next(csv.reader(io.StringIO(text[:_LONGEST_HEADER].decode("utf-8-sig", "replace"), newline="")), [])
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
        text = unpacker.decompress(data, LARGEST_TABLE)
    except zlib.error as error:
        raise SourceError(f"{METRICS_FILES[0]} is no gzip, or broken: {error}") from error
    if unpacker.unconsumed_tail:
        raise SourceError(f"{METRICS_FILES[0]} unpacks to more than {LARGEST_TABLE:,} bytes; it was refused")
    if not unpacker.eof:
        raise SourceError(f"{METRICS_FILES[0]} is cut short")
    return text
