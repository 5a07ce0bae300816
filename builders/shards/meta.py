"""The light config without weights, derived from the shards of a config."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_datasets.builders.shards.writer import size_in_memory
from zoo_datasets.errors import RepositoryError
from zoo_datasets.repository.manifest import META, Manifest, Shard, existing_plots, read_manifest, with_moved_plots
from zoo_datasets.repository.row import meta_schema
from zoo_datasets.repository.shards import shard_name
from zoo_datasets.storage.files import write_bytes

_ROW_GROUP = 100_000


def with_meta(repo: Path, manifest: Manifest, rows: Mapping[str, pa.Table]) -> tuple[Manifest, Mapping[str, int]]:
    """The manifest with its light config, writing those of its files that do not exist yet.

    The plots that were drawn of the same light config stay listed. Also returns the size of each split of the light
    config in memory, as `datasets` counts.

    Args:
        rows: of shards, by path, with at least these columns; those of other shards are read from their files.

    Raises:
        RepositoryError: if a shard cannot be read.
        StorageError: if a file cannot be written.
    """
    meta: list[Shard] = []
    num_bytes: dict[str, int] = {}
    for split in manifest.splits:  # one table at a time
        table = _metadata(repo, manifest, split, rows)
        meta.append(_write(repo, manifest.config, split, table))
        num_bytes[split] = size_in_memory(table)
    earlier = _earlier(repo, manifest.config)
    plots = existing_plots(repo, earlier) if earlier is not None and earlier.meta == tuple(meta) else ()
    return with_moved_plots(repo, dataclasses.replace(manifest, meta=tuple(meta), plots=plots)), num_bytes


def _earlier(repo: Path, config: str) -> Manifest | None:
    try:
        return read_manifest(repo, config)
    except RepositoryError:  # broken, and about to be replaced
        return None


def _metadata(repo: Path, manifest: Manifest, split: str, rows: Mapping[str, pa.Table]) -> pa.Table:
    """All columns but the weights, of the rows of a split in their order."""
    schema = meta_schema(manifest.unknown)
    tables = []
    for shard in manifest.shards:
        if shard.split == split:
            table = rows.get(shard.path)
            if table is None:
                table = _read(repo, shard, schema)
            tables.append(table.select(schema.names).replace_schema_metadata(schema.metadata))
    # One chunk a column: where the chunks end would else decide where pages end.
    return pa.concat_tables(tables).cast(schema).combine_chunks()


def _read(repo: Path, shard: Shard, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(repo / shard.path, columns=schema.names, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise RepositoryError(f"{shard.path} could not be read again: {error}; build it once more") from error


def _write(repo: Path, config: str, split: str, table: pa.Table) -> Shard:
    # One file a split, written anew when the zoo grows: it is a hundredth of the weights, and a viewer that had to
    # open as many files as there are shards would be slow.
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=_ROW_GROUP, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    path = f"{config}{META}/{shard_name(split, 0, digest)}"
    file = repo / path
    if not file.is_file() or file.read_bytes() != data:
        write_bytes(file, data)
    return Shard(
        path=path,
        split=split,
        rows=table.num_rows,
        models=pc.count_distinct(table["model_id"]).as_py(),
        epochs=tuple(sorted(pc.unique(table["epoch"]).to_pylist())),
        bytes=len(data),
        sha256=digest,
    )
