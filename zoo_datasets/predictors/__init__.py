"""Predictors: models that read the weights of a network and say what it is; one file each, all in one table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from zoo_datasets.errors import UnknownNameError

if TYPE_CHECKING:
    from zoo_datasets.predictors.base import Model

# The table: each predictor's name, the file of this folder that it is in, and its class.
PREDICTORS = {
    "statistics": ("statistics", "Statistics"),
    "deepsets": ("deepsets", "DeepSets"),
    "nfn": ("nfn", "Nfn"),
    "graph": ("graph", "GraphNetwork"),
    "transformer": ("transformer", "Transformer"),
    "scalegmn": ("scalegmn", "ScaleGmn"),
    "probe": ("probe", "ProbeGen"),
}


def get_predictor(name: str) -> type[Model]:
    """The class of the predictor of this name.

    Raises:
        UnknownNameError: if no predictor has it; suggests similar ones.
    """
    if name not in PREDICTORS:
        raise UnknownNameError("predictor", str(name), PREDICTORS)
    module, kind = PREDICTORS[name]
    model: type[Model] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return model
