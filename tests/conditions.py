"""A condition on each column of some rows, that splits them where their values differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_datasets.builders import Reading, build_repository
from zoo_datasets.errors import SourceError, SpecError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import COLUMNS, WEIGHTS
from zoo_datasets.repository.where import parse_where

SCALARS = tuple(column.name for column in COLUMNS if column.name != WEIGHTS)


def stored(repo: Path, config: str) -> pa.Table:
    """All rows of a config without weights, read plainly."""
    shards = read_manifest(repo, config).shards
    return pa.concat_tables([pq.read_table(repo / shard.path, columns=list(SCALARS)) for shard in shards])


def keys(table: pa.Table) -> set[tuple[str, int]]:
    """Models and epochs of rows."""
    return set(zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True))


def condition_on(table: pa.Table, column: str) -> str:
    """Whether a column is null, where all of it is; else a comparison with the value in the middle, which it keeps."""
    values = sorted(value for value in pc.unique(table[column].drop_null()).to_pylist() if value == value)
    if not values:
        return f"{column} is None"
    middle = values[(len(values) - 1) // 2]
    return f"{column} == '{middle}'" if isinstance(middle, str) else f"{column} <= {middle}"


def differing(
    source: Path, repo: Path, config: str, few: Path, columns: Sequence[str] = SCALARS
) -> tuple[dict[str, str], set[str]]:
    """Columns of which a build with a condition has other rows than the repository, loaded with it; and those that
    the build refuses by name."""
    table = stored(repo, config)
    differ: dict[str, str] = {}
    refused: set[str] = set()
    for column in columns:
        where = condition_on(table, column)
        try:
            build_repository(source, few, config, reading=Reading(where=parse_where(where)), replace=True)
        except SourceError as error:
            if f"{column} will be computed from the weights" in str(error):
                refused.add(column)
            else:
                differ[where] = str(error)
            continue
        try:
            splits = load_zoo(repo, config, where=where, columns=["model_id", "epoch"], streaming=True)
            expected = {(row["model_id"], row["epoch"]) for split in splits.values() for row in split}
        except SpecError as error:
            differ[where] = str(error)
            continue
        if keys(stored(few, config)) != expected:
            differ[where] = f"{len(keys(stored(few, config)))} rows built, {len(expected)} loaded"
    return differ, refused
