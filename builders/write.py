"""Rows from memory: state dicts or flat weights with their columns, as an iterator gives them, into a repository."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from zoo_datasets.builders.build import build_from
from zoo_datasets.builders.shards.building import BuildResult
from zoo_datasets.builders.sources.base import Source
from zoo_datasets.builders.sources.repository import held_rows
from zoo_datasets.builders.sources.stored import RowFile, StoredRows, StoredSource
from zoo_datasets.builders.state_dicts.columns import as_type, of_values
from zoo_datasets.documents import StrPath, brief, parse_json
from zoo_datasets.errors import LayoutError, RepositoryError, SourceError, SpecError
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.row import (
    COLUMNS,
    LAYOUT,
    OPEN_COLUMNS,
    RAW,
    RAW_END,
    WEIGHTS,
    further_column,
    further_problem,
    id_problem,
)
from zoo_datasets.specs.spec import MAX_EPOCH, NAME, digest_of
from zoo_datasets.storage.files import replacing
from zoo_datasets.storage.folders import check_repository_folder
from zoo_datasets.text import json_text

Weights: TypeAlias = "Mapping[str, Tensor] | nn.Module | Tensor"
Item: TypeAlias = "tuple[Weights, Mapping[str, Any]] | Weights"

STAGED = ".staged"
_CHUNK_BYTES = 64_000_000
_CHUNK_ROWS = 20_000
# Of the tensors of a row that float32 cannot hold.
RAW_BYTES = 1_000_000
_STANDARD = {column.name: column for column in (*COLUMNS, *OPEN_COLUMNS)}
_GIVEN = frozenset({WEIGHTS, RAW, LAYOUT, "zoo", "ggap"})  # columns that nobody gives
_DOC = "given with the rows"
_STAGED_SCHEMA = pa.schema(
    [
        pa.field("columns", pa.string(), nullable=False),  # as JSON
        pa.field(LAYOUT, pa.string(), nullable=False),
        pa.field(WEIGHTS, pa.large_list(pa.field("element", pa.float32(), nullable=False)), nullable=False),
        pa.field(RAW, pa.large_binary(), nullable=False),
    ]
)


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
        RepositoryError: if the config holds another zoo, or its name cannot be used.
        StorageError: if a file cannot be written.
    """
    repo = Path(repo)
    check_repository_folder(repo)
    if not NAME.fullmatch(name):
        raise RepositoryError(f"config name {name[:200]!r}: expected letters, digits, '_', '-' and '.', at most 128")
    given = _given_record(layout, layers)
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
            for row in _rows_of(item, given):
                staging.add(row, known)
        staging.finish()
        source = _source(name, existing, held, staging, docs or {})
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


class _Row:
    """One row: its record, weights [D] float32, raw bytes and columns."""

    __slots__ = ("columns", "raw", "record", "weights")

    def __init__(self, record: NetworkRecord, weights: Tensor, raw: bytes, columns: dict[str, Any]) -> None:
        self.record = record
        self.weights = weights
        self.raw = raw
        self.columns = columns

    @property
    def key(self) -> tuple[str, int, int | None]:
        return self.columns["model_id"], self.columns["epoch"], self.columns["step"]


def _rows_of(item: Item, given: NetworkRecord | None) -> Iterable[_Row]:
    """The rows of an item.

    Raises:
        SourceError, LayoutError: naming what is wrong.
    """
    weights, columns = item if isinstance(item, tuple) and len(item) == 2 else (item, {})
    if not isinstance(columns, Mapping) or not all(isinstance(key, str) for key in columns):
        raise SourceError(f"found {brief(columns)} beside weights, expected a dictionary of columns")
    if isinstance(weights, np.ndarray):
        weights = torch.from_numpy(weights)
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    if isinstance(weights, Mapping):
        yield _row_of_state(weights, columns, given)
        return
    if not isinstance(weights, Tensor):
        raise SourceError(f"found {brief(weights)}, expected a state dict, a module, or a tensor [D] or [n, D]")
    if given is None:
        raise SourceError("flat weights need their layout: pass layout= or layers=")
    if given.layout.raw_bytes:
        raise SourceError("this layout has tensors that flat weights cannot hold; give state dicts")
    matrix = weights.detach().cpu()
    if matrix.ndim == 1:
        matrix = matrix[None]
    elif matrix.ndim == 2:
        columns = None if columns is None else dict(columns)
    if matrix.ndim != 2 or matrix.shape[1] != given.layout.size or not matrix.dtype.is_floating_point:
        raise LayoutError(
            f"weights are {matrix.dtype} of shape {list(weights.shape)}, expected floating-point numbers of shape "
            f"[{given.layout.size}] or [n, {given.layout.size}]"
        )
    exact = matrix.to(torch.float32)
    if matrix.dtype == torch.float64 and not torch.equal(exact.double().nan_to_num(), matrix.nan_to_num()):
        raise LayoutError("weights are float64 that float32 cannot hold exactly; round them first: weights.float()")
    batched = weights.ndim == 2
    for index in range(len(exact)):
        own = {name: _at(name, value, index, len(exact)) if batched else value for name, value in columns.items()}
        yield _finished(given, exact[index], b"", own)


