"""What a feature is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.layout import WeightLayout

Matrix: TypeAlias = NDArray[np.float32]
Transform: TypeAlias = Callable[[Matrix], Matrix]
# A sample of the training split's weights, read when it is called: float32 [N, D].
TrainingWeights: TypeAlias = Callable[[], Matrix]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A map from weights to features.

    Attributes:
        fit: from (training weights, layout) to a transform of weights [B, D] to features [B, F], both float32. It
            must not write to its argument, and rows must not depend on each other.
        boosted: whether there are few enough features for gradient boosting.
    """

    name: str
    doc: str
    fit: Callable[[TrainingWeights, WeightLayout], Transform]
    boosted: bool = False


def standardiser(weights: Matrix) -> Transform:
    """Subtract the mean and divide by the deviation of each column of `weights`; constant columns become 0."""
    mean = weights.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = weights.std(axis=0, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1
    return lambda rows: (rows - mean) / deviation
