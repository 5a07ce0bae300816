"""Kernel principal components of the standardised weights, with a Gaussian kernel of width √D."""

from __future__ import annotations

import numpy as np

from zoo_datasets.evaluation.features.base import Feature, TrainingWeights, Transform, standardiser
from zoo_datasets.networks.layout import WeightLayout

COMPONENTS = 64
# The kernel of all pairs: the cost grows with the square of the rows that it is fitted on.
_ROWS = 2000


def _fit(training: TrainingWeights, _: WeightLayout) -> Transform:
    from sklearn.decomposition import KernelPCA

    weights = training()
    standardise = standardiser(weights)
    drawn = weights[np.random.default_rng(0).permutation(len(weights))[:_ROWS]]
    components = min(COMPONENTS, len(drawn) - 1)
    model = KernelPCA(components, kernel="rbf", eigen_solver="randomized", random_state=0).fit(standardise(drawn))
    return lambda rows: model.transform(standardise(rows)).astype("float32")


FEATURE = Feature(name="kernel_pca", doc=f"{COMPONENTS} kernel principal components, fitted on 2,000 rows", fit=_fit)
