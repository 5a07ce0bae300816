"""Record batches into a Parquet shard whose name is a hash of its content."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_datasets.builders.shards.digest import GrowingDigest
from zoo_datasets.errors import StorageError
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import COLUMNS, LAYOUT, WEIGHTS, is_wide
from zoo_datasets.repository.shards import shard_name
from zoo_datasets.storage.files import sha256_of, temporary_beside

ROW_GROUP_BYTES = 100_000_000
# Where rows have several layouts.
RAGGED_GROUP_BYTES = 64_000_000
_BUFFER = 1 << 16

_NAMES = [column.name for column in COLUMNS if column.name != WEIGHTS]


def _with_statistics(schema: pa.Schema) -> list[str]:
    """The columns whose smallest and largest values are noted."""
    if LAYOUT not in schema.names:
        return _NAMES
    return [column.name for column in schema if not is_wide(column.type)]


def _repeated(schema: pa.Schema) -> list[str]:
    """The columns that get a dictionary, which does not pay where every value of a row group differs."""
    texts = [column.name for column in schema if column.type == pa.string() and column.name != "model_id"]
    return texts if LAYOUT in schema.names else [name for name in texts if name in _NAMES]


def wide_bytes(batch: pa.RecordBatch) -> int:
    """Bytes that Arrow needs for the columns of rows that are as wide as the weights, and for raw tensors."""
    size = 0
    for column in batch.columns:
        if pa.types.is_fixed_size_list(column.type):
            size += 4 * column.type.list_size * len(column)
        elif pa.types.is_large_list(column.type):
            size += 8 * len(column) + 4 * (pc.sum(pc.list_value_length(column)).as_py() or 0)
        elif pa.types.is_large_binary(column.type):
            size += 8 * len(column) + (pc.sum(pc.binary_length(column)).as_py() or 0)
    return size


def rows_of_a_group(row_bytes: int) -> int:
    """The most rows that a row group holds, at `row_bytes` of raw weights in a row."""
    return max(ROW_GROUP_BYTES // row_bytes, 1)


def size_in_memory(table: pa.Table) -> int:
    """Bytes that Arrow needs for a table without lists: regardless of the buffers it currently uses."""
    size = 0
    for column in table.columns:
        if pa.types.is_string(column.type):
            size += 4 * (table.num_rows + 1) + (pc.sum(pc.binary_length(column)).as_py() or 0)
        else:
            size += table.num_rows * column.type.bit_width // 8
        size += -(-table.num_rows // 8) if column.null_count else 0
    return size


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A shard in its place. `num_bytes` is its size as Arrow holds it in memory, as `datasets` counts."""

    shard: Shard
    num_bytes: int
    reused: bool


@dataclass(kw_only=True, slots=True)
class _Open:
    """The file being written."""

    path: Path
    sink: pa.NativeFile
    writer: pq.ParquetWriter
    digest: GrowingDigest

    def close(self) -> str:
        """Finish the file; returns its SHA-256."""
        try:
            self.writer.close()
            self.sink.close()
        finally:
            digest = self.digest.close()
        return digest


