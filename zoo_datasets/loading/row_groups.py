"""Zoos that are read while they are iterated: row groups of Parquet files, straight into batches.

What will be read is planned before: the footers say how many rows each row group has, and columns of a condition are
read first and alone. So a streamed epoch has a length, can be shared out, and goes on at any of its samples.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
from datasets import Dataset, DownloadConfig, IterableDataset
from datasets.utils.file_utils import is_local_path, xopen
from pyarrow.fs import LocalFileSystem
from torch import Tensor

from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError, ZooError
from zoo_datasets.loading.ahead import Readers
from zoo_datasets.loading.order import Order
from zoo_datasets.loading.repositories.cuts import Cut
from zoo_datasets.loading.samples import Batch, Columns, Epoch, SampleForm, row_bytes
from zoo_datasets.native.ragged import RaggedBatch
from zoo_datasets.native.rows import Positions, Recycled
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.row import LAYOUT, layout_of_schema, records_of_schema
from zoo_datasets.repository.shards import what_instead
from zoo_datasets.storage.secrets import without_secrets

BUFFER_BYTES = 128_000_000
_FILES_OPEN = 16
# Of one file: their order is kept in memory.
_MAX_ROWS = 50_000_000
# Threads that read row groups, and that read footers of remote files.
_READERS, _SCANNERS = 2, 8
_READ_ERRORS = (OSError, ValueError, KeyError, pa.ArrowException)
_ROW = "row of the row groups"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamFiles:
    """What a streamed zoo is read from.

    Attributes:
        files: paths or URLs.
        columns: those to read; None means all.
        filter: the rows wanted, in columns `filter_columns`; None means all.
        cut: of other splits than the files': the split that the rows must be in, and what decides it.
        citation: BibTeX of the zoo.
    """

    files: tuple[str, ...]
    columns: list[str] | None
    filter: pc.Expression | None
    filter_columns: tuple[str, ...]
    cut: tuple[Cut, str] | None
    download: DownloadConfig
    citation: str = ""


def tell_source(zoo: IterableDataset, source: StreamFiles | Dataset) -> None:
    """Note on a streamed zoo what it is read from."""
    zoo._zoo_source = (zoo._ex_iterable, source)


def source_of(zoo: IterableDataset) -> StreamFiles | Dataset:
    """What a streamed zoo is read from: files, or rows that are prepared.

    Raises:
        SpecError: if nothing tells: rows that were changed or chosen after loading.
    """
    rows, source = getattr(zoo, "_zoo_source", (None, None))
    if not isinstance(source, (StreamFiles, Dataset)) or rows is not zoo._ex_iterable:
        raise SpecError(
            "got a streamed dataset that load_zoo did not give, or that was changed since: expected one as "
            "load_zoo(…, streaming=True) gives it for one split; choose rows and columns by its where=, epochs= and "
            "columns=, and shuffle in batches"
        )
    return source


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group: its file, its number there, and the rows wanted, int64; None means all `count`."""

    file: int
    number: int
    count: int
    rows: Positions | None


class StreamReader:
    """Columns of a streamed zoo, read in the order of its files, or shuffled within a buffer.

    Raises:
        UnknownNameError: if the zoo has no such column.
        SpecError: if `columns` are no list.
    """

    in_pieces = True

    def __init__(self, source: StreamFiles, columns: Sequence[str] | None = None) -> None:
        if isinstance(columns, str):
            raise SpecError(f"columns={columns!r}: expected a list of names")
        self._source = source
        self.files = source.files
        with ThreadPoolExecutor(_SCANNERS) as pool:
            scanned = list(pool.map(lambda number: _scan(source, number), range(len(source.files))))
        self.footers = [footer for footer, _ in scanned]
        self.groups = [group for _, groups in scanned for group in groups]
        with _reading(source.files[0]):
            self.schema: pa.Schema = self.footers[0].schema.to_arrow_schema()
        available = self.schema.names if source.columns is None else source.columns
        self.columns = list(available if columns is None else dict.fromkeys(columns))
        for name in self.columns:
            if name not in available:
                raise UnknownNameError("column", name, available, "Was it left out of load_zoo's columns?")
        self.memory = Recycled()

    def __len__(self) -> int:
        """Number of rows."""
        return sum(group.count for group in self.groups)

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamReader, (self._source, self.columns)

    @cached_property
    def layout(self) -> WeightLayout:
        """The layout of the weights, which the files carry.

        Raises:
            LayoutError: if they carry none.
        """
        return layout_of_schema(self.schema)

    @cached_property
    def layouts(self) -> list[str] | None:
        """The hashes of the layouts of open rows, which the files carry; None of others."""
        if LAYOUT not in self.schema.names:
            return None
        records: dict[str, NetworkRecord] = {}
        for file, footer in zip(self.files, self.footers, strict=True):
            with _reading(file):
                records |= records_of_schema(footer.schema.to_arrow_schema())
        return list(remember(records.values()))

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a row in memory, nearly."""
        return row_bytes(self.schema, self.columns)

    def epoch(self, order: Order, epoch: int, stop: int) -> Epoch:
        """The samples in the order of an epoch."""
        return _Windows(self, order, epoch, stop)

    def open(self, file: int) -> pq.ParquetFile:
        """A file, without reading its footer again."""
        return pq.ParquetFile(_opened(self._source, file), metadata=self.footers[file], pre_buffer=True)


def _opened(source: StreamFiles, file: int) -> Any:
    """Something that pyarrow reads: it opens local files by itself, which is faster."""
    path = source.files[file]
    return path if is_local_path(path) else xopen(path, "rb", download_config=source.download)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Errors of reading a Parquet file as ours.

    Raises:
        RepositoryError: naming the file and what is wrong.
    """
    try:
        yield
    except _READ_ERRORS as error:
        raise _as_ours(error, path) from error


