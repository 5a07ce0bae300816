"""A config of a repository as a source: all its rows, or those that are selected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.builders.sources.stored import ParquetRows, StoredRows, StoredSource
from zoo_datasets.documents import StrPath
from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.loading.repositories.location import Location
from zoo_datasets.loading.repositories.selection import Selection
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.credit import credit_of
from zoo_datasets.repository.layouts import local_layouts
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import (
    LAYOUT,
    NAMES,
    STANDARD,
    WEIGHTS,
    is_wide,
)
from zoo_datasets.repository.shards import ShardDigests
from zoo_datasets.specs.spec import digest_of

SELECTION = "selection"
# What rows are without, they are other rows, or no network can be made of them.
_ALWAYS = frozenset({
    "zoo", "model_id", "epoch", "step", "images", "architecture", "in_channels", "classes", "activation", "parent_id",
    "group", LAYOUT, WEIGHTS,
})  # fmt: skip
_NUMBER = "number of the row"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowChoice:
    """Which rows of a config are selected, and with which columns; None means all.

    Attributes:
        epochs, steps: the states.
        where: a condition, as of `load_zoo`.
        columns: the columns that keep their values; those that make a row and its network always do.
    """

    epochs: Iterable[int] | None = None
    steps: Iterable[int] | None = None
    where: str | None = None
    columns: Sequence[str] | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values; empty if it is everything."""
        values = {
            "epochs": None if self.epochs is None else sorted(self.epochs),
            "steps": None if self.steps is None else sorted(self.steps),
            "where": self.where,
            "columns": None if self.columns is None else sorted(self.columns),
        }
        return {name: value for name, value in values.items() if value is not None}


class RepositorySource(StoredSource):
    """A config of a repository: its rows, or those of a choice, with its credit, facts of its images, and notes.

    Without a choice it is what it was built of, under whatever name: with the counts, and what was left out.
    """

    def __init__(self, manifest: Manifest, stored: StoredRows, choice: RowChoice | None) -> None:
        self._manifest = manifest
        selected = {} if choice is None else choice.record()
        described = {name: value for name, value in manifest.source.items() if name not in ("kind", "credit")}
        self.kind = str(manifest.source.get("kind", "unknown"))
        source_id, left_out = manifest.source_id, manifest.left_out
        if choice is not None:
            described = {**described, "of": _origin(manifest), "selection": selected}
            self.kind = SELECTION
            narrowing = [selected.get("where"), selected.get("columns")]
            source_id, left_out = digest_of([SELECTION, manifest.source_id, *narrowing]), ()
        super().__init__(manifest.config, stored, source_id, described, left_out)
        self.credit = credit_of(manifest.source)
        self.keeps_nonfinite = manifest.keep_nonfinite  # as when its rows were built
        if choice is None:
            self.models, self.states = manifest.models.found, manifest.states.found

    @property
    def zoo(self) -> Mapping[str, Any]:
        """What is known of the recipe."""
        return self._manifest.zoo

    def fingerprint(self) -> str:
        """Digest of the files' own."""
        return digest_of([shard.sha256 for shard in self._manifest.shards])


def _origin(manifest: Manifest) -> dict[str, Any]:
    """What a selection records of the config that its rows were selected from."""
    earlier = manifest.source.get("of")
    kind = earlier.get("kind") if isinstance(earlier, Mapping) else manifest.source.get("kind")
    counts = {"models": manifest.models, "states": manifest.states}
    origin = {"config": manifest.config, "source_id": manifest.source_id, "kind": kind}
    selection = manifest.source.get("selection")
    return (
        origin
        | {what: asdict(count) for what, count in counts.items()}
        | ({"selection": selection} if selection else {})
        | ({"of": earlier} if earlier else {})
    )