def _at(name: str, value: Any, index: int, count: int) -> Any:
    """The value of one row in a column of n."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        return value
    if getattr(value, "ndim", 1) == 0:
        return value
    if len(value) != count:
        raise SourceError(f"column {name!r} has {len(value):,} values for {count:,} rows of weights")
    return value[index]


def _row_of_state(state: Mapping[str, Tensor], columns: Mapping[str, Any], given: NetworkRecord | None) -> _Row:
    record = NetworkRecord(WeightLayout.of_state(state)) if given is None else given
    layout = record.layout
    if layout.raw_bytes > RAW_BYTES:
        raise LayoutError(
            f"{layout.raw_bytes:,} bytes of tensors that float32 cannot hold, at most {RAW_BYTES:,} a row expected; "
            "convert them to float32 first"
        )
    weights = layout.flatten({name: tensor.detach().cpu() for name, tensor in state.items()})
    return _finished(record, weights, layout.pack_raw(state), dict(columns))


def _finished(record: NetworkRecord, weights: Tensor, raw: bytes, columns: Mapping[str, Any]) -> _Row:
    """A row with its key, its values checked and plain."""
    plain = {}
    for name, value in columns.items():
        if name in _GIVEN or (name not in _STANDARD and (problem := further_problem(name))):
            raise SourceError(
                f"column {name!r} is not given with rows: it follows from them" if name in _GIVEN else problem
            )
        plain[name] = _plain(name, value)
    if plain.get("model_id") is None:
        digest = hashlib.sha256(f"{record.hash} {weights.shape}".encode())
        digest.update(weights.contiguous().numpy().tobytes())
        digest.update(raw)
        plain["model_id"] = digest.hexdigest()[:32]
    problem = id_problem(plain["model_id"]) or id_problem(plain.get("parent_id"))
    if problem is not None:
        raise SourceError(problem)
    epoch, step = plain.setdefault("epoch", 0), plain.setdefault("step", None)
    if type(epoch) is not int or not 0 <= epoch <= MAX_EPOCH:
        raise SourceError(f"epoch {brief(epoch)}: expected a whole number from 0 to {MAX_EPOCH:,}")
    if step is not None and (type(step) is not int or not 0 <= step < 1 << 63):
        raise SourceError(f"step {brief(step)}: expected a whole number from 0 on, or None")
    return _Row(record, weights, raw, plain)


def _plain(name: str, value: Any) -> Any:
    """A value as a bool, int, float, text or None.

    Raises:
        SourceError: if it is nothing of these.
    """
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and getattr(value, "size", None) is not None:
        count = value.numel() if isinstance(value, Tensor) else value.size
        if count == 1:
            value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise SourceError(f"column {name!r} holds {brief(value)}; expected a number, a truth value, a text or None")


class Staging:
    """Rows on their way into a config, in a hidden folder of it: Arrow files that a call after an interruption finds.

    Args:
        fresh: drop what is there.
    """

    def __init__(self, folder: Path, fresh: bool) -> None:
        self._folder = folder
        if fresh:
            self.remove()
        self.files: list[StagedRows] = []
        self.records: dict[str, NetworkRecord] = {}
        self._digests: dict[tuple[str, int, int | None], str] = {}
        for path in sorted(folder.glob("rows-*.arrow")):
            self._take(path)
        self._first_own = len(self.files)
        self._seen: set[tuple[str, int, int | None]] = set()
        self._pending: list[_Row] = []
        self._bytes = 0

    def _take(self, path: Path) -> None:
        """Rows of a finished file."""
        staged = StagedRows(path)
        self.files.append(staged)
        self.records |= staged.records
        for row, digest in zip(staged.columns, staged.digests, strict=True):
            self._digests[row["model_id"], row["epoch"], row["step"]] = digest

    def add(self, row: _Row, held: set[tuple[str, int, int | None]]) -> None:
        """Take a row, unless it is there already.

        Raises:
            SourceError: if this call gave its key before.
        """
        key = row.key
        if key in self._seen:
            model_id, epoch, step = key
            of_step = "" if step is None else f", step {step}"
            raise SourceError(
                f"two rows of model {model_id!a} at epoch {epoch}{of_step}; expected each model, epoch and step once"
            )
        self._seen.add(key)
        if key in held or self._digests.get(key) == _digest(row):
            return
        self._digests[key] = _digest(row)
        self._pending.append(row)
        self._bytes += 4 * row.weights.numel() + len(row.raw)
        if self._bytes >= _CHUNK_BYTES or len(self._pending) >= _CHUNK_ROWS:
            self.finish()

    def finish(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        rows, self._pending, self._bytes = self._pending, [], 0
        records = {row.record.hash: row.record for row in rows}
        offsets = np.cumsum([0, *(row.weights.numel() for row in rows)])
        weights = pa.array(torch.cat([row.weights for row in rows]).numpy())
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([json_text(row.columns) for row in rows], pa.string()),
                pa.array([row.record.hash for row in rows], pa.string()),
                pa.LargeListArray.from_arrays(pa.array(offsets), weights, type=_STAGED_SCHEMA.field(WEIGHTS).type),
                pa.array([row.raw + RAW_END for row in rows], pa.large_binary()),
            ],
            schema=_STAGED_SCHEMA,
        )
        notes = {
            "layouts": {name: record.to_dict() for name, record in records.items()},
            "digests": [_digest(row) for row in rows],
        }
        schema = _STAGED_SCHEMA.with_metadata({"zoo_datasets": json.dumps(notes)})
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"rows-{len(self.files):06d}.arrow"
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as out,
        ):
            out.write_batch(batch.replace_schema_metadata(schema.metadata))
        self.files.append(StagedRows(path))
        self.records |= records

    def rows(self) -> tuple[list[tuple[int, int]], list[dict[str, Any]], list[str]]:
        """The file and the place in it of each row, its columns, and its layout; of a key that was given anew after an
        interruption the last."""
        last: dict[tuple[str, int, int | None], tuple[tuple[int, int], dict[str, Any], str]] = {}
        for number, staged in enumerate(self.files):
            for place, (row, layout) in enumerate(zip(staged.columns, staged.layouts, strict=True)):
                last[row["model_id"], row["epoch"], row["step"]] = ((number, place), row, layout)
        return tuple(map(list, zip(*last.values(), strict=True))) if last else ([], [], [])  # type: ignore[return-value]

    def discard_own(self) -> None:
        """Drop what this call has written."""
        self._pending = []
        for staged in self.files[self._first_own :]:
            staged.path.unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self.remove()

    def remove(self) -> None:
        """Drop everything."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _digest(row: _Row) -> str:
    digest = hashlib.sha256(json_text(row.columns).encode())
    digest.update(row.record.hash.encode())
    digest.update(row.weights.contiguous().numpy().tobytes())
    digest.update(row.raw)
    return digest.hexdigest()[:32]


class StagedRows(RowFile):
    """A file of staged rows, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            notes = parse_json(reader.schema.metadata[b"zoo_datasets"])
            table = reader.read_all()
        self._table = table.select([WEIGHTS, RAW])
        self.columns: list[dict[str, Any]] = [json.loads(text) for text in table["columns"].to_pylist()]
        self.layouts: list[str] = table[LAYOUT].to_pylist()
        self.digests: list[str] = notes["digests"]
        self.records = remember(NetworkRecord.from_dict(value) for value in notes["layouts"].values())

    @property
    def path(self) -> Path:
        return self._path

    @property
    def sizes(self) -> Sequence[int]:
        return [self._table.num_rows]

    def read(self, piece: int) -> pa.Table:
        return self._table


def _keys_of(table: pa.Table) -> set[tuple[str, int, int | None]]:
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
        if name in _STANDARD:
            arrays[name] = as_type(values, _STANDARD[name].type, name)
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
