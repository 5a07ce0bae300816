"""Conditions on rows, written as a user thinks them: `activation == "relu" and lr < 0.01`.

A condition is parsed, never evaluated as code: names of columns, numbers, strings, comparisons, `in`, `and`,
`or`, `not`. It becomes a filter of pyarrow, the same one for rows that will be built, files that are read and tables in
memory, which means:

- A number is rounded to the column's type where that is a float: `test_acc == 0.096` finds what a row shows as 0.096,
  whose float32 is not the float64 of that name. Columns of whole numbers are compared with fractions exactly:
  `epoch < 2.5` is up to 2, and `epoch == 2.5` never.
- A row is kept where the condition is true. A comparison with null is neither true nor false, nor is its negation: no
  comparison but `is None` keeps a null, `!=` and `not in` neither.
- NaN equals nothing and is neither less nor greater than any number: of comparisons only `!=`, `not in` and negated
  ones keep it.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.repository.row import COLUMNS

Value = str | int | float
Operation = Callable[[Any, Any], Any]

_LENGTH, _SHOWN = 4096, 80
_COMPARISONS: Mapping[type[ast.cmpop], Operation] = {
    ast.Eq: operator.eq,
    ast.Is: operator.eq,
    ast.NotEq: operator.ne,
    ast.IsNot: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MIRRORED = {operator.lt: operator.gt, operator.gt: operator.lt, operator.le: operator.ge, operator.ge: operator.le}
_OPPOSITE = {operator.lt: operator.ge, operator.ge: operator.lt, operator.le: operator.gt, operator.gt: operator.le,
             operator.eq: operator.ne, operator.ne: operator.eq}  # fmt: skip
_TYPES = {column.name: column.type for column in COLUMNS if column.type is not None}
_ROW = "number of the row"
_ID = "model_id"
# False of every row. Arrow cannot know it of a row group from the least and greatest values in its statistics, which
# leave NaN out: it would skip groups whose NaN a condition keeps.
_NEVER = pc.utf8_length(pc.field(_ID)) < 0


@dataclass(frozen=True, slots=True)
class _Test:
    """What is asked of one column."""

    column: str
    expression: pc.Expression


@dataclass(frozen=True, slots=True)
class _Joined:
    """Tests of which all must be true (`operator.and_`), or any (`operator.or_`)."""

    operation: Operation
    parts: Sequence[_Node]


_Node = _Test | _Joined


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    Attributes:
        text: as it was written.
        columns: the columns that its filter reads.
    """

    text: str
    columns: frozenset[str]
    _root: _Node = field(repr=False, compare=False)  # no `not` stands in it

    def __str__(self) -> str:
        """The text on one line, shortened, for a message."""
        line = " ".join(self.text.split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"

    def expression(self) -> pc.Expression:
        """The filter of pyarrow, for `filters=` of `datasets` and `Table.filter`; columns have the schema's types."""
        return _expression(self._root, self.columns)

    def kept(self, table: pa.Table) -> NDArray[np.int64]:
        """Numbers of the rows that are kept, ascending; the table has the condition's columns."""
        return _kept(table, self.expression())

    def possible(self, table: pa.Table) -> NDArray[np.int64]:
        """Numbers of the rows that can be kept, whatever the columns hold that the table lacks."""
        return _kept(table, _expression(self._root, table.column_names))


def _expression(node: _Node, columns: Collection[str]) -> pc.Expression:
    """A node as a filter; tests of other columns count as true."""
    if isinstance(node, _Test):
        return node.expression if node.column in columns else pc.scalar(True)
    parts = [_expression(part, columns) for part in node.parts]
    while len(parts) > 1:  # in pairs, as Arrow goes down into an expression by recursion
        pairs = [parts[place : place + 2] for place in range(0, len(parts), 2)]
        parts = [node.operation(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def _kept(table: pa.Table, expression: pc.Expression) -> NDArray[np.int64]:
    numbered = table.append_column(_ROW, pa.array(np.arange(len(table))))
    numbers: NDArray[np.int64] = numbered.filter(expression)[_ROW].to_numpy()
    return numbers


def parse_where(text: str, further: Mapping[str, pa.DataType] | None = None) -> Condition:
    """The condition that a text describes.

    Args:
        further: types of the columns that rows have besides those of all zoos; a column of truth values may stand
            alone: `converged and rank > 3`.

    Raises:
        SpecError: if it is no condition; says which part.
        UnknownNameError: if it names a column that rows do not have.
    """
    if len(text) > _LENGTH:
        raise SpecError(f"condition of {len(text):,} characters: at most {_LENGTH:,} expected")
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in strings
            body = ast.parse(text.strip(), mode="eval").body
        return _Parser(text, _TYPES | dict(further or {})).condition(body)
    except SpecError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpecError(f"condition {text[:_SHOWN]!r} is not understood: {_reason(error)}; {_EXAMPLE}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it holds a surrogate, half of a character"
    if isinstance(error, (RecursionError, MemoryError)):
        return "it is nested too deeply"
    return error.msg if isinstance(error, SyntaxError) else str(error)


def conditions_in(column: str, texts: Iterable[str]) -> list[str]:
    """Conditions of which each row with one of these texts fulfils one; none is longer than may be."""
    room = _LENGTH - len(f"{column} in []")
    parts: list[list[str]] = []
    left = 0
    for text in map(repr, texts):
        if len(text) + 2 > left:
            parts.append([])
            left = room
        parts[-1].append(text)
        left -= len(text) + 2
    return [f"{column} in [{', '.join(part)}]" for part in parts]


_EXAMPLE = """write as activation == "relu" and lr < 0.01, or seed in (1, 2, 3)"""


class _Parser:
    def __init__(self, text: str, types: Mapping[str, pa.DataType]) -> None:
        self.text = text
        self.types = types
        self.columns: set[str] = set()

    def condition(self, body: ast.expr) -> Condition:
        root = self.node(body, True)
        return Condition(self.text, frozenset(self.columns), root)

    def node(self, tree: ast.expr, truth: bool) -> _Node:
        """What is true where a part of the condition is true, or where it is false."""
        match tree:
            case ast.BoolOp(op=operation, values=values):
                return _joined(isinstance(operation, ast.And) == truth, [self.node(value, truth) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.node(operand, not truth)
            case ast.Compare(left=left, ops=operations, comparators=rights):
                sides = [left, *rights]
                parts = [self._compare(sides[i], op, sides[i + 1], truth) for i, op in enumerate(operations)]
                return _joined(truth, parts)
            case ast.Name(id=name) if name in self.types and pa.types.is_boolean(self.types[name]):
                return self._flag(name, truth)
        raise self._refuse(tree, "expected a comparison")

    def _flag(self, name: str, wanted: bool) -> _Test:
        self.columns.add(name)
        return _Test(name, pc.field(name) == pa.scalar(wanted))

    def _compare(self, left: ast.expr, operation: ast.cmpop, right: ast.expr, truth: bool) -> _Node:
        if not isinstance(operation, (ast.In, ast.NotIn)):
            return self._test(left, _COMPARISONS[type(operation)], right, truth)
        values = right.elts if isinstance(right, (ast.List, ast.Tuple, ast.Set)) else None
        if not values:
            raise self._refuse(right, "expected a list of values after `in`")
        inside = isinstance(operation, ast.In) == truth
        return _joined(not inside, [self._test(left, operator.eq, value, inside) for value in values])

    def _test(self, left: ast.expr, operation: Operation, right: ast.expr, truth: bool) -> _Node:
        if not isinstance(left, ast.Name) and isinstance(right, ast.Name):
            left, right, operation = right, left, _MIRRORED.get(operation, operation)
        if not isinstance(left, ast.Name):
            raise self._refuse(left, "expected the name of a column")
        name = left.id
        if name not in self.types:
            raise UnknownNameError("column", name, self.types)
        self.columns.add(name)
        column = pc.field(name)
        if isinstance(right, ast.Constant) and right.value is None:
            if operation not in (operator.eq, operator.ne):
                raise self._refuse(right, "None can only be equal or not")
            null = (operation is operator.eq) == truth
            return _Test(name, column.is_null() if null else column.is_valid())
        kind = self.types[name]
        if pa.types.is_boolean(kind):
            if operation not in (operator.eq, operator.ne) or not _is_flag(right):
                raise self._refuse(right, f"True or False expected for column {name}")
            return self._flag(name, (right.value == (operation is operator.eq)) == truth)
        value = self._value(right)
        if isinstance(value, str) != pa.types.is_string(kind):
            wanted = "a string" if pa.types.is_string(kind) else "a number"
            raise self._refuse(right, f"{wanted} expected for column {name}")
        operation = operation if truth else _OPPOSITE[operation]
        if isinstance(value, str):
            return _Test(name, operation(column, pc.scalar(value)))
        if pa.types.is_integer(kind):
            operation, value = _whole(operation, value, kind)
            return _Test(name, operation(column, pa.scalar(value, kind)))
        expression = operation(column, pa.scalar(float(value), kind))
        if operation is operator.ne or not (truth or operation is operator.eq):
            self.columns.add(_ID)
            expression = expression | column.is_nan() | _NEVER
        return _Test(name, expression)

    def _value(self, tree: ast.expr) -> Value:
        match tree:
            case ast.Constant(value=str() as text):
                text.encode()  # or it is refused
                return text
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                pass
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as positive)) if not isinstance(
                positive, bool
            ):
                number = -positive
            case _:
                raise self._refuse(tree, "expected a number or a string")
        if not (-(2**63) <= number < 2**63 if isinstance(number, int) else math.isfinite(number)):
            raise self._refuse(tree, "expected a number of at most 64 bits")
        return number

    def _refuse(self, tree: ast.AST, why: str) -> SpecError:
        part = ast.get_source_segment(self.text.strip(), tree) or self.text
        return SpecError(f"condition {self.text[:_SHOWN]!r}: {why}, found {part[:_SHOWN]!r}; {_EXAMPLE}")


def _is_flag(tree: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(tree, ast.Constant) and isinstance(tree.value, bool)


def _joined(every: bool, parts: Sequence[_Node]) -> _Node:
    return parts[0] if len(parts) == 1 else _Joined(operator.and_ if every else operator.or_, parts)


def _whole(operation: Operation, value: int | float, kind: pa.DataType) -> tuple[Operation, int]:
    """The comparison of whole numbers of a type that is true where one with any number is."""
    most = 2 ** (kind.bit_width - 1) - 1
    least = -most - 1
    floor = math.floor(value)
    equality = operation in (operator.eq, operator.ne)
    if least <= floor <= most and (floor == value or not equality):
        between = {operator.lt: operator.le, operator.ge: operator.gt} if floor != value else {}
        return between.get(operation, operation), floor
    below = floor > most  # all of the type's numbers are
    always = operation is operator.ne if equality else (operation in (operator.lt, operator.le)) == below
    return operator.ge if always else operator.lt, least
