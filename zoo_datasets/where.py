"""Conditions on rows, written as a user thinks them: `activation == "relu" and lr < 0.01`.

A condition is parsed, never evaluated as code: names of columns, numbers, strings, comparisons, `in`, `and`,
`or`, `not`. It works on a row in memory and as a filter of pyarrow, and means the same in both: as in SQL, a
comparison with null is null, and a row is kept where the condition is true.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.schema import COLUMNS, WEIGHTS

Value = str | int | float

_LENGTH = 4096
_DEPTH = 50  # conditions within each other
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MIRRORED = {operator.lt: operator.gt, operator.gt: operator.lt, operator.le: operator.ge, operator.ge: operator.le}
_TYPES = {column.name: column.type for column in COLUMNS if column.name != WEIGHTS}


@dataclass(frozen=True, slots=True)
class _Compare:
    column: str
    operation: Callable[[Any, Any], Any]
    value: Value

    def of(self, row: Mapping[str, Any]) -> bool | None:
        found = row.get(self.column)
        return None if found is None else bool(self.operation(found, self.value))

    def expression(self) -> pc.Expression:
        return self.operation(pc.field(self.column), pc.scalar(self.value))


@dataclass(frozen=True, slots=True)
class _IsNull:
    column: str

    def of(self, row: Mapping[str, Any]) -> bool | None:
        return row.get(self.column) is None

    def expression(self) -> pc.Expression:
        return pc.field(self.column).is_null()


@dataclass(frozen=True, slots=True)
class _Not:
    inner: _Node

    def of(self, row: Mapping[str, Any]) -> bool | None:
        value = self.inner.of(row)
        return None if value is None else not value

    def expression(self) -> pc.Expression:
        return ~self.inner.expression()


@dataclass(frozen=True, slots=True)
class _All:
    parts: tuple[_Node, ...]

    def of(self, row: Mapping[str, Any]) -> bool | None:
        values = [part.of(row) for part in self.parts]
        return False if False in values else None if None in values else True

    def expression(self) -> pc.Expression:
        return reduce(operator.and_, (part.expression() for part in self.parts))


@dataclass(frozen=True, slots=True)
class _Any:
    parts: tuple[_Node, ...]

    def of(self, row: Mapping[str, Any]) -> bool | None:
        values = [part.of(row) for part in self.parts]
        return True if True in values else None if None in values else False

    def expression(self) -> pc.Expression:
        return reduce(operator.or_, (part.expression() for part in self.parts))


_Node = _Compare | _IsNull | _Not | _All | _Any


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    Attributes:
        text: as it was written.
        columns: the columns that it reads.
    """

    text: str
    columns: frozenset[str]
    _root: _Node

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is kept; a column that it lacks is null."""
        return self._root.of(row) is True

    def allows(self, known: Mapping[str, Any]) -> bool:
        """Whether a row can be kept of which only these columns are known; false only where it cannot."""
        # To a question for null an unknown column would be one.
        return "none" in self.text.lower() or self._root.of(known) is not False

    def expression(self) -> pc.Expression:
        """The same as a filter of pyarrow, for `filters=` of `datasets` and `Table.filter`."""
        return self._root.expression()


def parse_where(text: str) -> Condition:
    """The condition that a text describes.

    Raises:
        SpecError: where it is no condition; says which part.
        UnknownNameError: where it names a column that rows do not have.
    """
    if len(text) > _LENGTH:
        raise SpecError(f"condition of {len(text):,} characters: at most {_LENGTH:,} expected")
    try:
        body = ast.parse(text.strip(), mode="eval").body
        return _Parser(text).condition(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, SpecError):
            raise
        reason = error.msg if isinstance(error, SyntaxError) else _REASONS.get(type(error), "it is no condition")
        raise SpecError(f"condition {text[:80]!r} is not understood: {reason}; {_EXAMPLE}") from error


_REASONS: Mapping[type[Exception], str] = {
    RecursionError: "it is nested too deeply",
    MemoryError: "it is nested too deeply",
    UnicodeEncodeError: "it holds half of a surrogate pair, which is no character",
}
_EXAMPLE = """write as activation == "relu" and lr < 0.01, or seed in (1, 2, 3)"""


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: set[str] = set()
        self._depth = 0

    def condition(self, body: ast.expr) -> Condition:
        root = self.node(body)
        return Condition(self.text, frozenset(self.columns), root)

    def node(self, tree: ast.expr) -> _Node:
        """The condition of a part."""
        self._depth += 1
        if self._depth > _DEPTH:
            raise self._refuse(tree, f"at most {_DEPTH} conditions within each other expected")
        try:
            return self._node(tree)
        finally:
            self._depth -= 1

    def _node(self, tree: ast.expr) -> _Node:
        match tree:
            case ast.BoolOp(op=ast.And(), values=values):
                return _All(tuple(self.node(value) for value in values))
            case ast.BoolOp(op=ast.Or(), values=values):
                return _Any(tuple(self.node(value) for value in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _Not(self.node(operand))
            case ast.Compare(left=left, ops=operations, comparators=rights):
                sides = [left, *rights]
                parts = [self._compare(sides[i], op, sides[i + 1]) for i, op in enumerate(operations)]
                return parts[0] if len(parts) == 1 else _All(tuple(parts))
        raise self._refuse(tree, "expected a comparison")

    def _compare(self, left: ast.expr, operation: ast.cmpop, right: ast.expr) -> _Node:
        match operation:
            case ast.In() | ast.NotIn():
                values = right.elts if isinstance(right, (ast.List, ast.Tuple, ast.Set)) else None
                if not values:
                    raise self._refuse(right, "expected a list of values after `in`")
                found: _Node = _Any(tuple(self._test(left, operator.eq, value) for value in values))
                return _Not(found) if isinstance(operation, ast.NotIn) else found
            case ast.Is():
                return self._test(left, operator.eq, right)
            case ast.IsNot():
                return self._test(left, operator.ne, right)
        return self._test(left, _COMPARISONS[type(operation)], right)

    def _test(self, left: ast.expr, operation: Callable[[Any, Any], Any], right: ast.expr) -> _Node:
        if not isinstance(left, ast.Name) and isinstance(right, ast.Name):
            left, right, operation = right, left, _MIRRORED.get(operation, operation)
        if not isinstance(left, ast.Name):
            raise self._refuse(left, "expected the name of a column")
        if left.id not in _TYPES:
            raise UnknownNameError("column", left.id, _TYPES)
        self.columns.add(left.id)
        if isinstance(right, ast.Constant) and right.value is None:
            if operation not in (operator.eq, operator.ne):
                raise self._refuse(right, "None can only be equal or not")
            return _IsNull(left.id) if operation is operator.eq else _Not(_IsNull(left.id))
        value = self._value(right)
        if isinstance(value, str) != pa.types.is_string(_TYPES[left.id]):
            wanted = "a string" if pa.types.is_string(_TYPES[left.id]) else "a number"
            raise self._refuse(right, f"{wanted} expected for column {left.id}")
        return _Compare(left.id, operation, value)

    def _value(self, tree: ast.expr) -> Value:
        match tree:
            case ast.Constant(value=str() as text):
                return text
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return self._within(number, tree)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return self._within(-number, tree)
        raise self._refuse(tree, "expected a number or a string")

    def _within(self, number: float, tree: ast.expr) -> float:
        fine = math.isfinite(number) if isinstance(number, float) else -(1 << 63) <= number < 1 << 63
        if not fine:
            raise self._refuse(tree, "a number within 64 bits expected")
        return number

    def _refuse(self, tree: ast.AST, why: str) -> SpecError:
        part = ast.get_source_segment(self.text.strip(), tree) or self.text
        return SpecError(f"condition {self.text[:80]!r}: {why}, found {part[:80]!r}; {_EXAMPLE}")
