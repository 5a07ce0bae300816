"""Checks of the files of one config and of the rows in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_datasets.errors import LayoutError, RepositoryError
from zoo_datasets.evaluation.verify.findings import Findings
from zoo_datasets.evaluation.verify.recipes import Recipe
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.layouts import read_layouts_file
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.places import LAYOUTS, META
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import (
    LAYOUT,
    METADATA_KEY,
    NAMES,
    RAW,
    RAW_END,
    SPLITS,
    WEIGHTS,
    records_of_schema,
    split_of,
    weights_matrix,
)
from zoo_datasets.repository.shards import named_by_content, what_instead
from zoo_datasets.storage.files import sha256_of
from zoo_datasets.terminal import Advance
from zoo_datasets.text import counted

METADATA_COLUMNS = [name for name in NAMES if name != WEIGHTS]


READ_ERRORS = (OSError, pa.ArrowException, ValueError)


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row's identity and place."""

    model_id: str
    parent_id: str | None
    epoch: int
    shard: Shard
    row_group: int
    index: int
    recorded: bool
    step: int | None = None


def check_shards(
    repo: Path, manifest: Manifest, recipe: Recipe, findings: Findings, progress: Advance
) -> list[CheckedRow]:
    """Each file and its rows. Returns the rows of those that can be read."""
    rows: list[CheckedRow] = []
    for number, shard in enumerate(manifest.shards):
        if _check_file(repo, manifest.config, shard, findings):
            try:
                rows += _check_rows(repo, manifest, recipe, shard, findings)
            except READ_ERRORS as error:
                findings.differs("rows", f"{shard.path} could not be read: {' '.join(str(error).split())[:200]}")
        progress(number + 1, len(manifest.shards))
    _check_meta(repo, manifest, findings)
    _check_layouts(repo, manifest, findings)
    files = (*manifest.shards, *manifest.meta, *manifest.layouts)
    findings.checked("checksums", f"of {len(files)} files, {sum(file.bytes for file in files):,} bytes")
    findings.checked("schema", _layouts_checked(manifest))
    findings.checked("rows", f"{len(rows):,} rows; row groups of one epoch each")
    findings.checked("weights", "kept as they are" if manifest.keep_nonfinite else "all finite")
    return rows


def rows_of(
    repo: Path, manifest: Manifest, epoch: int, columns: Sequence[str]
) -> tuple[list[CheckedRow], dict[str, tuple[object, ...]]]:
    """The rows of one epoch of a config that is not verified itself, and the values of some columns by model."""
    rows: list[CheckedRow] = []
    values: dict[str, tuple[object, ...]] = {}
    for shard in manifest.shards:
        if epoch not in shard.epochs:
            continue
        with pq.ParquetFile(repo / shard.path) as file:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=METADATA_COLUMNS)
                table_rows = [row for row in _rows_of(shard, group, table) if row.epoch == epoch]
                rows += table_rows
                narrow = table.select(list(columns)).to_pylist()
                values |= {row.model_id: tuple(narrow[row.index].values()) for row in table_rows}
    return rows, values


def _check_meta(repo: Path, manifest: Manifest, findings: Findings) -> None:
    """The files of the light config: theirs are the rows of the shards, in the same order."""
    for shard in manifest.meta:
        if not _check_file(repo, f"{manifest.config}{META}", shard, findings):
            continue
        parts = [part for part in manifest.shards if part.split == shard.split]
        try:
            table = pq.read_table(repo / shard.path, partitioning=None)
            expected = pa.concat_tables(
                [
                    pq.read_table(repo / part.path, columns=manifest.light_schema.names, partitioning=None)
                    for part in parts
                ]
            )
        except READ_ERRORS as error:
            findings.differs("rows", f"{shard.path} could not be read: {' '.join(str(error).split())[:200]}")
            continue
        if not table.schema.equals(manifest.light_schema):
            findings.differs("schema", f"{shard.path}: its columns or types are not those of this format")
        elif (different := _different_columns(table, expected)) != []:
            named = f": {', '.join(different)}" if different else ""
            findings.differs("rows", f"{shard.path}: its {table.num_rows:,} rows are not those of the shards{named}")


def _different_columns(table: pa.Table, expected: pa.Table) -> list[str] | None:
    """The columns in which two tables differ, NaN being equal to NaN; None if they have different numbers of rows."""
    if table.num_rows != expected.num_rows:
        return None
    return [
        name
        for name in table.column_names
        if name not in expected.column_names or not _is_same(table[name], expected[name])
    ]


