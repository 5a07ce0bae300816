"""Rows that lie in files already: those of a repository's config, and those that `write_rows` has staged."""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.sources.base import SMALL_PIECE_BYTES, OpenColumns, Source, StateBlock, States
from zoo_datasets.errors import SourceError
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import HYPERPARAMETERS, KEY, LAYOUT, RAW, RAW_END, WEIGHTS, Column, is_wide
from zoo_datasets.runs.rows import Model

# Decide where a model is, or are written otherwise than as figures of a state.
_OF_MODEL = ("model_id", "parent_id", "group")
_READ_AT_ONCE = 8  # pieces of files that are held while rows are read


class RowFile(ABC):
    """A file of rows, in pieces that are read at a time."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """Where it lies."""

    @property
    @abstractmethod
    def sizes(self) -> Sequence[int]:
        """Rows of each piece."""

    @abstractmethod
    def read(self, piece: int) -> pa.Table:
        """The weights of a piece, its columns as wide as these, and its raw tensors if there are any."""


class ParquetRows(RowFile):
    """A shard; its pieces are row groups."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _reading(path), pq.ParquetFile(path) as file:
            self._sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
            self._columns = [column.name for column in file.schema_arrow if is_wide(column.type)]

    @property
    def path(self) -> Path:
        return self._path

    @property
    def sizes(self) -> Sequence[int]:
        return self._sizes

    def read(self, piece: int) -> pa.Table:
        with _reading(self._path), pq.ParquetFile(self._path) as file:
            return file.read_row_group(piece, columns=self._columns)


class _reading:  # noqa: N801 - reads as a statement
    """Errors of files as ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, pa.ArrowException)):
            reason = " ".join(str(error).split())[:200]
            raise SourceError(f"{self._path} could not be read: {reason}") from error


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Rows of some files: what is known of all of them before any weights are read.

    Attributes:
        files: in the order of the rows.
        columns: every narrow column but the zoo's name, and `layout`; one entry a row.
        rows: int64, the number of each row among those of all files.
        records: the networks of the rows, by hash.
        further: the further columns among them.
        network: of all rows, if these are not open.
        extras: of rows that are not open, the columns of `EXTRAS` that they have.
    """

    files: Sequence[RowFile]
    columns: pa.Table
    rows: NDArray[np.int64]
    records: Mapping[str, NetworkRecord]
    further: tuple[Column, ...] = ()
    network: NetworkKind | None = None
    extras: tuple[str, ...] = ()


