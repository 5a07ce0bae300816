"""Other cuts of a zoo into splits than the repository's own: by seed, by any column, or as the authors cut it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.repository.row import SPLITS, split_of_group, split_of_seed

_GROUP = "group:"
_SOURCE = "source_split"


@dataclass(frozen=True, slots=True)
class Cut:
    """A column by whose value a row is in a split.

    Attributes:
        named: whether the value is the name of the split; else the split follows from a hash of it.
    """

    column: str
    named: bool = False

    def split(self, value: Any) -> str | None:
        """The split of a row; None where it is in none."""
        if self.named:
            return None if value is None else str(value)
        return split_of_seed(value) if self.column == "seed" else split_of_group(self.column, value)


def parse_cut(split_by: object) -> Cut | None:
    """The cut that `split_by` of `load_zoo` means; None for the repository's own.

    Raises:
        SpecError: if it means none.
    """
    if split_by == "model":
        return None
    if split_by == "seed":
        return Cut("seed")
    if split_by == "source":
        return Cut(_SOURCE, named=True)
    if isinstance(split_by, str) and split_by.startswith(_GROUP) and len(split_by) > len(_GROUP):
        return Cut(split_by.removeprefix(_GROUP))
    raise SpecError(f"split_by={brief(split_by)}: expected 'model', 'seed', 'source' or 'group:COLUMN'")


def check_cut(cut: Cut, columns: Sequence[str]) -> None:
    """See that the rows have the column of a cut.

    Raises:
        UnknownNameError: if they have not.
    """
    if cut.column not in columns:
        raise UnknownNameError("column", cut.column, columns)


def cut_rows(loaded: DatasetDict | IterableDatasetDict, cut: Cut, split: str | None, drop: bool) -> Any:
    """All rows, cut anew, by the name of the split: those wanted.

    Args:
        drop: whether the column of the cut was not asked for.

    Raises:
        SpecError: if no row has a value in its column, or a split that was asked for has no row.
    """
    import datasets

    rows = datasets.concatenate_datasets(list(loaded.values()))
    left_out = [cut.column] if drop else []
    if isinstance(rows, IterableDataset):
        if split is None and cut.named:
            raise SpecError("streaming cannot know the authors' splits before it reads; name one: split='train'")
        parts = {
            name: rows.filter(lambda value, wanted=name: cut.split(value) == wanted, input_columns=cut.column)
            for name in (SPLITS if split is None else (split,))
        }
        return IterableDatasetDict({name: part.remove_columns(left_out) for name, part in parts.items()})
    return _cut_prepared(rows, cut, split, left_out)


def _cut_prepared(rows: Dataset, cut: Cut, split: str | None, left_out: list[str]) -> DatasetDict:
    values = rows.select_columns(cut.column).with_format("arrow")[:][cut.column].to_pylist()
    of_value = {value: cut.split(value) for value in set(values)}
    if cut.named and set(of_value.values()) == {None}:
        raise SpecError("split_by='source': no row says in which split its authors had it; build with --splits FILE")
    positions: dict[str | None, list[int]] = {}
    for position, value in enumerate(values):
        positions.setdefault(of_value[value], []).append(position)
    names_in_use = [name for name in positions if name is not None]
    ordered = [*(name for name in SPLITS if name in names_in_use), *sorted(set(names_in_use).difference(SPLITS))]
    if split is not None and split not in names_in_use and (cut.named or split not in SPLITS):
        raise UnknownNameError("split", split, ordered)
    names = ordered if split is None else [split]  # an empty split is left out, unless it was asked for
    return DatasetDict({name: rows.select(positions.get(name, [])).remove_columns(left_out) for name in names})


def check_divides(values: Iterable[pa.Array | pa.ChunkedArray], cut: Cut, name: str, chosen: bool) -> None:
    """See that rows differ in the column of a cut by a hash, which else puts all of them into one split.

    Args:
        values: all of the column's, in some parts.
        chosen: whether a condition chose the rows, so that others may differ: then that is only warned of.

    Raises:
        SpecError: if all rows have one value; says it.
    """
    distinct: set[Any] = set()
    for part in values:
        distinct.update(part.unique().to_pylist())
        if len(distinct) > 1:
            return
    for value in distinct:
        have = (
            f"no row has a value of {cut.column}" if value is None else f"all rows have the {cut.column} {brief(value)}"
        )
        told = f"{name}: {have}, so that a cut by it puts all into one split"
        if not chosen:
            raise SpecError(f"{told}; choose another split_by: 'model', 'source' or 'group:COLUMN'")
        warnings.warn(told, stacklevel=5)