def _as_ours(error: Exception, path: str) -> ZooError:
    """An error of reading a Parquet file, which names it and says what is wrong."""
    if isinstance(error, ZooError):
        return error
    instead = what_instead(Path(path)) if is_local_path(path) else None
    return RepositoryError(
        f"{without_secrets(path)} {instead}"
        if instead is not None
        else f"{without_secrets(path)} could not be read as Parquet: {without_secrets(str(error))[:200]}; "
        "if it lies here, `zoo verify` says what is broken, and building it again mends it"
    )


def read_schema(path: str) -> pa.Schema:
    """The columns of a local Parquet file.

    Raises:
        RepositoryError: naming the file and what is wrong.
    """
    with _reading(path):
        return pq.read_schema(path)


class TableReading:
    """The function of a builder that reads Parquet files into tables, with errors of ours; goes to other processes."""

    def __init__(self, generate: Callable[..., Iterator[Any]]) -> None:
        self._generate = generate

    def __call__(self, files: list[str], **options: Any) -> Iterator[Any]:
        """Tables of some files, with their keys.

        Raises:
            RepositoryError: naming the file and what is wrong.
        """
        try:
            yield from self._generate(files=files, **options)
        except _READ_ERRORS as error:
            # While `datasets` prepares, its list knows which file it gave last; when streaming, the list has one.
            raise _as_ours(error, str(getattr(files, "last_item", None) or files[0])) from error


def _scan(source: StreamFiles, file: int) -> tuple[pq.FileMetaData, list[_Group]]:
    """The footer of a file, and its row groups that hold wanted rows."""
    with _reading(source.files[file]):
        return _scanned(source, file)


def _scanned(source: StreamFiles, file: int) -> tuple[pq.FileMetaData, list[_Group]]:
    opened = _opened(source, file)
    system = LocalFileSystem() if isinstance(opened, str) else None
    fragment = pads.ParquetFileFormat().make_fragment(opened, system)
    footer = fragment.metadata
    counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != footer.num_rows or footer.num_rows > _MAX_ROWS:
        raise ValueError(
            f"its footer claims {footer.num_rows:,} rows in groups of {sum(counts):,}, at most {_MAX_ROWS:,} expected"
        )
    if source.filter is None and source.cut is None:
        return footer, [_Group(file, number, count, None) for number, count in enumerate(counts) if count]
    numbers = list(range(len(counts)))
    if source.filter is not None:
        numbers = [group.id for group in fragment.subset(source.filter).row_groups]
    if not numbers:
        return footer, []
    names = [*source.filter_columns, *(() if source.cut is None else (source.cut[0].column,))]
    parquet = pq.ParquetFile(opened, metadata=footer, pre_buffer=True)
    rows = _wanted(parquet.read_row_groups(numbers, columns=list(dict.fromkeys(names))), source)
    groups, start = [], 0
    for number in numbers:
        count = counts[number]
        first, last = np.searchsorted(rows, [start, start + count])
        wanted = rows[first:last] - start
        start += count
        if len(wanted):
            groups.append(_Group(file, number, len(wanted), None if len(wanted) == count else wanted))
    return footer, groups


def _wanted(table: pa.Table, source: StreamFiles) -> Positions:
    """Numbers of the rows wanted, int64, ascending."""
    table = table.append_column(_ROW, pa.array(np.arange(len(table))))
    if source.filter is not None:
        table = table.filter(source.filter)
    rows: Positions = table[_ROW].to_numpy()
    if source.cut is None:
        return rows
    cut, split = source.cut
    values = table[cut.column]
    inside = [value for value in pc.unique(values).to_pylist() if cut.split(value) == split]
    kept: Positions = rows[pc.is_in(values, pa.array(inside, values.type)).to_numpy()]
    return kept


