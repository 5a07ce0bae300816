"""What can be known of a network from its weights alone: one file a feature, all in one table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoo_datasets.errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from zoo_datasets.evaluation.features.base import Feature, Transform

    FEATURES: dict[str, Feature]

# The table: the file of this folder that holds each feature as FEATURE, and is called as it is. Their names alone,
# which the command's help shows, are there at once; `FEATURES` has the features by name.
NAMES = ("weights", "statistics", "spectra", "pca", "kernel_pca", "umap")

__all__ = ["FEATURES", "NAMES", "Feature", "Transform", "get_features"]


def _features() -> dict[str, Feature]:
    modules = [importlib.import_module(f"{__name__}.{name}") for name in NAMES]
    return {module.FEATURE.name: module.FEATURE for module in modules}


def __getattr__(name: str) -> Any:
    if name == "FEATURES":
        return _features()
    if name in ("Feature", "Transform"):
        return getattr(importlib.import_module(f"{__name__}.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_features(names: list[str]) -> list[Feature]:
    """The features of these names.

    Raises:
        UnknownNameError: if no feature has one of these names; suggests similar ones.
        SpecError: if no name is given.
    """
    features = _features()
    if not names:
        raise SpecError(f"no feature was named; expected some of {', '.join(features)}")
    for name in names:
        if name not in features:
            raise UnknownNameError("feature", name, features)
    return [features[name] for name in dict.fromkeys(names)]
