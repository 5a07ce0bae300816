"""Values of columns from texts and documents: each column's type is decided over all its values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zoo_datasets.documents import brief
from zoo_datasets.errors import SourceError
from zoo_datasets.text import json_text

_WHOLE = r"^[-+]?(0|[1-9][0-9]*)$"
_NUMBER = (
    r"^[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?$|^[-+]?(inf|Inf|nan|NaN|infinity|Infinity)$"
)
_BOOL = r"^(true|True|TRUE|false|False|FALSE)$"
# Of columns of numbers and truth values; in a column of words they are words.
_MISSING = pa.array(["", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>"])
_WORD = re.compile(r"[^a-z0-9]+")
_INT64 = (-(1 << 63), (1 << 63) - 1)


def column_name(name: str) -> str:
    """A name as columns have it: small letters, digits and single '_', beginning with a letter; empty where nothing
    of it is left."""
    plain = _WORD.sub("_", name.lower()).strip("_")
    return f"c_{plain}" if plain[:1].isdigit() else plain


def of_texts(texts: pa.Array) -> pa.Array:
    """bool, int64, float64 or string: what all texts can be read as; numbers with leading zeros are words."""
    texts = texts.cast(pa.string())
    values = pc.if_else(pc.is_in(texts, value_set=_MISSING), pa.scalar(None, pa.string()), texts)
    if values.null_count == len(values):
        return texts
    if _all(values, _BOOL):
        return pc.equal(pc.utf8_lower(values), "true")
    plain = pc.replace_substring_regex(values, r"^\+", "")
    if _all(values, _WHOLE):
        try:
            return plain.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond 64 bits
            return texts
    return plain.cast(pa.float64()) if _all(values, _NUMBER) else texts


def _all(values: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern), skip_nulls=True).as_py())


def of_values(values: Sequence[Any]) -> pa.Array:
    """bool, int64, float64 or string of values of documents; mixed ones are text, lists and mappings their JSON."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(_INT64[0] <= value <= _INT64[1] for value in present):
        return pa.array(values, pa.int64())
    if float in kinds and kinds <= {int, float}:
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def of_arrow(column: pa.ChunkedArray, name: str) -> pa.Array:
    """bool, int64, float64 or string of a column of a Parquet file.

    Raises:
        SourceError: if it is of a type that no column can have.
    """
    kind = column.type
    types = pa.types
    try:
        if types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if types.is_null(kind):
            return pa.nulls(len(column), pa.string())
        for test, target in (
            (types.is_boolean, pa.bool_()), (types.is_integer, pa.int64()), (types.is_floating, pa.float64()),
            (types.is_decimal, pa.float64()),
        ):  # fmt: skip
            if test(kind):
                return _one(column.cast(target))
        if types.is_string(kind) or types.is_large_string(kind) or types.is_temporal(kind):
            return _one(column.cast(pa.string()))
        if types.is_nested(kind):
            return of_values(column.to_pylist())
    except (pa.ArrowException, ValueError) as error:
        raise SourceError(f"column {name[:80]!r} of {kind} could not be read: {str(error)[:200]}") from error
    raise SourceError(f"column {name[:80]!r} is of type {kind}; expected numbers, truth values or texts")


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def as_type(values: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    """Values in the type that a standard column has.

    Raises:
        SourceError: if one cannot be; quotes it.
    """
    if values.type == kind:
        return values
    types = pa.types
    if types.is_string(kind):
        return pa.array([None if value is None else _text(value) for value in values.to_pylist()], kind)
    if types.is_string(values.type):
        read = of_texts(pc.replace_substring_regex(values, r"^([-+]?)0+([0-9])", r"\1\2"))  # as names of files have it
        values = pa.nulls(len(values), kind) if read.null_count == len(read) else read
    if types.is_integer(kind) and types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(~np.isnan(numbers) & (numbers != np.round(numbers)))
        if len(wrong):
            raise _wrong(name, numbers[wrong[0]].item(), "whole numbers")
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    if types.is_string(values.type) or types.is_boolean(values.type):
        raise _wrong(name, next(v for v in values.to_pylist() if v is not None), "numbers")
    try:
        return values.cast(kind, safe=types.is_integer(kind))
    except pa.ArrowInvalid as error:
        raise SourceError(f"column {name!r}: {str(error)[:200]}; expected numbers of {kind}") from error


def _wrong(name: str, value: Any, expected: str) -> SourceError:
    return SourceError(f"column {name!r} holds {brief(value)}, expected {expected}")


def merged(sources: Sequence[Mapping[str, pa.Array]]) -> dict[str, pa.Array]:
    """The columns of all sources; of one that several have, the first counts, and the others where it is null and they
    have its type."""
    columns: dict[str, pa.Array] = {}
    for source in sources:
        for name, values in source.items():
            earlier = columns.get(name)
            if earlier is None:
                columns[name] = values
            elif earlier.null_count and earlier.type == values.type:
                columns[name] = pc.coalesce(earlier, values)
    return columns