class ShardWriter:
    """Cuts the rows of one shard into row groups.

    Rows come by epoch. Row groups never mix epochs and hold at most
    `ROW_GROUP_BYTES` of raw weights (at least one row). The cuts depend on the rows alone and not on how they
    are batched, so the same rows give the same file. `close` finishes the shard, which `sync` brings to the disk;
    leaving the context without it drops what is unfinished. `rows` are those of the finished shard, without the
    columns as wide as the weights.

    Args:
        place: of the shard among those of its split, from 0.

    Raises:
        StorageError: if a file cannot be written; the message names its folder.
    """

    def __init__(self, repo: Path, config: str, split: str, schema: pa.Schema, place: int = 0) -> None:
        self._repo = repo
        self._place = place
        self._folder = repo / config
        self._split = split
        self._schema = schema
        kind = schema.field(WEIGHTS).type
        self._ragged = not pa.types.is_fixed_size_list(kind)
        self._most = RAGGED_GROUP_BYTES if self._ragged else ROW_GROUP_BYTES
        self._wide = [column.name for column in schema if column.type == kind]
        self._narrow = [index for index, column in enumerate(schema) if not is_wide(column.type)]
        self._taken: list[pa.RecordBatch] = []
        self._wide_bytes = 0
        self.rows: pa.Table | None = None
        self._open: _Open | None = None
        self._temporary = contextlib.ExitStack()
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._epoch: int | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            # Another error is on its way; on a full disk closing would hide it behind a second one.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._open.close()
            self._open = None
        self._temporary.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch, which are all of one layout."""
        if not batch.num_rows:
            return
        self._taken.append(batch.select(self._narrow))
        self._wide_bytes += wide_bytes(batch)
        row_bytes = self._row_bytes(batch)
        epochs = batch.column("epoch").to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist()]
        sizes = np.diff([*starts, batch.num_rows]).tolist()
        index = 0
        while index < len(sizes):
            epoch, start, size = int(epochs[starts[index]]), starts[index], sizes[index]
            # The last epoch may go on in the next batch; of the others, those of one size become row groups in one go.
            alike = sum(1 for _ in itertools.takewhile(size.__eq__, sizes[index:-1]))
            begins = epoch != self._epoch
            if begins:
                self._flush()
            if begins and alike and size <= max(self._most // row_bytes, 1):
                self._write(batch.slice(start, alike * size), size)
                index += alike
            else:
                self._epoch = epoch
                self._hold(batch.slice(start, size), row_bytes)
                index += 1

    def _row_bytes(self, batch: pa.RecordBatch) -> int:
        """Bytes of raw weights in each row of a batch."""
        column = batch.column(WEIGHTS)
        return 4 * (len(column[0]) if self._ragged else column.type.list_size) or 1

    def _hold(self, batch: pa.RecordBatch, row_bytes: int) -> None:
        """Take rows of the epoch that is pending."""
        while batch.num_rows:
            room = (self._most - self._pending_bytes) // row_bytes
            if room < 1 and self._pending:
                self._flush()
                continue
            part, batch = batch.slice(0, max(room, 1)), batch.slice(max(room, 1))
            self._pending.append(part)
            self._pending_bytes += part.num_rows * row_bytes

    def close(self) -> Written | None:
        """Write what is pending and put the shard into its place; None if there was no row."""
        self._flush()
        return self._finish()

    def _flush(self) -> None:
        """Write the pending rows as one row group."""
        if not self._pending:
            return
        # One chunk a column: where the chunks end would else decide where pages end.
        batch = self._pending[0] if len(self._pending) == 1 else pa.concat_batches(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._write(batch, batch.num_rows)

    def _write(self, batch: pa.RecordBatch, size: int) -> None:
        """Write rows as row groups of one size."""
        with _storing(self._folder):
            if self._open is None:
                self._open = self._begin()
            self._open.writer.write_table(pa.Table.from_batches([batch]), row_group_size=size)

    def _begin(self) -> _Open:
        path = self._temporary.enter_context(temporary_beside(self._folder / self._split))
        wide = [f"{name}.list.element" for name in self._wide]
        paths = [*(name for name in self._schema.names if name not in self._wide), *wide]
        # Weights: exponents beside exponents make zstd-1 save 15 to 25 %, and reading is still faster than a disk or
        # a network. Statistics over millions of values would prune nothing and can break page headers.
        # No content-defined pages: a zoo grows by new shards, so that what was pushed is never written anew. Where a
        # shard is, because its run was not finished, whole row groups come behind the old ones, byte for byte the same.
        # They would make writing slower and files larger.
        # Each page of a narrow column would be a write of its own.
        sink = pa.BufferedOutputStream(pa.OSFile(str(path), "wb"), _BUFFER)
        writer = pq.ParquetWriter(
            sink,
            self._schema,
            # The narrow columns are 2 % of the bytes, and zstd would take a quarter of the time for them.
            compression={path: "zstd" if path in wide else "snappy" for path in paths},
            compression_level=dict.fromkeys(wide, 1),
            use_dictionary=_repeated(self._schema),
            column_encoding=dict.fromkeys(wide, "BYTE_STREAM_SPLIT"),
            write_statistics=_with_statistics(self._schema),
        )
        return _Open(path=path, sink=sink, writer=writer, digest=GrowingDigest(path))

    def _finish(self) -> Written | None:
        """Put the open file into its place under the name that its content gives it."""
        if self._open is None:
            return None
        done = self._open
        with _storing(self._folder):
            digest = done.close()
            target = self._folder / shard_name(self._split, self._place, digest)
            size = done.path.stat().st_size
            reused = target.is_file() and target.stat().st_size == size and sha256_of(target) == digest
            if not reused:
                done.path.replace(target)
            self._temporary.close()
        self._open = None
        self.rows = rows = pa.Table.from_batches(self._taken).combine_chunks()
        shard = Shard(
            path=target.relative_to(self._repo).as_posix(),
            split=self._split,
            rows=rows.num_rows,
            models=pc.count_distinct(rows["model_id"]).as_py(),
            epochs=tuple(sorted(pc.unique(rows["epoch"]).to_pylist())),
            bytes=size,
            sha256=digest,
        )
        return Written(shard=shard, num_bytes=size_in_memory(rows) + self._wide_bytes, reused=reused)


def sync(shard: Path) -> None:
    """Wait until the bytes of a shard in its place are on the disk.

    Raises:
        StorageError: if they cannot be written.
    """
    # For reading: shards that are there already may be read-only.
    with _storing(shard.parent), shard.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"a shard in {folder} could not be written: {error.strerror or error}; the repository is unchanged. "
            "Free space or choose another folder, then run the command again"
        ) from error
