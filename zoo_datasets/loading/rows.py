"""Rows in the formats that `datasets` gives them: Python's values, numpy, torch, jax, pandas, polars, Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError


def row_of(row: Any, columns: Sequence[str]) -> dict[str, Any]:
    """Those of some columns that a row has: numbers, texts and None as Python's, weights as an array or what they are.

    Args:
        row: a mapping, a table or dataframe of one row, or a pandas Series.

    Raises:
        SpecError: if this is no row, or several.
    """
    values = columns_of(row, columns)
    if is_table(row):
        rows = len(next(iter(values.values()), [None]))
        if rows != 1:
            raise _several(rows)
        return {name: plain(column[0]) for name, column in values.items()}
    architecture = values.get("architecture")
    if isinstance(architecture, (list, tuple, np.ndarray)) and np.ndim(architecture):
        raise _several(len(architecture))
    return {name: plain(value) for name, value in values.items()}


def columns_of(batch: Any, columns: Sequence[str]) -> dict[str, Any]:
    """Those of some columns that a row or batch has; a table's as lists, its weights as an array [B, D] or a list.

    Raises:
        SpecError: if it is neither a mapping nor a table.
    """
    if is_table(batch):
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else pa.table(batch)
        return {name: _listed(table.column(name)) for name in columns if name in table.column_names}
    if not isinstance(batch, Mapping) and getattr(batch, "ndim", None) == 1 and hasattr(batch, "to_dict"):
        batch = batch.to_dict()  # a pandas Series
    if not isinstance(batch, Mapping):
        raise SpecError(f"expected one row, a mapping from columns to values or a table of one, got {brief(batch)}")
    return {name: batch[name] for name in columns if name in batch}


def names_of(row: Any) -> list[str]:
    """The names of the columns of a row or a batch; none of what is neither."""
    if isinstance(row, Mapping):
        return [str(name) for name in row]
    for attribute in ("column_names", "columns", "index"):  # of Arrow, of dataframes, of a pandas Series
        names = getattr(row, attribute, None)
        if names is not None and not callable(names):
            return [str(name) for name in names]
    return []


def is_table(value: Any) -> bool:
    """Whether this is an Arrow table or a dataframe."""
    # A pandas Series is no table, but has the protocol of one.
    return isinstance(value, pa.RecordBatch) or (hasattr(value, "__arrow_c_stream__") and hasattr(value, "columns"))


def plain(value: Any) -> Any:
    """A single number of numpy, torch or jax as Python's, null if it is NaN, as these formats write null."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "item") or np.ndim(value):
        return str(value) if isinstance(value, str) else value
    number = value.item()
    return None if number != number else number


def _listed(column: pa.ChunkedArray) -> Any:
    """A column as a list; of lists of numbers as arrays."""
    nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or (
        pa.types.is_fixed_size_list(column.type)
    )  # fmt: skip
    if not nested:
        return column.to_pylist()
    return [scalar.values.to_numpy(zero_copy_only=False) if scalar.is_valid else None for scalar in column]


def _several(rows: int) -> SpecError:
    return SpecError(f"expected one row, got a batch of {rows}; take zoo[i], not zoo[i:j]")
