"""Principal components of the standardised weights."""

from __future__ import annotations

from zoo_datasets.evaluation.features.base import Feature, TrainingWeights, Transform, standardiser
from zoo_datasets.networks.layout import WeightLayout

COMPONENTS = 64


def _fit(training: TrainingWeights, _: WeightLayout) -> Transform:
    from sklearn.decomposition import PCA

    weights = training()
    standardise = standardiser(weights)
    components = min(COMPONENTS, *weights.shape)
    model = PCA(components, svd_solver="randomized", random_state=0).fit(standardise(weights))
    return lambda rows: model.transform(standardise(rows)).astype("float32")


FEATURE = Feature(name="pca", doc=f"{COMPONENTS} principal components of the standardised weights", fit=_fit)