class StoredSource(Source):
    """Rows of files as a source: of an open config, or of networks of one kind.

    Args:
        stored: the rows; no key may stand in them twice.
        described: what the manifest records of them, as JSON values.
        left_out: what was left out before, when these rows were written.

    Raises:
        SourceError: if a key stands there twice.
    """

    kind = "rows"

    def __init__(
        self,
        name: str,
        stored: StoredRows,
        source_id: str,
        described: Mapping[str, Any],
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        self.name = name
        self._stored = stored
        self._source_id = source_id
        self._described = dict(described)
        keys = _keys(stored.columns)
        _check_unique(name, keys)
        self._layouts = stored.columns[LAYOUT].combine_chunks()
        used = set(pc.unique(self._layouts).to_pylist())
        records = {layout: stored.records[layout] for layout in sorted(used)}
        sizes = pc.value_counts(self._layouts).to_pylist()
        weights = sum(records[item["values"]].layout.size * item["counts"] for item in sizes)
        self._left_out = tuple(left_out)
        self.states = len(stored.rows) + sum(len(entry.epochs) for entry in left_out)
        self._records = records
        self.network, self.extras = stored.network, stored.extras
        if self.network is None:
            self.open_columns = OpenColumns(
                records=records, further=stored.further, weights=weights / max(len(stored.rows), 1)
            )
        self.models = len({*self._models, *(entry.model for entry in left_out)})

    @property
    def source_id(self) -> str:
        return self._source_id

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        return self._described

    def refused(self) -> Sequence[LeftOut]:
        return self._left_out

    @property
    def unknown(self) -> Sequence[str]:
        if self.open_columns is not None:
            return ()
        columns = self._stored.columns
        return tuple(name for name in HYPERPARAMETERS if name not in columns.column_names or columns[name].null_count)

    def fingerprint(self) -> str:
        return str([(str(row_file.path), row_file.path.stat().st_size) for row_file in self._stored.files])

    @functools.cached_property
    def _models(self) -> dict[str, Model]:
        """The models by id, in the order of their first rows."""
        names = [name for name in _OF_MODEL if name in self._stored.columns.column_names]
        table = self._stored.columns.select([*names, LAYOUT])
        layouts: dict[str, dict[str, None]] = {}
        columns: dict[str, dict[str, Any]] = {}
        distinct = table.group_by([*names, LAYOUT], use_threads=False).aggregate([])
        for row in distinct.to_pylist():
            model_id = row["model_id"]
            own = {name: row[name] for name in names[1:]}
            if columns.setdefault(model_id, own) != own:
                changed = next(name for name in own if own[name] != columns[model_id][name])
                raise SourceError(
                    f"{self.name}: model {model_id!a} has {changed} {columns[model_id][changed]!a} and "
                    f"{own[changed]!a}; expected the same in all of its rows, which lie in one split"
                )
            layouts.setdefault(model_id, {})[row[LAYOUT]] = None
        return {
            model_id: Model(model_id=model_id, columns=own, layouts=tuple(layouts[model_id]))
            for model_id, own in columns.items()
        }

    def blocks(self) -> Sequence[StateBlock]:
        epochs = tuple(sorted(pc.unique(self._stored.columns["epoch"]).to_pylist()))
        return [StateBlock(models=tuple(self._models.values()), epochs=epochs)]

    @functools.cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Rows by epoch, layout, model and step; and the epochs, and the numbers of the models, in this order."""
        table = self._stored.columns
        numbers = {model_id: number for number, model_id in enumerate(self._models)}
        models = pc.index_in(table["model_id"].combine_chunks(), pa.array(numbers)).to_numpy()
        layouts = pc.index_in(self._layouts, pa.array(list(self._records))).to_numpy()
        epochs = table["epoch"].to_numpy()
        steps = pc.fill_null(table["step"], -1).to_numpy() if "step" in table.column_names else np.zeros(len(epochs))
        order = np.lexsort((steps, models, layouts, epochs)).astype(np.int64)
        return order, epochs[order], models[order].astype(np.int64)

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        order, epochs, models = self._order
        numbers = {model_id: number for number, model_id in enumerate(self._models)}
        wanted = np.zeros(len(numbers), bool)
        wanted[[numbers[model.model_id] for model in block.models]] = True
        pieces = _Pieces(self._stored.files)
        for epoch in block.epochs:
            begin, end = np.searchsorted(epochs, (epoch, epoch + 1))
            rows = order[begin:end][wanted[models[begin:end]]]
            yield from self._read_rows(rows, pieces)

    def _read_rows(self, rows: NDArray[np.int64], pieces: _Pieces) -> Iterator[States]:
        """Rows of one epoch in their order: pieces of one layout each."""
        layouts = pc.index_in(self._layouts.take(pa.array(rows)), pa.array(list(self._records))).to_numpy()
        bounds = [0, *(np.flatnonzero(np.diff(layouts)) + 1).tolist(), len(rows)]
        for begin, end in itertools.pairwise(bounds):
            if begin == end:
                continue
            layout = list(self._records)[layouts[begin]]
            size = max(SMALL_PIECE_BYTES // max(4 * self._records[layout].layout.size, 1), 1)
            for start in range(begin, end, size):
                yield self._states(rows[start : min(start + size, end)], layout, pieces)

    def _states(self, rows: NDArray[np.int64], layout: str, pieces: _Pieces) -> States:
        record = self._records[layout]
        columns = self._stored.columns.take(pa.array(rows))
        wide = [name for name in self.extras if name not in columns.column_names]
        matrices, raw = pieces.take(self._stored.rows[rows], record.layout.size, [WEIGHTS, *wide])
        ids = columns["model_id"].to_pylist()
        figures = {
            name: columns[name].combine_chunks()
            for name in columns.column_names
            if name not in (*_OF_MODEL, "epoch", LAYOUT)
        }
        return States(
            epochs=columns["epoch"].to_pylist(),
            models=[self._models[model_id] for model_id in ids],
            weights=matrices[WEIGHTS],
            figures=figures,
            extras={name: matrices[name] for name in wide},
            layout=layout,
            raw=raw if record.layout.raw_bytes else None,
        )


class _Pieces:
    """Rows of weights out of files, of which the pieces that were read last are held."""

    def __init__(self, files: Sequence[RowFile]) -> None:
        self._places = [(number, piece) for number, file in enumerate(files) for piece in range(len(file.sizes))]
        self._starts = np.cumsum([0, *(size for file in files for size in file.sizes)])
        self._read = functools.lru_cache(_READ_AT_ONCE)(lambda number, piece: files[number].read(piece))

    def take(
        self, rows: NDArray[np.int64], size: int, wide: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], list[bytes]]:
        """Columns as wide as the weights, each [len(rows), size], float32, and the raw bytes of each row."""
        matrices = {name: np.empty((len(rows), size), np.float32) for name in wide}
        raw: list[bytes] = [b""] * len(rows)
        places = np.searchsorted(self._starts, rows, side="right") - 1
        for place in np.unique(places).tolist():
            here = np.flatnonzero(places == place)
            table = self._read(*self._places[place]).take(pa.array(rows[here] - self._starts[place]))
            for name, matrix in matrices.items():
                matrix[here] = np.asarray(table[name].combine_chunks().flatten()).reshape(len(here), size)
            if RAW in table.column_names:
                for position, value in zip(here.tolist(), table[RAW].to_pylist(), strict=True):
                    raw[position] = (value or RAW_END)[:-1]
        return {name: torch.from_numpy(matrix) for name, matrix in matrices.items()}, raw


def _keys(table: pa.Table) -> pa.Table:
    steps = pc.fill_null(table["step"], -1) if "step" in table.column_names else pa.array([-1] * len(table), pa.int64())
    return pa.table({"model_id": table["model_id"], "epoch": table["epoch"], "step": steps})


def _check_unique(name: str, keys: pa.Table) -> None:
    counted = keys.group_by(list(KEY), use_threads=False).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if twice.num_rows:
        row = twice.slice(0, 1).to_pylist()[0]
        step = "" if row["step"] < 0 else f", step {row['step']}"
        raise SourceError(
            f"{name}: {twice.num_rows:,} rows stand there more than once, as model {row['model_id']!a} at epoch "
            f"{row['epoch']}{step}; expected each model, epoch and step once"
        )
