"""W: the flat weights as they are."""

from __future__ import annotations

from zoo_datasets.evaluation.features.base import Feature, TrainingWeights, Transform
from zoo_datasets.networks.layout import WeightLayout


def _fit(_: TrainingWeights, __: WeightLayout) -> Transform:
    return lambda weights: weights


FEATURE = Feature(name="weights", doc="the flat weights, D numbers", fit=_fit)
