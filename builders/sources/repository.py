"""A config of a repository as a source: all its rows, or those that match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.builders.sources.stored import ParquetRows, StoredRows
from zoo_datasets.errors import RepositoryError
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.layouts import local_layouts
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import COLUMNS, EXTRAS, LAYOUT, OPEN_COLUMNS, Column, is_wide

_STANDARD = {column.name: column.type for column in (*COLUMNS, *OPEN_COLUMNS)}


def held_rows(repo: Path, manifest: Manifest) -> StoredRows:
    """All rows of a config of a local repository.

    Raises:
        RepositoryError: if a file of it cannot be read.
    """
    if manifest.open is None:
        own = NetworkRecord(manifest.one_layout("this"))
        records = remember([own])
        further: tuple[Column, ...] = ()
    else:
        records = local_layouts(repo, manifest)
        further = manifest.open.further
    files, tables = [], []
    for shard in manifest.shards:
        file = repo / shard.path
        try:
            schema = pq.read_schema(file)
            narrow = [field.name for field in schema if not is_wide(field.type) and field.name not in ("zoo", *EXTRAS)]
            table = pq.read_table(file, columns=narrow, partitioning=None).replace_schema_metadata(None)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise RepositoryError(f"{file} could not be read: {reason}; build the zoo again") from error
        files.append(ParquetRows(file))
        tables.append(table)
    columns = pa.concat_tables(tables)
    if LAYOUT not in columns.column_names:
        columns = columns.append_column(LAYOUT, pa.array([own.hash] * len(columns), pa.string()))
    for name in ("step",):
        if name not in columns.column_names:
            columns = columns.append_column(name, pa.nulls(len(columns), _STANDARD[name]))
    return StoredRows(
        files=files, columns=columns, rows=np.arange(len(columns), dtype=np.int64), records=records, further=further
    )
