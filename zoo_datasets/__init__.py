"""Populations of neural networks as datasets: specs, loading and models; everything is imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_datasets.architectures import build_module as build_module
    from zoo_datasets.architectures import get_architecture as get_architecture
    from zoo_datasets.architectures import layout_of as layout_of
    from zoo_datasets.batching import batches as batches
    from zoo_datasets.builders import build_repository as build_repository
    from zoo_datasets.evaluation.verify import verify_repository as verify_repository
    from zoo_datasets.exporting import load_exported as load_exported
    from zoo_datasets.images import load_images as load_images
    from zoo_datasets.layout import WeightLayout as WeightLayout
    from zoo_datasets.loading import load_zoo as load_zoo
    from zoo_datasets.loading import to_module as to_module
    from zoo_datasets.loading import to_state_dict as to_state_dict
    from zoo_datasets.mixing import mixed_tokens as mixed_tokens
    from zoo_datasets.models import evaluate as evaluate
    from zoo_datasets.models import to_modules as to_modules
    from zoo_datasets.publishing import push_repository as push_repository
    from zoo_datasets.runs import Run as Run
    from zoo_datasets.specs import HyperParameters as HyperParameters
    from zoo_datasets.specs import ImageSpec as ImageSpec
    from zoo_datasets.specs import Limits as Limits
    from zoo_datasets.specs import Member as Member
    from zoo_datasets.specs import ZooSpec as ZooSpec
    from zoo_datasets.specs import members_of as members_of
    from zoo_datasets.tasks import dense_sparse_pairs as dense_sparse_pairs
    from zoo_datasets.tasks import property_prediction as property_prediction
    from zoo_datasets.tasks import reconstruction as reconstruction
    from zoo_datasets.tasks import sequence_prediction as sequence_prediction
    from zoo_datasets.tasks import trajectories as trajectories
    from zoo_datasets.training import train_zoo as train_zoo
    from zoo_datasets.zoos import get_zoo as get_zoo
    from zoo_datasets.zoos import list_zoos as list_zoos
    from zoo_datasets.zoos import read_zoo as read_zoo

__version__ = "0.1.0"

_HOMES = {
    "HyperParameters": "specs",
    "ImageSpec": "specs",
    "Limits": "specs",
    "Member": "specs",
    "Run": "runs",
    "WeightLayout": "layout",
    "ZooSpec": "specs",
    "batches": "batching",
    "build_module": "architectures",
    "build_repository": "builders",
    "dense_sparse_pairs": "tasks",
    "evaluate": "models",
    "get_architecture": "architectures",
    "get_zoo": "zoos",
    "layout_of": "architectures",
    "list_zoos": "zoos",
    "load_exported": "exporting",
    "load_images": "images",
    "load_zoo": "loading",
    "members_of": "specs",
    "mixed_tokens": "mixing",
    "property_prediction": "tasks",
    "push_repository": "publishing",
    "read_zoo": "zoos",
    "reconstruction": "tasks",
    "sequence_prediction": "tasks",
    "to_module": "loading",
    "to_modules": "models",
    "to_state_dict": "loading",
    "train_zoo": "training",
    "trajectories": "tasks",
    "verify_repository": "evaluation.verify",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
