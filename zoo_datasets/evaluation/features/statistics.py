"""s(W): mean, variance and percentiles of each tensor, weights and biases apart.

After Unterthiner et al., Predicting Neural Network Accuracy from Weights (2020), with the 1st and 99th percentile in
place of minimum and maximum, as in Schürholt et al., Model Zoos (2022).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zoo_datasets.errors import LayoutError
from zoo_datasets.evaluation.features.base import Feature, Matrix, TrainingWeights, Transform
from zoo_datasets.networks.layout import WeightLayout

PERCENTILES = (1, 25, 50, 75, 99)
STATISTICS = ("mean", "variance", *(f"p{percent}" for percent in PERCENTILES))


def statistics_of(weights: Matrix, layout: WeightLayout) -> Matrix:
    """s(W), float32 [B, 7 · tensors]: for each tensor of the layout in its order the `STATISTICS`.

    The variance is that of the tensor's weights as a population; percentiles are interpolated linearly.

    Args:
        weights: float32 [B, D].
    """
    statistics = np.empty((len(weights), len(layout.tensors), len(STATISTICS)), np.float32)
    for number, where in enumerate(layout.slices().values()):
        # Sorting once gives all percentiles; on most processors numpy sorts with vector instructions.
        ordered = np.sort(weights[:, where], axis=1)
        statistics[:, number, 0] = mean = ordered.mean(axis=1)
        squares = np.einsum("ij,ij->i", centred := ordered - mean[:, None], centred)
        statistics[:, number, 1] = squares / ordered.shape[1]
        for place, percent in enumerate(PERCENTILES, 2):
            position = percent / 100 * (ordered.shape[1] - 1)
            low = math.floor(position)
            high = min(low + 1, ordered.shape[1] - 1)
            share = np.float32(position - low)
            statistics[:, number, place] = ordered[:, low] * (1 - share) + ordered[:, high] * share
    return statistics.reshape(len(weights), -1)


def statistics(weights: Tensor, layout: WeightLayout) -> Tensor:
    """s(W) of a batch, float32 [B, 7 · tensors]; see `statistics_of`. `names_of(layout)` are its columns.

    Args:
        weights: [B, D].

    Raises:
        LayoutError: if the weights have another shape.
    """
    if weights.ndim != 2 or weights.shape[1] != layout.size:
        raise LayoutError(f"weights have shape {list(weights.shape)}, expected [B, {layout.size}]")
    return torch.from_numpy(statistics_of(weights.detach().cpu().float().numpy(), layout))


def names_of(layout: WeightLayout) -> list[str]:
    """The names of the columns of `statistics_of`, as `conv1.weight mean`."""
    return [f"{spec.name} {statistic}" for spec in layout.tensors for statistic in STATISTICS]


def _fit(_: TrainingWeights, layout: WeightLayout) -> Transform:
    return lambda weights: statistics_of(weights, layout)


FEATURE = Feature(name="statistics", doc="mean, variance and percentiles of each tensor", fit=_fit, boosted=True)