class _Files(threading.local):
    """The files that a thread read last, open: each thread has its own."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def of(self, file: int) -> pq.ParquetFile:
        if file not in self._open:
            self._open[file] = self._reader.open(file)
            if len(self._open) > _FILES_OPEN:
                self._open.popitem(last=False)[1].close(force=True)
        self._open.move_to_end(file)
        return self._open[file]


@dataclass(frozen=True, slots=True)
class _Window:
    """Some row groups in memory, and the order of their wanted rows; None is the stored one."""

    columns: Columns
    order: Positions | None

    def read(self, start: int, stop: int, form: SampleForm) -> Batch:
        return self.columns.read(slice(start, stop) if self.order is None else self.order[start:stop], form)


class _Windows:
    """An epoch as windows of row groups, of which one is in use and the next is read.

    Shuffled, the row groups are in random order, and so are the rows of a window. If more rows are read than the
    epoch has, the windows come again.
    """

    def __init__(self, reader: StreamReader, order: Order, epoch: int, stop: int) -> None:
        self._reader, self._order, self._epoch, self._stop = reader, order, epoch, stop
        least = order.batch_size
        if order.shuffle:
            least = order.buffer or max(4 * order.batch_size, BUFFER_BYTES // reader.row_bytes)
        turns = order.permutation(len(reader.groups), epoch, "row groups")
        groups = reader.groups if turns is None else [reader.groups[turn] for turn in turns.tolist()]
        self._groups: list[list[_Group]] = []
        rows = least
        for group in groups:
            if rows >= least:
                self._groups.append([])
                rows = 0
            self._groups[-1].append(group)
            rows += group.count
        self._windows = len(self._groups)
        self._groups *= max(1, math.ceil(stop / max(1, len(reader))))
        counts = [sum(group.count for group in window) for window in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._pool = Readers(_READERS, thread_name_prefix="zoo-row-groups")
        self._files = _Files(reader)
        self._begun: dict[int, list[Future[pa.Table]]] = {}
        self._ready: dict[int, _Window] = {}

    def read(self, start: int, stop: int, form: SampleForm) -> Batch:
        parts = []
        window = int(np.searchsorted(self._starts, start, side="right")) - 1
        for number in [number for number in self._ready if number < window]:
            del self._ready[number]
        while start < stop:
            first, last = int(self._starts[window]), int(self._starts[window + 1])
            end = min(stop, last)
            parts.append(self._window(window).read(start - first, end - first, form))
            if end == last:
                self._ready.pop(window)
            start, window = end, window + 1
        return parts[0] if len(parts) == 1 else _joined(parts)

    def close(self) -> None:
        self._pool.stop()

    def _window(self, number: int) -> _Window:
        if number not in self._ready:
            self._begin(number)
            tables = [loading.result() for loading in self._begun.pop(number)]
            if number + 1 < len(self._groups) and self._starts[number + 1] < self._stop:
                self._begin(number + 1)
            self._ready[number] = self._to_window(number, tables)
        return self._ready[number]

    def _begin(self, number: int) -> None:
        if number not in self._begun:
            self._begun[number] = [self._pool.submit(self._load, group) for group in self._groups[number]]

    def _load(self, group: _Group) -> pa.Table:
        with _reading(self._reader.files[group.file]):
            parquet = self._files.of(group.file)
            table = parquet.read_row_group(group.number, columns=self._reader.columns, use_threads=False)
            claimed = parquet.metadata.row_group(group.number).num_rows
            if self._reader.columns and table.num_rows != claimed:
                raise ValueError(f"row group {group.number} holds {table.num_rows:,} rows, its footer says {claimed:,}")
            return table

    def _to_window(self, number: int, tables: list[pa.Table]) -> _Window:
        groups = self._groups[number]
        rows: Positions | None = None
        if any(group.rows is not None for group in groups):
            firsts = np.cumsum([0, *(len(table) for table in tables)])
            rows = np.concatenate([
                first + (np.arange(group.count) if group.rows is None else group.rows)
                for first, group in zip(firsts, groups, strict=False)
            ])  # fmt: skip
        count = sum(group.count for group in groups)
        order = self._order.permutation(count, self._epoch, "rows", number % self._windows)
        if order is not None and rows is not None:
            rows = rows[order]
        columns = Columns(pa.concat_tables(tables), self._reader.columns, self._reader.memory)
        return _Window(columns, order if rows is None else rows)


def _joined(parts: list[Batch]) -> Batch:
    """Batches one after another."""
    joined: Batch = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if isinstance(values[0], RaggedBatch):
            joined[name] = functools.reduce(RaggedBatch.joined, values)
        elif all(isinstance(value, Tensor) for value in values):
            joined[name] = torch.cat(values)
        else:  # a column of whole numbers, of which only some parts have nulls
            listed = [value.tolist() if isinstance(value, Tensor) else value for value in values]
            joined[name] = [entry for value in listed for entry in value]
    return joined
