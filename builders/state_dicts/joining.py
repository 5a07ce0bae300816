"""Which row of a table a state is: by the column `file`, or by what the names of files say."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.builders.state_dicts.names import common_folder, without_ending
from zoo_datasets.builders.state_dicts.table import Table
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.row import further_problem

FILE, ROW = "file", "row"
NO_ROW = -1
_SHOWN = 3
# What only the product fills.
_OURS = ("zoo", "layout", "raw", "weights", "tensor", "tensors")


def check_columns(table: Table) -> None:
    """Refuse names that no column of a table may have.

    Raises:
        SourceError: naming the column.
    """
    for name in table.columns:
        problem = further_problem(name)
        written = table.renamed.get(name, name)
        if name in _OURS or "__" in written or (problem is not None and "reserved" not in problem):
            raise SourceError(f"--table {table.path}: column {written!r} cannot be taken: {_why(name, problem)}")


def _why(name: str, problem: str | None) -> str:
    return str(problem) if problem and name not in _OURS else "the name is reserved; rename the column"


def rows_of_files(table: Table, names: Sequence[str], leave_out: bool) -> tuple[NDArray[np.int64], list[int]]:
    """By the column `file`: the number of each state's row, `NO_ROW` where it has none, and the rows whose files are
    not there.

    Files are named by their path in the folder, from its top or from the folder that holds all, with or without
    ending; or by their name alone, where only one file has it.

    Raises:
        SourceError: if rows name no file, or one file twice; unless they are to be left out, also if they name files
            that are not there.
    """
    file_names = table.columns[FILE].cast(pa.string()).to_pylist()
    nameless = [number for number, name in enumerate(file_names) if not name]
    if nameless:
        raise SourceError(
            f"--table {table.path}: {len(nameless):,} rows name no file, as row {nameless[0] + 1:,}; fill the column "
            f"{FILE!r} or remove them"
        )
    numbers = _numbers_of(file_names, names)
    missing = [name for name, number in zip(file_names, numbers, strict=True) if number is None]
    if missing and not leave_out:
        raise SourceError(
            f"--table {table.path}: {len(missing):,} of its {len(file_names):,} rows name files that are not there: "
            f"{_some(missing)}; there are {len(names):,}, as {names[0][:200]!r}. Mend the table, or leave these rows "
            "out with --on-missing leave-out"
        )
    return (
        _numbers(table, len(names), numbers, names, "name the file"),
        [row for row, number in enumerate(numbers) if number is None],
    )


def _numbers_of(file_names: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """The numbers of the files of these names; None where there is none."""
    whole = {name: number for number, name in enumerate(names)}
    if all(map(whole.__contains__, file_names)):
        return [whole[name] for name in file_names]
    places = _places(names)
    return [places.get(_plain(name)) for name in file_names]


def _places(names: Sequence[str]) -> dict[str, int]:
    """The state that each way of naming a file means; what several are called means none."""
    folder = common_folder(names)
    ways = (
        lambda name: name,
        lambda name: name[len(folder) :],
        without_ending,
        lambda name: without_ending(name[len(folder) :]),
        lambda name: name.rpartition("/")[2],
        lambda name: without_ending(name.rpartition("/")[2]),
    )
    places: dict[str, int] = {}
    for way in ways:
        here: dict[str, int | None] = {}
        for number, name in enumerate(names):
            called = way(name)
            here[called] = None if called in here else number
        places = {called: number for called, number in here.items() if number is not None} | places
    return places


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def rows_of_fields(
    table: Table, fields: Iterable[str], values: Sequence[Mapping[str, str]], names: Sequence[str]
) -> tuple[NDArray[np.int64], list[int]]:
    """By the columns that names of files fill too: the number of each state's row, and the rows that are no state's.

    Raises:
        SourceError: if the table has none of the fields, or two rows have one key.
    """
    shared = [field for field in fields if field in table.columns]
    if not shared:
        raise SourceError(
            f"--table {table.path} has no column {FILE!r}, nor one of what the names of files say "
            f"({', '.join(fields)}); add a column {FILE!r}, or give a --pattern"
        )
    ways = {field: str if pa.types.is_string(table.columns[field].type) else _number for field in shared}
    keys = list(zip(*(map(ways[field], table.columns[field].to_pylist()) for field in shared), strict=True))
    first: dict[Hashable, int] = {}
    for number, key in enumerate(keys):
        if (other := first.setdefault(key, number)) != number:
            shown = ", ".join(f"{field} {value}" for field, value in zip(shared, key, strict=True))
            raise SourceError(
                f"--table {table.path}: rows {other + 1:,} and {number + 1:,} are both of {shown[:200]}; one row for "
                "each is expected"
            )
    rows = np.full(len(names), NO_ROW, np.int64)
    for number, value in enumerate(values):
        rows[number] = first.get(tuple(ways[field](value.get(field)) for field in shared), NO_ROW)
    return rows, sorted({*range(table.rows)} - set(rows.tolist()))


def _number(value: object) -> Hashable:
    """A value as it is compared with a column of numbers, however it is written in a name."""
    try:
        return float(str(value))
    except ValueError:
        return str(value)


def rows_in_order(table: Table, counts: Mapping[str, int], places: Sequence[tuple[str, int]]) -> NDArray[np.int64]:
    """By the column `row` and, of several arrays, `file`: the number of the row of each row of the arrays.

    Args:
        counts: rows of each array by its name.
        places: the array and the number in it of each state.

    Raises:
        SourceError: if the table does not tell which row is which, or tells it twice.
    """
    if ROW not in table.columns:
        if len(counts) != 1 or table.rows != len(places):
            raise SourceError(
                f"--table {table.path} has {table.rows:,} rows for {len(places):,} rows of {len(counts):,} arrays; add "
                f"a column {ROW!r} with their numbers from 0 on, and {FILE!r} where there are several arrays"
            )
        return np.arange(table.rows)
    numbers = table.columns[ROW].to_pylist()
    names = list(counts)
    if FILE in table.columns:
        arrays = _numbers_of([str(name) for name in table.columns[FILE].to_pylist()], names)
    else:
        arrays = [0 if len(counts) == 1 else None] * table.rows
    states = {place: number for number, place in enumerate(places)}
    state_numbers = []
    for line, (array, number) in enumerate(zip(arrays, numbers, strict=True)):
        state = states.get((names[array], number)) if array is not None and isinstance(number, int) else None
        if state is None:
            raise SourceError(
                f"--table {table.path}: row {line + 1:,} is of no row of an array; see its {ROW!r} and {FILE!r}"
            )
        state_numbers.append(state)
    return _numbers(table, len(places), state_numbers, [f"{name}[{row}]" for name, row in places], "are row")


def _numbers(
    table: Table, count: int, states: Sequence[int | None], names: Sequence[str], verb: str
) -> NDArray[np.int64]:
    rows = [NO_ROW] * count
    for number, state in enumerate(states):
        if state is None:
            continue
        if rows[state] != NO_ROW:
            raise SourceError(
                f"--table {table.path}: rows {rows[state] + 1:,} and {number + 1:,} both {verb} "
                f"{names[state][:200]!r}; one row for each is expected"
            )
        rows[state] = number
    return np.array(rows, np.int64)


def _some(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(f"{str(name)[:80]!r}" for name in names[:_SHOWN]) + more
