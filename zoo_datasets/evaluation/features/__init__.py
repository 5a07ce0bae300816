"""What can be known of a network from its weights alone: one file a feature, all in one table."""

from __future__ import annotations

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.evaluation.features import kernel_pca, pca, spectra, statistics, umap, weights
from zoo_datasets.evaluation.features.base import Feature, Transform

FEATURES: dict[str, Feature] = {
    feature.name: feature
    for feature in (
        weights.FEATURE,
        statistics.FEATURE,
        spectra.FEATURE,
        pca.FEATURE,
        kernel_pca.FEATURE,
        umap.FEATURE,
    )
}

__all__ = ["FEATURES", "Feature", "Transform", "get_features"]


def get_features(names: list[str]) -> list[Feature]:
    """The features of these names.

    Raises:
        UnknownNameError: where there is no such feature; says which are near.
        SpecError: where no name is given.
    """
    if not names:
        raise SpecError(f"no feature was named; expected some of {', '.join(FEATURES)}")
    for name in names:
        if name not in FEATURES:
            raise UnknownNameError("feature", name, FEATURES)
    return [FEATURES[name] for name in dict.fromkeys(names)]
