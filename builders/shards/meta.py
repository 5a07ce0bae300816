"""The light config without weights, derived from the shards of a config."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_datasets.builders.shards.writer import size_in_memory
from zoo_datasets.errors import RepositoryError
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.manifest import Manifest, existing_plots, read_manifest, with_moved_plots
from zoo_datasets.repository.places import LAYOUTS, META
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import LAYOUT, LAYOUTS_SCHEMA, SPLITS
from zoo_datasets.repository.shards import shard_name
from zoo_datasets.storage.files import write_bytes

_ROW_GROUP = 100_000


def with_meta(
    repo: Path, manifest: Manifest, rows: Mapping[str, pa.Table], records: Mapping[str, NetworkRecord]
) -> tuple[Manifest, Mapping[str, int]]:
    """The manifest with its light config, and the layouts of open rows, writing those files that do not exist yet.

    The plots that were drawn of the same light config stay listed. Also returns the size of each split of the light
    config in memory, as `datasets` counts.

    Args:
        rows: of shards, by path, with at least these columns; those of other shards are read from their files.
        records: the networks of open rows, by hash.

    Raises:
        RepositoryError: if a shard cannot be read.
        StorageError: if a file cannot be written.
    """
    meta: list[Shard] = []
    num_bytes: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for split in manifest.splits:  # one table at a time
        table = _metadata(repo, manifest, split, rows)
        meta.append(_write(repo, f"{manifest.config}{META}", split, table))
        num_bytes[split] = size_in_memory(table)
        if manifest.open is not None:
            counts.update({str(item["values"]): item["counts"] for item in table[LAYOUT].value_counts().to_pylist()})
    layouts = () if manifest.open is None else (_write_layouts(repo, manifest.config, records, counts),)
    earlier = _earlier(repo, manifest.config)
    plots = existing_plots(repo, earlier) if earlier is not None and earlier.meta == tuple(meta) else ()
    manifest = dataclasses.replace(manifest, meta=tuple(meta), plots=plots, layouts=layouts)
    return with_moved_plots(repo, manifest), num_bytes


def _earlier(repo: Path, config: str) -> Manifest | None:
    try:
        return read_manifest(repo, config)
    except RepositoryError:  # broken, and about to be replaced
        return None


def _metadata(repo: Path, manifest: Manifest, split: str, rows: Mapping[str, pa.Table]) -> pa.Table:
    """All columns but the weights, of the rows of a split in their order."""
    schema = manifest.light_schema
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


def _write_layouts(repo: Path, config: str, records: Mapping[str, NetworkRecord], counts: Mapping[str, int]) -> Shard:
    names = sorted(counts)
    table = pa.table(
        {
            LAYOUT: names,
            "tensors": [records[name].layout.to_json() for name in names],
            "layers": [records[name].layers for name in names],
            "weights": [records[name].layout.size for name in names],
            "rows": [counts[name] for name in names],
        },
        LAYOUTS_SCHEMA,
    )
    return _write(repo, f"{config}{LAYOUTS}", SPLITS[0], table)


def _write(repo: Path, folder: str, split: str, table: pa.Table) -> Shard:
    # One file a split, written anew when the zoo grows: it is a hundredth of the weights, and a viewer that had to
    # open as many files as there are shards would be slow.
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=_ROW_GROUP, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    path = f"{folder}/{shard_name(split, 0, digest)}"
    file = repo / path
    if not file.is_file() or file.read_bytes() != data:
        write_bytes(file, data)
    rows = "model_id" in table.column_names
    return Shard(
        path=path,
        split=split,
        rows=table.num_rows,
        models=pc.count_distinct(table["model_id"]).as_py() if rows else 0,
        epochs=tuple(sorted(pc.unique(table["epoch"]).to_pylist())) if rows else (),
        bytes=len(data),
        sha256=digest,
    )
