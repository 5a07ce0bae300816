"""What the models of a benchmark learn: all numbers together, and each class by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.evaluation.benchmark.run import Data
from zoo_datasets.evaluation.benchmark.samples import SampleRows
from zoo_datasets.evaluation.benchmark.targets import Target, as_classes, is_finite, logarithmic, values_for
from zoo_datasets.predictors.predictor import TargetForm

NUMBERS = "numbers"
Values = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Task:
    """What one training learns: all numbers, or one class."""

    name: str
    targets: tuple[Target, ...]


def tasks_of(data: Data) -> list[Task]:
    """The numbers together, if there are any, and each class."""
    numbers = tuple(target for target in data.targets if target.numeric)
    classes = [Task(target.name, (target,)) for target in data.targets if not target.numeric]
    return ([Task(NUMBERS, numbers)] if numbers else []) + classes


def form_of(target: Target, data: Data) -> TargetForm:
    """What the outputs for a target mean, by the training rows."""
    values = values_for(target, data.train)
    if not target.numeric:
        return TargetForm.of_classes(target.name, as_classes(values[is_finite(values)]).tolist())
    known = [part[is_finite(part)] for part in (values_for(target, rows) for rows in data.parts)]
    scale: Literal["linear", "log10"] = "log10" if logarithmic(target, np.concatenate(known)) else "linear"
    return TargetForm.of_numbers(target.name, np.log10(values) if scale == "log10" else values, scale)


def scaled_values(target: Target, form: TargetForm, rows: SampleRows) -> Values:
    """A target on its scale: float64 [N] with NaN where unknown, or names of classes with None."""
    values = values_for(target, rows)
    if form.kind == "number":
        return np.log10(values) if form.scale == "log10" else values
    known = is_finite(values)
    named = np.full(len(values), None, dtype=object)
    named[known] = as_classes(values[known])
    return named
