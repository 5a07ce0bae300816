"""UMAP of the standardised weights; needs `pip install 'zoo-datasets[umap]'`."""

from __future__ import annotations

import numpy as np

from zoo_datasets.errors import SpecError
from zoo_datasets.evaluation.features.base import Feature, Matrix, TrainingWeights, Transform, standardiser
from zoo_datasets.networks.layout import WeightLayout

COMPONENTS = 16
_ROWS = 5000


def fit_umap(weights: Matrix, components: int) -> Transform:
    """UMAP fitted on some rows (at most 5,000 of them).

    Raises:
        SpecError: where umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise SpecError("umap-learn is not installed; pip install 'zoo-datasets[umap]', or use pca") from error
    standardise = standardiser(weights)
    drawn = weights[np.random.default_rng(0).permutation(len(weights))[:_ROWS]]
    model = UMAP(n_components=components, random_state=0, n_jobs=1).fit(standardise(drawn))
    return lambda rows: np.asarray(model.transform(standardise(rows)), np.float32)


def _fit(training: TrainingWeights, _: WeightLayout) -> Transform:
    return fit_umap(training(), COMPONENTS)


FEATURE = Feature(name="umap", doc=f"UMAP in {COMPONENTS} dimensions, fitted on 5,000 rows", fit=_fit)
