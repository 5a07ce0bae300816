"""What the benchmark predicts: figures and hyperparameters of a model."""

from __future__ import annotations

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
_TYPES = {column.name: column.type for column in COLUMNS if column.name != WEIGHTS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A column to predict: as a number, as a class, or as both."""

    name: str
    numeric: bool
    classes: bool


def get_targets(names: list[str]) -> list[Target]:
    """The targets of these names.

    Raises:
        UnknownNameError: if rows have no such column.
        SpecError: if no name is given.
    """
    if not names:
        raise SpecError(f"no target was named; expected some of {', '.join(DEFAULT_TARGETS)}")
    for name in names:
        if name not in _TYPES:
            raise UnknownNameError("target", name, _TYPES)
    return [
        Target(
            name=name,
            numeric=not (text := pa.types.is_string(_TYPES[name])),
            classes=bool(text or name in _CHOICES),
        )
        for name in dict.fromkeys(names)
    ]


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
    return np.array([value if isinstance(value, str) else f"{value:g}" for value in values])
