"""Rows from memory: state dicts or flat weights with their columns, as an iterator gives them, into a repository."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from zoo_datasets.builders.build import build_from
from zoo_datasets.builders.shards.building import BuildResult
from zoo_datasets.builders.sources.base import Source
from zoo_datasets.builders.sources.repository import held_rows
from zoo_datasets.builders.sources.stored import StoredRows, StoredSource
from zoo_datasets.builders.state_dicts.columns import as_type, of_values
from zoo_datasets.builders.writing.items import Item, Key, rows_of
from zoo_datasets.builders.writing.staging import Staging
from zoo_datasets.documents import StrPath, brief
from zoo_datasets.errors import LayoutError, RepositoryError, SourceError, SpecError, StorageError
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.row import LAYOUT, STANDARD, further_column
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import check_files
from zoo_datasets.storage.folders import check_repository_folder
from zoo_datasets.storage.locks import hold_folder

STAGED = ".staged"
_DOC = "given with the rows"


def write_rows(
    repo: StrPath,
    name: str,
    rows: Iterable[Item],
    *,
    layout: WeightLayout | None = None,
    layers: Sequence[Layer] | None = None,
    docs: Mapping[str, str] | None = None,
    replace: bool = False,
    keep_nonfinite: bool = False,
    num_proc: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> BuildResult:
    """Write networks from memory into a config of a dataset repository: generated weights, a loop of one's own.

    Each item is a state dict, or a module, with a dictionary of columns; or flat weights: [D] with such a dictionary,
    or [n, D] with lists of n values (a single value counts for all). Without a dictionary, only the weights are known.
    Networks may differ in their layouts. The key of a row is (`model_id`, `epoch`, `step`): without a `model_id` it is
    a hash of the weights; `epoch` is 0 and `step` null where they are not given. Other names are standard columns,
    which keep their types, or further ones, whose type is decided over all rows.

    What is finished is kept: after an interruption the same call goes on, and rows whose keys it has already are not
    written again. A later call adds its rows to the config; rows whose keys the config holds are left as they are.

    Args:
        rows: read once; memory holds some 64 MB of them.
        layout: of flat weights, and what state dicts must fit; None: each state dict tells its own.
        layers: of the networks, so that `to_module` can build them; the layout follows from them.
        docs: what further columns mean, by name.
        replace: write the config anew, and drop what an interrupted call has left.
        keep_nonfinite: whether weights that are NaN or infinite become rows too.
        num_proc, progress: as of `build_repository`.

    Raises:
        SourceError: if an item is no such thing, a column's name or value cannot be, or a key comes twice; nothing of
            this call is kept then.
        LayoutError: if weights do not fit the layout.
        RepositoryError: if the config holds another zoo, its name cannot be used, or another call writes into it.
        StorageError: if a file cannot be written.
    """
    repo = Path(repo)
    check_repository_folder(repo)
    if not NAME.fullmatch(name):
        raise RepositoryError(f"config name {name[:200]!r}: expected letters, digits, '_', '-' and '.', at most 128")
    given = _given_record(layout, layers)
    with _staging_in(repo / name):
        return _write(repo, name, rows, given, docs or {}, replace, keep_nonfinite, num_proc, progress)


@contextlib.contextmanager
def _staging_in(folder: Path) -> Iterator[None]:
    """Hold the folder of a config for the rows of one call; what was made for nothing goes again.

    Raises:
        RepositoryError: at once, if another call stages rows there.
        StorageError: if there can be no such folder.
    """
    check_files(folder.parent, [folder.name], links=False)
    new = [path for path in (folder, folder.parent) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder} could not be made: {error.strerror or error}; choose a folder to write to"
        ) from error
    try:
        with hold_folder(folder):
            yield
    except TimeoutError as error:
        raise RepositoryError(
            f"another call of write_rows writes into {folder}; wait for it, or give the rows another name"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # as long as there is nothing in them
            for path in new:
                path.rmdir()


def _write(
    repo: Path,
    name: str,
    rows: Iterable[Item],
    given: NetworkRecord | None,
    docs: Mapping[str, str],
    replace: bool,
    keep_nonfinite: bool,
    num_proc: int,
    progress: Callable[[int, int], None] | None,
) -> BuildResult:
    existing = None if replace else read_manifest(repo, name)
    if existing is not None and existing.source.get("kind") != StoredSource.kind:
        raise RepositoryError(
            f"{repo / name} was built of another kind of source ({brief(existing.source.get('kind'))}); choose another "
            "name, or pass replace=True"
        )
    staging = Staging(repo / name / STAGED, fresh=replace)
    held = None if existing is None else held_rows(repo, existing)
    known = set() if held is None else _keys_of(held.columns)
    try:
        for item in rows:
            for row in rows_of(item, given):
                staging.add(row, known)
        staging.finish()
        source = _source(name, existing, held, staging, docs)
    except (SourceError, LayoutError, SpecError):
        staging.discard_own()
        raise
    except BaseException:
        staging.finish()  # what is there counts when the call is made again
        raise
    result = build_from(
        source, repo, name, replace=replace, keep_nonfinite=keep_nonfinite, num_proc=num_proc, progress=progress
    )
    staging.remove()
    return result


def _given_record(layout: WeightLayout | None, layers: Sequence[Layer] | None) -> NetworkRecord | None:
    if layers is None:
        return None if layout is None else NetworkRecord(layout)
    expected = build_layout(tuple(layers))
    if layout is not None and layout != expected:
        raise LayoutError("the layout is not that of the layers; give one of them")
    return NetworkRecord(expected, json.dumps(layers_to_json(tuple(layers))))


def _keys_of(table: pa.Table) -> set[Key]:
    return set(zip(*(table[name].to_pylist() for name in ("model_id", "epoch", "step")), strict=True))


def _source(
    name: str, existing: Manifest | None, held: StoredRows | None, staging: Staging, docs: Mapping[str, str]
) -> Source:
    """The rows that the config holds, and the staged ones behind them."""
    places, columns, layouts = staging.rows()
    if not places and held is None:
        raise SourceError(f"{name}: the iterator gave no row; nothing was written")
    table, further = table_of(columns, layouts, docs)
    starts = np.cumsum([0, *(sum(staged.sizes) for staged in staging.files)])
    numbers = np.array([starts[number] + place for number, place in places], np.int64)
    new = StoredRows(files=staging.files, columns=table, rows=numbers, records=staging.records, further=further)
    stored = new if held is None else joined(held, new) if places else held
    left_out = () if existing is None else existing.left_out
    return StoredSource(name, stored, digest_of(["rows", name]), {}, left_out)


def table_of(
    columns: Sequence[Mapping[str, Any]], layouts: Sequence[str], docs: Mapping[str, str]
) -> tuple[pa.Table, tuple[Any, ...]]:
    """The narrow columns of rows: standard ones in their types, further ones in the type that all values have.

    Raises:
        SourceError: if a value does not fit its column.
    """
    names = dict.fromkeys(name for row in columns for name in row)
    arrays: dict[str, pa.Array] = {}
    further = []
    for name in names:
        values = of_values([row.get(name) for row in columns])
        if name in STANDARD:
            arrays[name] = as_type(values, STANDARD[name].type, name)
        elif values.null_count < len(values):
            arrays[name] = values
            kind = {pa.bool_(): "bool", pa.int64(): "int64", pa.float64(): "float64"}.get(values.type, "string")
            further.append(further_column(name, kind, docs.get(name, _DOC)))
    arrays[LAYOUT] = pa.array(layouts, pa.string())
    return pa.table(arrays), tuple(sorted(further, key=lambda column: column.name))


def joined(held: StoredRows, new: StoredRows) -> StoredRows:
    """The rows of both; columns that one of them lacks are null in its rows.

    Raises:
        SourceError: if a further column has other types in them.
    """
    types = {field.name: field.type for field in held.columns.schema}
    for field in new.columns.schema:
        kind = types.setdefault(field.name, field.type)
        if kind != field.type and {kind, field.type} != {pa.int64(), pa.float64()}:
            raise SourceError(
                f"column {field.name!r} is {field.type} in the new rows and {kind} in those that the config holds; "
                "expected one type"
            )
        if kind != field.type:
            types[field.name] = pa.float64()
    tables = [
        pa.table({
            name: part[name].cast(kind) if name in part.column_names else pa.nulls(len(part), kind)
            for name, kind in types.items()
        })
        for part in (held.columns, new.columns)
    ]  # fmt: skip
    offset = sum(sum(row_file.sizes) for row_file in held.files)
    further = {column.name: column for column in (*held.further, *new.further)}
    kinds = {pa.bool_(): "bool", pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
    return StoredRows(
        files=[*held.files, *new.files],
        columns=pa.concat_tables(tables),
        rows=np.concatenate([held.rows, new.rows + offset]),
        records={**held.records, **new.records},
        further=tuple(further_column(name, kinds[types[name]], further[name].doc) for name in sorted(further)),
    )
