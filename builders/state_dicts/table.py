"""A table that a user gives: what the files of a folder are."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from zoo_datasets.builders.state_dicts.columns import column_name, of_arrow, of_texts, of_values
from zoo_datasets.documents import parse_json, read_bytes
from zoo_datasets.errors import DocumentError, SourceError

_LARGEST = 1 << 31
_MOST_COLUMNS = 2000
_CELL = r'("(?:[^"]|"")*+"|[^{delimiter}\r\n]*)({delimiter}|\r\n|\r|\n|$)'


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as columns of one type each: bool, int64, float64 or string.

    Attributes:
        columns: by the names that rows give them.
        renamed: by these names, the ones in the file where they are others.
        empty: names of columns that were left out because they have no value.
        rows: their number.
    """

    path: Path
    columns: Mapping[str, pa.Array]
    renamed: Mapping[str, str]
    empty: tuple[str, ...]
    rows: int


def read_table(path: Path, option: str = "--table") -> Table:
    """A table of CSV, TSV, JSON lines or Parquet, by its ending.

    Args:
        option: what a user calls it.

    Raises:
        SourceError: if it cannot be read, or two columns have one name.
    """
    ending = path.suffix.lower()
    reader = _READERS.get(ending)
    if reader is None:
        raise SourceError(f"{option} {path}: expected a file that ends with {', '.join(_READERS)}")
    try:
        pairs = reader(path)
    except (DocumentError, SourceError) as error:
        raise SourceError(f"{option} {path}: {error}") from error
    except OSError as error:
        raise SourceError(f"{option} {path} could not be read: {error.strerror or str(error)[:200]}") from error
    except pa.ArrowException as error:
        raise SourceError(f"{option} {path} could not be read: {str(error)[:300]}") from error
    return _table(path, pairs, option)


def _table(path: Path, pairs: list[tuple[str, pa.Array]], option: str) -> Table:
    if not pairs or not len(pairs[0][1]):
        raise SourceError(f"{option} {path} holds no rows")
    if len(pairs) > _MOST_COLUMNS:
        raise SourceError(f"{option} {path} has {len(pairs):,} columns, at most {_MOST_COLUMNS:,} expected")
    columns: dict[str, pa.Array] = {}
    renamed: dict[str, str] = {}
    empty: list[str] = []
    for name, values in pairs:
        plain = column_name(name)
        if plain in columns or plain in empty:
            raise SourceError(f"{option} {path}: two of its columns are called {plain!r}; rename one")
        if not plain or values.null_count == len(values):
            empty.append(plain or name)
            continue
        columns[plain] = values
        if plain != name:
            renamed[plain] = name
    return Table(path=path, columns=columns, renamed=renamed, empty=tuple(empty), rows=len(pairs[0][1]))


def _read_csv(path: Path, delimiter: str = ",") -> list[tuple[str, pa.Array]]:
    data = read_bytes(path, _LARGEST)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is no text in UTF-8: {error.reason} at byte {error.start:,}") from error
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        raise DocumentError(f"its first line could not be read: {error}") from error
    if twice := {name for name in header if header.count(name) > 1}:
        raise DocumentError(f"two of its columns are called {min(twice)[:80]!r}; rename one")
    if not header or len(header) > _MOST_COLUMNS:
        raise DocumentError(f"it has {len(header):,} columns, 1 to {_MOST_COLUMNS:,} expected")
    encoded = text.encode()
    table = pa_csv.read_csv(
        pa.BufferReader(encoded),
        # In one block: rows may hold line breaks.
        pa_csv.ReadOptions(block_size=min(max(len(encoded) + 1, 1 << 16), _LARGEST - 1), use_threads=False),
        pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    quoted = _quoted(text, delimiter) if '"' in text else set()
    columns = [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]
    return [
        (name, values if place in quoted else of_texts(values))
        for place, (name, values) in enumerate(zip(header, columns, strict=True))
    ]


def _quoted(text: str, delimiter: str) -> set[int]:
    """Numbers of the columns in which a value stands in quotes: texts, whatever they look like."""
    quoted: set[int] = set()
    place, line = 0, 0
    for match in re.finditer(_CELL.format(delimiter=delimiter), text):
        if line and match[1].startswith('"'):
            quoted.add(place)
        place += 1
        if match[2] != delimiter:
            place, line = 0, line + 1
    return quoted


def _read_tsv(path: Path) -> list[tuple[str, pa.Array]]:
    return _read_csv(path, "\t")


def _read_json_lines(path: Path) -> list[tuple[str, pa.Array]]:
    lines = [line for line in read_bytes(path, _LARGEST).splitlines() if line.strip()]
    return of_records([_record(line, number) for number, line in enumerate(lines, 1)])


def _record(line: bytes, number: int) -> Mapping[str, Any]:
    try:
        value = parse_json(line)
    except DocumentError as error:
        raise DocumentError(f"line {number:,}: {error}") from error
    if not isinstance(value, dict):
        raise DocumentError(f"line {number:,} is a {type(value).__name__}, expected one object a line")
    return value


def of_records(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, pa.Array]]:
    """The columns of objects of JSON; what an object lacks is null.

    Raises:
        DocumentError: if they have too many different names.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    if len(names) > _MOST_COLUMNS:
        raise DocumentError(f"it has {len(names):,} columns, at most {_MOST_COLUMNS:,} expected")
    return [(name, of_values([record.get(name) for record in records])) for name in names]


def _read_parquet(path: Path) -> list[tuple[str, pa.Array]]:
    table = pq.read_table(path, partitioning=None)
    if twice := {name for name in table.column_names if table.column_names.count(name) > 1}:
        raise DocumentError(f"two of its columns are called {min(twice)[:80]!r}; rename one")
    return [(name, of_arrow(table[name], name)) for name in table.column_names if not name.startswith("__index_level")]


_READERS: Mapping[str, Callable[[Path], list[tuple[str, pa.Array]]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
