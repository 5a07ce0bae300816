"""One row of a zoo, whatever format `datasets` gives it in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from torch import Tensor

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError
from zoo_datasets.repository.row import HYPERPARAMETERS, RAW, WEIGHTS

_LISTS = (WEIGHTS, RAW)


def as_row(row: Any) -> Mapping[str, Any]:
    """A row as a mapping from columns to plain values; weights stay what they are.

    Args:
        row: a mapping (of Python's values, numpy's, torch's or JAX's), a table of pandas, pyarrow or polars with one
            row, or a pandas Series.

    Raises:
        SpecError: if it is none of these, or several rows.
    """
    if isinstance(row, Mapping):
        batch = row.get("architecture", row.get("model_id"))
        if isinstance(batch, (list, tuple)):
            raise SpecError(f"expected one row, found a batch of {len(batch)}; take zoo[i], not zoo[i:j]")
        return {name: value if name in _LISTS else _plain(value) for name, value in row.items()}
    package = type(row).__module__.partition(".")[0]
    if package == "pandas" and getattr(row, "ndim", 0) == 1:
        return {str(name): value if name in _LISTS else _of_pandas(value) for name, value in row.items()}
    names = getattr(row, "column_names", getattr(row, "columns", None))
    if package not in ("pandas", "polars", "pyarrow") or names is None:
        raise SpecError(f"expected one row, a mapping from columns to values, found {brief(row)}")
    if len(row) != 1:
        raise SpecError(f"expected one row, found a table of {len(row)}; take zoo[i], not zoo[i:j]")
    values = {str(name): _first(row, name, package) for name in names}
    plain = _of_pandas if package == "pandas" else _plain
    return {name: value if name in _LISTS else plain(value) for name, value in values.items()}


def _of_pandas(value: Any) -> Any:
    """A value of pandas, which writes what is unknown as NaN."""
    value = _plain(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _first(table: Any, name: str, package: str) -> Any:
    if package == "pandas":
        return table[name].iloc[0]
    value = table[name][0]
    if isinstance(value, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)):
        return None if value.values is None else value.values.to_numpy()
    if isinstance(value, pa.Scalar):
        return value.as_py()
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def _plain(value: Any) -> Any:
    """A single value of any library as Python's."""
    if isinstance(value, Tensor) or hasattr(value, "item"):
        shape = getattr(value, "shape", ())
        return value.item() if not shape else value
    return value


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """A column's value; None where it is unknown.

    Raises:
        SpecError: if the row lacks it.
    """
    value = row.get(column)
    if column not in row or (value is None and column not in HYPERPARAMETERS):
        raise SpecError(f"row lacks column {column!r}; load it with columns=None or add {column!r} to columns")
    return value
