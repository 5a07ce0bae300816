"""What a feature is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.networks.layout import WeightLayout

Matrix: TypeAlias = NDArray[np.float32]
Transform: TypeAlias = Callable[[Matrix], Matrix]
# A sample of the training split's weights, read when it is called: float32 [N, D].
TrainingWeights: TypeAlias = Callable[[], Matrix]

_FENCE_ROWS = 4096
_REACH = np.float32(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A map from weights to features.

    Attributes:
        fit: from (training weights, layout) to a transform of weights [B, D] to features [B, F], both float32. It
            must not write to its argument, and rows must not depend on each other.
        boosted: whether the features are few enough for gradient boosting.
    """

    name: str
    doc: str
    fit: Callable[[TrainingWeights, WeightLayout], Transform]
    boosted: bool = False


def fences(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Bounds [F] outside the usual range of each column: three times the distance of the quartiles beyond them.

    (What lies outside is "far out" in Tukey, Exploratory Data Analysis, 1977.)
    Weights of a model that diverged can be thousands of times those of all others; unbounded, a few of them
    decide a least-squares fit. Columns whose quartiles are equal are unbounded. At most 4,096 rows, evenly
    spaced, give the quartiles.
    """
    sample = rows[:: -(-len(rows) // _FENCE_ROWS)]
    low, high = np.percentile(sample, (25, 75), axis=0).astype(np.float32)
    reach = np.where(high > low, _REACH * (high - low), np.float32(np.inf))
    return low - reach, high + reach


def standardiser(weights: Matrix) -> Transform:
    """Bound each column by the `fences` of `weights`, subtract its mean and divide by its deviation; constant columns
    become 0."""
    low, high = fences(weights)
    weights = weights.clip(low, high)
    mean = weights.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = weights.std(axis=0, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1
    return lambda rows: (rows.clip(low, high) - mean) / deviation
