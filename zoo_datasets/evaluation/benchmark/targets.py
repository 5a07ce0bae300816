"""What the benchmark predicts: figures and hyperparameters of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.evaluation.benchmark.samples import SampleRows, numbers_of
from zoo_datasets.evaluation.benchmark.scores import Numbers
from zoo_datasets.repository.row import COLUMNS, WEIGHTS

# The paper's, and the sparsity of twins; those that are constant or null in a zoo are left out.
DEFAULT_TARGETS = (
    "test_acc", "epoch", "ggap", "sparsity", "dropout", "lr", "weight_decay", "activation", "init", "optimizer",
)  # fmt: skip
# Numbers that are a choice among few: their class is predicted, too.
_CHOICES = ("dropout", "lr", "weight_decay", "momentum", "batch_size")
_RATES = ("lr", "weight_decay")
# Whole numbers that are names, and what makes any column one: `digit:class`.
_LABELS = ("label",)
_AS_CLASS = ":class"
_TYPES = {column.name: column.type for column in COLUMNS if column.name != WEIGHTS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A column to predict: as a number, as a class, or as both.

    Attributes:
        name: of the column.
    """

    name: str
    numeric: bool
    classes: bool


def check_targets(names: Sequence[str]) -> None:
    """SpecError if there is no name."""
    if not names:
        raise SpecError(f"no target was named; expected some of {', '.join(DEFAULT_TARGETS)}")


def columns_of(names: Sequence[str]) -> list[str]:
    """The columns that targets name, `digit` for `digit:class`."""
    return list(dict.fromkeys(name.removesuffix(_AS_CLASS) for name in names))


def get_targets(names: Sequence[str], types: Mapping[str, pa.DataType] | None = None) -> list[Target]:
    """The targets of these names: a column, or `COLUMN:class` for one whose numbers are names. Texts, truth values and
    labels are classes anyway.

    Args:
        types: of the columns of the rows; those of classic rows are known.

    Raises:
        UnknownNameError: if rows have no such column.
        SpecError: if no name is given, or a column holds neither numbers nor texts.
    """
    check_targets(names)
    known = {**_TYPES, **(types or {})}
    targets = []
    for name, asked in {name.removesuffix(_AS_CLASS): name for name in names}.items():
        if name not in known:
            raise UnknownNameError("target", name, known)
        kind = known[name]
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
        if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise SpecError(f"target {name!r} is a column of {kind}, expected numbers, texts or truth values")
        named = text or asked.endswith(_AS_CLASS) or name in _LABELS
        targets.append(Target(name=name, numeric=not named, classes=named or name in _CHOICES))
    return targets


def values_for(target: Target, rows: SampleRows) -> NDArray[Any]:
    """The column as it is: float64 [N] with NaN for null, or objects [N] with None."""
    if not target.numeric:
        return np.array(rows.column(target.name).to_pylist(), dtype=object)
    return numbers_of(rows, target.name)


def is_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are neither null nor infinite, [N]."""
    if values.dtype == object:
        return np.array([value is not None for value in values], dtype=np.bool_)
    return np.asarray(np.isfinite(values))


def logarithmic(target: Target, values: Numbers) -> bool:
    """Whether a number is predicted as its log10: learning rates and weight decays, where none is 0."""
    return target.name in _RATES and bool((values > 0).all())


def as_classes(values: NDArray[Any]) -> NDArray[Any]:
    """Values as texts, [N]."""
    return np.array([str(value) if isinstance(value, str | bool | int) else f"{value:g}" for value in values])
