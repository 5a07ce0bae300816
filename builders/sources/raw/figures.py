"""The figures of one model from third-party files: numbers in one unit, and null where a value is impossible."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from zoo_datasets.builders.shards.notes import Note, shown
from zoo_datasets.repository.row import FIGURES

SPARSITY_RATIO = "sparsity_ratio"
REPORTED = (*FIGURES, SPARSITY_RATIO)

_Key = TypeVar("_Key", bound=Hashable)
_ACCURACIES = tuple(place for place, name in enumerate(REPORTED) if name.endswith("acc"))
_LOSSES = tuple(place for place, name in enumerate(REPORTED) if name.endswith("loss"))
_SHARES = tuple(place for place in range(len(REPORTED)) if place not in _LOSSES)
_shares, _losses = itemgetter(*_SHARES), itemgetter(*_LOSSES)
_USUAL = frozenset((float, type(None)))
_ROUNDED = 1 + 1e-6  # a mean of float32 may end here
_LARGEST = 3.4028235677973366e38  # of float32
_SENTINEL = re.compile(r"-9{3,}(\.0+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SPECIAL = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_EXAMPLES = 3

Figures = tuple[float | None, ...]


def usual(values: tuple[Any, ...]) -> bool:
    """Whether values of `REPORTED` are None or plausible numbers, with accuracies as shares."""
    return (
        _USUAL.issuperset(map(type, values))
        and all(map(_is_share, _shares(values)))
        and all(map(_is_loss, _losses(values)))
    )


def number(value: Any) -> float | None:
    """A number, or a text that is one; None for anything else. A number beyond float64 is infinite."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return float(text) if _NUMBER.fullmatch(text) or _SPECIAL.fullmatch(text) else None
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def cleaned(
    reports: Mapping[_Key, tuple[Any, ...]], *, twins: bool = False, file: str = "result.json"
) -> tuple[dict[_Key, Figures], list[Note]]:
    """The figures of one model's reports, and notes about them.

    Accuracies are shares in all of its reports or percent in all: percent where several are above 1, a quarter of some
    column at least. Impossible values become None: a loss below 0 or beyond float32, a sentinel such as −999, an
    accuracy outside the unit, anything that is not a number.

    Args:
        reports: values of `REPORTED`, by anything.
        twins: whether losses may be below 0: those of variational dropout hold β·KL.
        file: the name of their file, for the notes.
    """
    odd: dict[str, None] = {}
    unread: dict[str, None] = {}
    rows = {
        key: [_read(place, value, twins, odd, unread) for place, value in enumerate(values)]
        for key, values in reports.items()
    }
    notes = _in_one_unit(list(rows.values()), odd, file)
    if odd:
        text = f"{file} holds impossible values ({_some(odd)}); they are null"
        notes.append(Note("import-impossible-figure", text))
    if unread:
        text = f"{file} holds figures that are not numbers ({_some(unread)}); they are null"
        notes.append(Note("import-unread-figure", text))
    return {key: tuple(row) for key, row in rows.items()}, notes


def _read(place: int, value: Any, twins: bool, odd: dict[str, None], unread: dict[str, None]) -> float | None:
    """One value as a number that is plausible in some unit, else None."""
    if value is None:
        return None
    name = REPORTED[place]
    figure = number(value)
    if figure is None:
        unread[f"{name} {shown(value)}"] = None
        return None
    if place in _LOSSES:
        # Of an int too long for a float, as of any number beyond float32, nothing is left.
        possible = _is_loss(figure) and not (figure == math.inf and isinstance(value, int))
        if twins and not _SENTINEL.fullmatch(str(figure)):
            possible = figure != figure or abs(figure) <= _LARGEST or figure == math.inf
    else:
        possible = figure != figure or 0 <= figure <= (100 if place in _ACCURACIES else _ROUNDED)
    if not possible:
        odd[f"{name} {shown(value)}"] = None
        return None
    return 1.0 if 1 < figure <= _ROUNDED and place not in _LOSSES else figure


def _in_one_unit(rows: Sequence[list[float | None]], odd: dict[str, None], file: str) -> list[Note]:
    """Bring the accuracies of one model into shares, in place."""
    columns = [[value for row in rows if (value := row[place]) is not None and value > 0] for place in _ACCURACIES]
    above = sum(value > 1 for column in columns for value in column)
    if not above:
        return []
    if above == 1:  # too little for a unit
        for row in rows:
            for place in _ACCURACIES:
                if (value := row[place]) is not None and value > 1:
                    odd[f"{REPORTED[place]} {shown(value)}"] = None
                    row[place] = None
        return []
    percent = any(4 * sum(value > 1 for value in column) >= len(column) for column in columns if column)
    for row in rows:
        for place in _ACCURACIES:
            value = row[place]
            row[place] = value / 100 if percent and value is not None else None
    if percent:
        return [Note("import-percent", f"accuracies in {file} are percent; all of a model's were divided by 100")]
    return [
        Note(
            "import-unclear-unit",
            f"some accuracies of a model in {file} are above 1 and most are not: whether they are shares or percent is "
            "not known, and all of its accuracies are null",
        )
    ]


def _is_share(figure: float | None) -> bool:
    return figure is None or 0 <= figure <= 1 or figure != figure


def _is_loss(figure: float | None) -> bool:
    return figure is None or 0 <= figure <= _LARGEST or figure != figure or figure == math.inf


def _some(values: Mapping[str, None]) -> str:
    more = ["…"] if len(values) > _EXAMPLES else []
    return ", ".join([*list(values)[:_EXAMPLES], *more])
