"""Record batches into Parquet shards whose names are hashes of their content."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.errors import StorageError
from zoo_datasets.files import TEMPORARY_SUFFIX, sha256_of
from zoo_datasets.manifest import Shard
from zoo_datasets.schema import COLUMNS, WEIGHTS

ROW_GROUP_BYTES = 100_000_000
SHARD_BYTES = 500_000_000

_NAMES = [column.name for column in COLUMNS if column.name != WEIGHTS]
# A dictionary does not pay where every value of a row group differs.
_REPEATED = [column.name for column in COLUMNS if column.type == pa.string() and column.name != "model_id"]


@dataclass(kw_only=True, slots=True)
class Written:
    """A shard in its place. `num_bytes` is its size as Arrow holds it in memory, as `datasets` counts."""

    shard: Shard
    num_bytes: int
    reused: bool


@dataclass(kw_only=True, slots=True)
class _Open:
    """The file being written."""

    path: Path
    writer: pq.ParquetWriter
    weight_bytes: int = 0
    num_bytes: int = 0
    rows: int = 0
    models: set[str] = field(default_factory=set)
    epochs: set[int] = field(default_factory=set)


class ShardWriter:
    """Cuts the rows of one split of one block into row groups and shards.

    Batches come by epoch; each holds one epoch. Row groups never mix epochs and hold at most
    `ROW_GROUP_BYTES` of raw weights (at least one row), shards about `SHARD_BYTES`. The cuts depend on
    the rows alone and not on how they are batched, so the same rows give the same files. `close` finishes
    the last shard; leaving the context without it drops what is unfinished.

    Raises:
        StorageError: where a file cannot be written; names it.
    """

    def __init__(self, repo: Path, config: str, split: str, schema: pa.Schema) -> None:
        self._repo = repo
        self._folder = repo / config
        self._split = split
        self._schema = schema
        self._row_bytes = 4 * schema.field(WEIGHTS).type.list_size
        self._open: _Open | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._epoch: int | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            # Another error is on its way; on a full disk closing would hide it behind a second one.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._open.writer.close()
            self._open.path.unlink(missing_ok=True)
            self._open = None

    def add(self, epoch: int, batch: pa.RecordBatch) -> Iterator[Written]:
        """Take the rows of a batch; yields the shards that this finished."""
        if epoch != self._epoch:
            yield from self._flush()
            self._epoch = epoch
        capacity = max(ROW_GROUP_BYTES // self._row_bytes, 1)
        while batch.num_rows:
            room = capacity - self._pending_rows
            part, batch = batch.slice(0, room), batch.slice(room)
            self._pending.append(part)
            self._pending_rows += part.num_rows
            if self._pending_rows == capacity:
                yield from self._flush()

    def close(self) -> Iterator[Written]:
        """Write what is pending; yields the last shards."""
        yield from self._flush()
        yield from self._finish()

    def _flush(self) -> Iterator[Written]:
        """Write the pending rows as one row group."""
        if not self._pending_rows:
            return
        size = self._pending_rows * self._row_bytes
        if self._open is not None and self._open.weight_bytes + size > SHARD_BYTES:
            yield from self._finish()
        # One chunk a column: where the chunks end would else decide where pages end.
        table = pa.Table.from_batches(self._pending, schema=self._schema)
        if len(self._pending) > 1:
            table = table.combine_chunks()
        self._pending, self._pending_rows = [], 0
        with _storing(self._folder):
            if self._open is None:
                self._open = self._begin()
            self._open.writer.write_table(table, row_group_size=table.num_rows)
        self._open.weight_bytes += size
        self._open.num_bytes += table.nbytes
        self._open.rows += table.num_rows
        self._open.models.update(table["model_id"].to_pylist())
        self._open.epochs.update(table["epoch"].unique().to_pylist())

    def _begin(self) -> _Open:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".{self._split}.{os.getpid()}{TEMPORARY_SUFFIX}"
        wide_type = self._schema.field(WEIGHTS).type
        wide = [f"{name}.list.element" for name in self._schema.names if self._schema.field(name).type == wide_type]
        paths = [*(name for name in self._schema.names if f"{name}.list.element" not in wide), *wide]
        # Weights: exponents beside exponents make zstd-1 save 15 to 25 %, and reading is still faster than a disk or
        # a network. Statistics over millions of values would prune nothing and can break page headers.
        # No content-defined pages: a zoo grows by new shards, so that what was pushed is never written anew. Where a
        # shard is, because its run was not finished, whole row groups come behind the old ones, byte for byte the same.
        # They would make writing slower and files larger.
        writer = pq.ParquetWriter(
            path,
            self._schema,
            # The narrow columns are 2 % of the bytes, and zstd would take a quarter of the time for them.
            compression={path: "zstd" if path in wide else "snappy" for path in paths},
            compression_level=dict.fromkeys(wide, 1),
            use_dictionary=_REPEATED,
            column_encoding=dict.fromkeys(wide, "BYTE_STREAM_SPLIT"),
            write_statistics=_NAMES,
        )
        return _Open(path=path, writer=writer)

    def _finish(self) -> Iterator[Written]:
        """Put the open file into its place under the name that its content gives it."""
        if self._open is None:
            return
        done = self._open
        with _storing(self._folder):
            done.writer.close()
            with done.path.open("rb+") as file:
                os.fsync(file.fileno())
            digest = sha256_of(done.path)
            target = self._folder / f"{self._split}-{digest[:16]}.parquet"
            size = done.path.stat().st_size
            reused = target.is_file() and target.stat().st_size == size and sha256_of(target) == digest
            if reused:
                done.path.unlink()
            else:
                done.path.replace(target)
        self._open = None
        shard = Shard(
            path=target.relative_to(self._repo).as_posix(),
            split=self._split,
            rows=done.rows,
            models=len(done.models),
            epochs=tuple(sorted(done.epochs)),
            bytes=size,
            sha256=digest,
        )
        yield Written(shard=shard, num_bytes=done.num_bytes, reused=reused)


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"a shard in {folder} could not be written: {error.strerror or error}; the repository is unchanged. "
            "Free space or choose another folder, then run the command again"
        ) from error