def open_config(
    repo: StrPath, name: str, choice: RowChoice | None = None, *, revision: str | None = None
) -> RepositorySource:
    """A config of a local repository or one on the Hub, of which the files that hold chosen epochs are fetched.

    Args:
        choice: the rows; None means all, with what was left out when they were built.
        revision: branch, tag or commit, on the Hub.

    Raises:
        RepositoryError: if it cannot be read, or `zoo build` did not make it.
        UnknownNameError: if there is no such config or column.
        SpecError: if the choice makes no sense, or fits no row.
    """
    location = Location.of(repo, revision).resolved()[0]
    location.check_config(name)
    manifest = location.manifest(name)
    if manifest is None or not manifest.shards:
        raise RepositoryError(f"{location.repo}: {name} has no manifest with rows; expected a config of `zoo build`")
    asked = choice or RowChoice()
    selection = Selection.of(asked.epochs, asked.where, asked.columns, asked.steps, None, "model")
    selection = selection.within(manifest, location.open_columns(manifest))
    selection.check_epochs(manifest, name)
    listed = selection.files(manifest, selection.epochs_to_read(manifest))
    paths = None if listed is None else {path for split in listed.values() for path in split}
    shards = [shard for shard in manifest.shards if paths is None or shard.path in paths]
    files = {shard.path: location.file(shard.path) for shard in shards}
    ShardDigests(manifest).check(files, {shard.path: shard.split for shard in shards})
    rows = _rows(manifest, files, location.layouts(manifest))
    return RepositorySource(manifest, _chosen(rows, manifest, selection), choice)


def held_rows(repo: Path, manifest: Manifest) -> StoredRows:
    """All rows of an open config of a local repository.

    Raises:
        RepositoryError: if a file of it cannot be read.
    """
    paths = {shard.path: repo / shard.path for shard in manifest.shards}
    rows = _rows(manifest, paths, local_layouts(repo, manifest))
    # It follows from others, and rows that will join these do not tell it.
    return replace(rows, columns=rows.columns.drop_columns("ggap"))


def _rows(manifest: Manifest, paths: Mapping[str, Path], records: Mapping[str, NetworkRecord]) -> StoredRows:
    """The rows of shards."""
    layout = manifest.layout
    if layout is not None:
        records = remember([NetworkRecord(layout)])
    files = [ParquetRows(path) for path in paths.values()]
    columns = pa.concat_tables([_narrow(path) for path in paths.values()])
    if LAYOUT not in columns.column_names:
        columns = columns.append_column(LAYOUT, pa.array([*records] * len(columns), pa.string()))
    return StoredRows(
        files=files,
        columns=columns,
        rows=np.arange(len(columns), dtype=np.int64),
        records=records,
        further=() if manifest.open is None else manifest.open.further,
        network=manifest.network,
        extras=manifest.extras,
    )


def _narrow(file: Path) -> pa.Table:
    """The columns of a shard that are not as wide as the weights, but the zoo's name."""
    try:
        names = [field.name for field in pq.read_schema(file) if not is_wide(field.type) and field.name != "zoo"]
        return pq.read_table(file, columns=names, partitioning=None).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise RepositoryError(f"{file} could not be read: {reason}; build the zoo again") from error


def _chosen(rows: StoredRows, manifest: Manifest, selection: Selection) -> StoredRows:
    """The rows and columns of a selection.

    Raises:
        UnknownNameError: if it names a column that there is not.
        SpecError: if it fits no row.
    """
    columns, kept = rows.columns, rows.rows
    if selection.filter is not None:
        zoo = pa.array([manifest.config] * len(columns), pa.string())
        judged = columns.append_column("zoo", zoo).append_column(_NUMBER, pa.array(kept))
        kept = judged.filter(selection.filter)[_NUMBER].to_numpy()
        columns = columns.take(pa.array(kept))
        if not len(kept):
            raise selection.no_rows(manifest.config)
    wanted = set(selection.columns or ())
    known = [*columns.column_names, *NAMES, *rows.extras, *(STANDARD if manifest.open is not None else ())]
    for name in selection.columns or ():
        if name not in known:
            raise UnknownNameError("column", name, dict.fromkeys(known))
    further, extras = rows.further, rows.extras
    if selection.columns is not None:
        columns = columns.select([name for name in columns.column_names if name in wanted | _ALWAYS])
        further = tuple(column for column in further if column.name in wanted)
        extras = tuple(name for name in extras if name in wanted)
    return replace(rows, columns=columns, rows=kept, further=further, extras=extras)
