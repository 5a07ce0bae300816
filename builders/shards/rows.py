"""The rows of a shard: states of models with their metrics and hyperparameters as Arrow batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from zoo_datasets.builders.sources.base import NOT_FINITE, Source, States
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import LAYOUT, RAW, RAW_END, WEIGHTS, arrow_schema
from zoo_datasets.runs.rows import NarrowRows


def together(items: Iterable[States | LeftOut], most: int) -> Iterator[States | LeftOut]:
    """The same items with small pieces joined into ones of at most `most` rows: a few large pieces are written
    faster than many small ones."""
    held: list[States] = []
    rows = 0
    for item in items:
        if isinstance(item, LeftOut):
            yield item
            continue
        if held and (rows + len(item.models) > most or not _alike(held[0], item)):
            yield _joined(held)
            held, rows = [], 0
        held.append(item)
        rows += len(item.models)
    if held:
        yield _joined(held)


def _alike(one: States, other: States) -> bool:
    """Whether both have values for the same columns."""
    return (
        one.layout == other.layout
        and one.figures.keys() == other.figures.keys()
        and one.extras.keys() == other.extras.keys()
    )


def _joined(pieces: Sequence[States]) -> States:
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    return States(
        epochs=[epoch for piece in pieces for epoch in piece.epochs],
        models=[model for piece in pieces for model in piece.models],
        weights=torch.cat([piece.weights for piece in pieces]),
        figures={name: pa.concat_arrays([piece.figures[name] for piece in pieces]) for name in first.figures},
        extras={name: torch.cat([piece.extras[name] for piece in pieces]) for name in first.extras},
        tallies=sum((Counter(piece.tallies) for piece in pieces), Counter()),
        layout=first.layout,
        raw=None if first.raw is None else [raw for piece in pieces for raw in piece.raw or ()],
    )


def without_nonfinite(states: States) -> tuple[States, list[LeftOut]]:
    """The states whose weights are all finite, and the others."""
    # A finite sum has finite terms.
    if math.isfinite(states.weights.sum().item()):
        return states, []
    finite = torch.isfinite(states.weights).all(dim=1).tolist()
    left_out = [
        LeftOut(model=model.name, epochs=(epoch,), reason=NOT_FINITE)
        for model, epoch, good in zip(states.models, states.epochs, finite, strict=True)
        if not good
    ]
    return states.select([position for position, good in enumerate(finite) if good]), left_out


class RowMaker(NarrowRows):
    """Turns states into record batches of `schema`: the one place where rows are made. Threads may share it."""

    def __init__(self, source: Source, config: str) -> None:
        self._open = source.open_columns
        if source.open_columns is not None:
            super().__init__(source.open_columns.rows.schema(source.open_columns.records), config)
        else:
            assert source.network is not None
            schema = arrow_schema(source.network.layout, source.extras, source.unknown)
            super().__init__(schema, config, source.network.columns())

    def shard_schema(self, layouts: Collection[str]) -> pa.Schema:
        """The schema of a shard of some layouts; without them, of rows that all have the same."""
        if self._open is None:
            return self.schema
        records = self._open.records
        return self._open.rows.schema({name: records[name] for name in sorted(layouts)})

    def batch(self, states: States) -> pa.RecordBatch:
        """One row a state, in the order given; the weights are not copied where they are contiguous."""
        columns = self.columns(states.models, states.epochs, states.figures)
        for place, column in enumerate(self.schema):
            if columns[place] is None:
                columns[place] = _wide(states, column)
            elif self._open is not None and column.name == LAYOUT:
                columns[place] = pa.array([states.layout] * len(states.models), pa.string())
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _wide(states: States, column: pa.Field) -> pa.Array:
    """A column as wide as the weights, or the raw tensors."""
    if column.name == RAW:
        if states.raw is None:
            return pa.nulls(len(states.models), column.type)
        return pa.array([raw + RAW_END for raw in states.raw], column.type)
    matrix = states.weights if column.name == WEIGHTS else states.extras[column.name]
    flat = pa.array(matrix.contiguous().view(-1).numpy())
    if pa.types.is_fixed_size_list(column.type):
        return pa.FixedSizeListArray.from_arrays(flat, type=column.type)
    rows, width = matrix.shape
    return pa.LargeListArray.from_arrays(pa.array(np.arange(rows + 1) * width), flat, type=column.type)
