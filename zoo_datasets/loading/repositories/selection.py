"""What is read of a config: epochs, rows and columns."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeAlias

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading.repositories.cuts import Cut, check_cut, parse_cut
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import NAMES, SPLITS
from zoo_datasets.repository.where import Condition, parse_where
from zoo_datasets.specs.bounds import MAX_EPOCH

SplitBy: TypeAlias = str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The part of a config that a user asks for; None means all.

    Attributes:
        epochs: ascending.
        columns: those that the user gets.
        steps: ascending.
        split: train, validation or test, or any name where `cut` is by name.
        cut: what decides the split of a row instead of the repository.
        condition: the text of `where` until the columns of the rows are known.
    """

    epochs: list[int] | None
    columns: list[str] | None
    steps: list[int] | None
    split: str | None
    cut: Cut | None
    condition: str | None = None
    where: Condition | None = None

    @classmethod
    def of(
        cls,
        epochs: Iterable[int] | None,
        where: str | None,
        columns: Sequence[str] | None,
        steps: Iterable[int] | None,
        split: str | datasets.NamedSplit | datasets.ReadInstruction | None,
        split_by: SplitBy,
    ) -> Selection:
        """The selection of the arguments of `load_zoo`, but for the condition.

        Raises:
            SpecError: if one of them makes no sense.
        """
        cut = parse_cut(split_by)
        if columns is not None and (isinstance(columns, str) or not columns):
            raise SpecError(f"columns={columns!r}: expected a list of at least one column of {', '.join(NAMES)}")
        if isinstance(split, datasets.ReadInstruction):
            split = split.to_spec()
        if not isinstance(split, (str, datasets.NamedSplit, type(None))):
            raise SpecError(f"split={brief(split)}: expected one split, or parts of them as 'train[:10%]+test'")
        return cls(
            epochs=None if epochs is None else _epochs(epochs),
            columns=None if columns is None else list(dict.fromkeys(columns)),
            steps=None if steps is None else _steps(steps),
            split=None if split is None else str(split),
            cut=cut,
            condition=where,
        )

    def within(self, manifest: Manifest | None, further: Mapping[str, pa.DataType]) -> Selection:
        """The same with its condition, whose columns may be further ones.

        Raises:
            SpecError: if the condition makes no sense, or steps are asked for and there are none.
            UnknownNameError: if it, or the cut, names a column that does not exist.
        """
        if self.cut is not None:
            check_cut(self.cut, [*NAMES, *further])
        if self.steps is not None and manifest is not None and manifest.open is None:
            raise SpecError(f"{manifest.config}: its states are whole epochs and have no steps; choose by epochs=")
        return replace(self, where=None if self.condition is None else parse_where(self.condition, further))

    def instruction(self) -> datasets.ReadInstruction:
        """The split as parts of splits.

        Raises:
            SpecError: if it is none.
        """
        try:
            return datasets.ReadInstruction.from_spec(self.split)
        except (ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SpecError(
                f"split={brief(self.split)}: {reason}; expected a split, or parts of them as 'train[:10%]+test'"
            ) from None

    @property
    def columns_read(self) -> list[str] | None:
        """The columns that are read: those asked for, and the one by which rows are cut."""
        if self.columns is None or self.cut is None or self.cut.column in self.columns:
            return self.columns
        return [*self.columns, self.cut.column]

    @property
    def stored_split(self) -> str | None:
        """The split of the repository that holds all rows asked for; None if they may be in several."""
        return self.split if self.cut is None else None

    @property
    def partial(self) -> bool:
        """Whether rows or columns of the files are left out."""
        return any(part is not None for part in (self.epochs, self.where, self.columns, self.steps))

    @property
    def filter(self) -> pc.Expression | None:
        """The rows to read."""
        conditions = [] if self.epochs is None else [pc.field("epoch").isin(self.epochs)]
        conditions += [] if self.steps is None else [pc.field("step").isin(self.steps)]
        conditions += [] if self.where is None else [self.where.expression()]
        return reduce(operator.and_, conditions) if conditions else None

    @property
    def filter_columns(self) -> tuple[str, ...]:
        """The columns that `filter` reads."""
        by_key = [*([] if self.epochs is None else ["epoch"]), *([] if self.steps is None else ["step"])]
        return (*by_key, *(() if self.where is None else sorted(self.where.columns)))

    def no_rows(self, name: str) -> SpecError:
        """The error of a config that holds none of these rows."""
        of_split = f" of split {self.split!r}" if self.split else ""
        conditions = [] if self.epochs is None else [f"epoch {' or '.join(map(str, self.epochs))}"]
        conditions += [] if self.steps is None else [f"step {' or '.join(map(str, self.steps))}"]
        conditions += [] if self.where is None else [str(self.where)]
        return SpecError(f"{name}: no row{of_split} has {' and '.join(conditions) or 'been written'}")

    def epochs_to_read(self, manifest: Manifest | None) -> list[int] | None:
        """The epochs that can hold the rows, as far as the condition tells without its figures; None means any."""
        if manifest is None or self.epochs is not None or self.where is None:
            return self.epochs
        epochs = pa.array(manifest.epochs, pa.int32())
        possible = epochs.take(pa.array(self.where.possible(pa.table({"epoch": epochs})))).to_pylist()
        # Rows of none are an empty zoo, and that has the columns of one that is not.
        return possible if 0 < len(possible) < len(manifest.epochs) else None

    def files(self, manifest: Manifest | None, epochs: list[int] | None) -> dict[str, list[str]] | None:
        """The shards that can hold rows of some epochs, by split; None if these are all, or no manifest tells."""
        if manifest is None or (self.stored_split is None and epochs is None):
            return None
        files: dict[str, list[str]] = {}
        for shard in manifest.shards:
            if self.stored_split in (None, shard.split) and (
                epochs is None or not set(epochs).isdisjoint(shard.epochs)
            ):
                files.setdefault(shard.split, []).append(shard.path)
        return files

    def check_epochs(self, manifest: Manifest | None, name: str) -> None:
        """Compare the epochs with those of a manifest.

        Raises:
            SpecError: if there are no rows of one of them.
        """
        if manifest is None or self.epochs is None:
            return
        shards = [shard for shard in manifest.shards if self.stored_split in (None, shard.split)]
        available = sorted({epoch for shard in shards for epoch in shard.epochs})
        missing = [epoch for epoch in self.epochs if epoch not in available]
        if missing:
            of_split = f", split {self.stored_split!r}," if self.stored_split else ""
            raise SpecError(
                f"{name}{of_split} has no rows of epoch {', '.join(map(str, missing))}; "
                f"it holds {len(available)} epochs from {available[0]} to {available[-1]}"
            )

    def check_split(self, available: Iterable[str], name: str) -> None:
        """Compare the split with the stored ones.

        Raises:
            UnknownNameError: if it is none of them, or has no rows.
        """
        if self.cut is not None and self.cut.named:
            return  # which there are is known when the rows are read
        splits = list(available) if self.cut is None else list(SPLITS)
        if self.split is not None and self.split not in splits:
            empty = f"In {name} this split has no rows" if self.split in SPLITS else ""
            raise UnknownNameError("split", self.split, splits, empty)


def is_expression(split: str) -> bool:
    """Whether this is no name of a split, but slices and sums of splits."""
    return not split.isidentifier() and re.search(r"[\[+]", split) is not None


def _epochs(epochs: Iterable[int]) -> list[int]:
    """Distinct epochs, ascending.

    Raises:
        SpecError: if they are no list of whole numbers in range.
    """
    with contextlib.suppress(TypeError):
        numbers = set(_bounded(epochs))
        if numbers and min(numbers) >= 0 and max(numbers) <= MAX_EPOCH:
            return sorted(numbers)
    raise SpecError(
        f"epochs={brief(epochs)}: expected a list of whole numbers from 0 to {MAX_EPOCH:,}, or None for all epochs"
    )


def _steps(steps: Iterable[int]) -> list[int]:
    numbers: set[int] = set()
    with contextlib.suppress(TypeError):
        numbers = set(map(operator.index, steps))
    if not numbers or min(numbers) < 0:
        raise SpecError(f"steps={brief(steps)}: expected a list of whole numbers from 0 on, or None for all steps")
    return sorted(numbers)


def _bounded(epochs: Iterable[int]) -> Iterator[int]:
    """The epochs up to the first one out of range: iterables may have no end."""
    for epoch in map(operator.index, epochs):
        yield epoch
        if not 0 <= epoch <= MAX_EPOCH:
            return