def _is_same(values: pa.ChunkedArray, expected: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(values.type):
        same_nulls = pc.is_null(values).equals(pc.is_null(expected))
        return same_nulls and np.array_equal(values.to_numpy(), expected.to_numpy(), equal_nan=True)
    return bool(values.equals(expected))


def _check_file(repo: Path, folder: str, shard: Shard, findings: Findings) -> bool:
    """Whether the file exists and can be opened."""
    file = repo / shard.path
    if Path(shard.path).parts != (folder, file.name) or shard.split not in SPLITS:
        findings.differs("checksums", f"{shard.path} ({shard.split}): expected a file of a split in {folder}/")
        return False
    try:
        size, digest = file.stat().st_size, sha256_of(file)
    except OSError as error:
        findings.differs("checksums", f"{shard.path} could not be read: {error.strerror or error}")
        return False
    instead = what_instead(file)
    if instead is not None:
        findings.differs("checksums", f"{shard.path} {instead}")
        return False
    if size != shard.bytes:
        findings.differs("checksums", f"{shard.path} has {size:,} bytes, the manifest says {shard.bytes:,}")
    if digest != shard.sha256 or not named_by_content(file.name, shard.split, digest):
        said = f"the manifest says {shard.sha256[:16]}…"
        findings.differs("checksums", f"{shard.path}: its content hashes to {digest[:16]}…, {said}")
    return True


def _check_rows(
    repo: Path, manifest: Manifest, recipe: Recipe, shard: Shard, findings: Findings
) -> Iterator[CheckedRow]:
    with pq.ParquetFile(repo / shard.path) as file:
        expected = manifest.schema
        if not file.schema_arrow.equals(expected):
            findings.differs("schema", f"{shard.path}: its columns or types are not those of this format")
            return
        records = _records(manifest, shard, file.schema_arrow, findings)
        columns = [name for name in (*METADATA_COLUMNS, "group", "step", LAYOUT) if name in expected.names]
        models: set[str] = set()
        epochs: set[int] = set()
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            models.update(table["model_id"].to_pylist())
            epochs.update(table["epoch"].to_pylist())
            _check_group(manifest, shard, group, table, findings)
            if manifest.open is not None:
                _check_lengths(shard, group, file, table, records, findings)
            else:
                findings.differ("recipes", list(recipe.problems(table)))
            if not manifest.keep_nonfinite:
                _check_finite(shard, table, file.read_row_group(group, columns=[WEIGHTS]), findings)
            yield from _rows_of(shard, group, table)
        for what, actual, said in (
            ("rows", file.metadata.num_rows, shard.rows),
            ("models", len(models), shard.models),
            ("epochs", sorted(epochs), list(shard.epochs)),
        ):
            if actual != said:
                findings.differs("rows", f"{shard.path}: {what} {actual}, the manifest says {said}")


def _check_group(manifest: Manifest, shard: Shard, group: int, table: pa.Table, findings: Findings) -> None:
    """One epoch, the manifest's constants, accuracies that can be, and splits."""
    where = f"{shard.path}, row group {group}"
    epochs = pc.unique(table["epoch"]).to_pylist()
    if len(epochs) != 1:
        findings.differs("rows", f"{where} mixes epochs {epochs}")
    constants = {name: manifest.zoo[name] for name in ("images", "sparsifier") if name in manifest.zoo}
    if manifest.network is not None:
        constants |= manifest.network.columns()
    for column, value in {"zoo": manifest.config, **constants}.items():
        values = pc.unique(table[column]).to_pylist()
        if values != [value]:
            findings.differs("rows", f"{where}: {column} is {values}, the manifest says {value!r}")
    for column in ("train_acc", "val_acc", "test_acc"):
        low, high = pc.min_max(table[column]).as_py().values()
        if low is not None and (low < 0 or high > 1):
            findings.differs("rows", f"{where}: {column} reaches from {low} to {high}, expected [0, 1]")
    for column in ("train_loss", "val_loss", "test_loss"):
        low = pc.min_max(table[column]).as_py()["min"]
        if low is not None and low < 0:
            findings.differs("rows", f"{where}: {column} reaches down to {low}, which no cross-entropy does")
    gap = pc.subtract(table["train_acc"], table["test_acc"])
    if not np.array_equal(gap.to_numpy(), table["ggap"].to_numpy(), equal_nan=True):
        findings.differs("rows", f"{where}: ggap is not train_acc − test_acc")
    parents = dict(zip(table["model_id"].to_pylist(), table["parent_id"].to_pylist(), strict=True))
    if "group" in table.column_names:
        groups = zip(table["model_id"].to_pylist(), table["group"].to_pylist(), strict=True)
        parents |= {model_id: group for model_id, group in groups if group is not None}
    findings.differ(
        "splits",
        [
            f"{shard.path}: model {model_id} belongs to {split_of(parent or model_id)}, found in {shard.split}"
            for model_id, parent in parents.items()
            if split_of(parent or model_id) != shard.split
        ],
    )


def _records(manifest: Manifest, shard: Shard, schema: pa.Schema, findings: Findings) -> Mapping[str, NetworkRecord]:
    """The networks that a shard says its rows have, by hash."""
    if manifest.open is None:
        if schema.metadata.get(METADATA_KEY) != manifest.schema.metadata[METADATA_KEY]:
            findings.differs("schema", f"{shard.path}: the layout that it carries is not the manifest's")
        return {}
    try:
        return records_of_schema(schema)
    except LayoutError as error:
        findings.differs("schema", f"{shard.path}: {error}")
        return {}


def _check_lengths(
    shard: Shard,
    group: int,
    file: pq.ParquetFile,
    table: pa.Table,
    records: Mapping[str, NetworkRecord],
    findings: Findings,
) -> None:
    """Each row has a layout that its shard tells, and as many weights and raw bytes as that says."""
    where = f"{shard.path}, row group {group}"
    layouts = [records.get(name) for name in table[LAYOUT].to_pylist()]
    if None in layouts:
        findings.differs("schema", f"{where}: {layouts.count(None):,} rows have layouts that the shard does not tell")
        return
    lengths = {WEIGHTS: [record.layout.size for record in layouts if record]}
    if RAW in file.schema_arrow.names:
        lengths[RAW] = [
            record.layout.raw_bytes and record.layout.raw_bytes + len(RAW_END) for record in layouts if record
        ]
    for name, expected in lengths.items():
        column = file.read_row_group(group, columns=[name])[name]
        sizes = pc.binary_length(column) if name == RAW else pc.list_value_length(column)
        wrong = np.flatnonzero(pc.fill_null(sizes, 0).to_numpy() != np.array(expected))
        findings.differ(
            "schema", [f"{where}: row {row} has a wrong length of {name} for its layout" for row in wrong[:3].tolist()]
        )


def _check_layouts(repo: Path, manifest: Manifest, findings: Findings) -> None:
    """The file of an open config that tells its layouts."""
    for shard in manifest.layouts:
        if _check_file(repo, f"{manifest.config}{LAYOUTS}", shard, findings):
            try:
                read_layouts_file(repo / shard.path)
            except (RepositoryError, LayoutError) as error:
                findings.differs("schema", str(error))


def _layouts_checked(manifest: Manifest) -> str:
    if manifest.open is None:
        return f"columns, types and a layout of {manifest.one_layout('verify').size:,} weights"
    return f"columns, types and {counted(sum(shard.rows for shard in manifest.layouts), 'layout')}"


def _check_finite(shard: Shard, table: pa.Table, weights: pa.Table, findings: Findings) -> None:
    column = weights[WEIGHTS].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        bad = np.flatnonzero(~np.isfinite(weights_matrix(weights)).all(axis=1))
    else:
        rows = np.repeat(np.arange(len(column)), column.value_lengths().to_numpy())
        bad = np.unique(rows[~np.isfinite(column.flatten().to_numpy())])
    models, epochs = table["model_id"].to_pylist(), table["epoch"].to_pylist()
    findings.differ(
        "weights",
        [f"{shard.path}: weights of model {models[row]} at epoch {epochs[row]} are not finite" for row in bad],
    )


def _rows_of(shard: Shard, group: int, table: pa.Table) -> Iterator[CheckedRow]:
    recorded = [table[name].to_pylist() for name in ("val_loss", "val_acc", "test_loss", "test_acc")]
    identity = (table[name].to_pylist() for name in ("model_id", "parent_id", "epoch"))
    steps = table["step"].to_pylist() if "step" in table.column_names else [None] * table.num_rows
    for index, (model_id, parent, epoch) in enumerate(zip(*identity, strict=True)):
        has_figures = any(column[index] is not None for column in recorded)
        yield CheckedRow(model_id, parent, epoch, shard, group, index, has_figures, steps[index])
