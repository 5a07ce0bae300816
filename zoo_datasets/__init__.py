"""Populations of neural networks as datasets: specs, loading and models; everything is imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoo_datasets.version import __version__

if TYPE_CHECKING:
    from zoo_datasets.builders import build_repository as build_repository
    from zoo_datasets.builders import write_rows as write_rows
    from zoo_datasets.evaluation.alignment import align as align
    from zoo_datasets.evaluation.alignment import interpolate as interpolate
    from zoo_datasets.evaluation.alignment import loss_barrier as loss_barrier
    from zoo_datasets.evaluation.features.statistics import statistics as statistics
    from zoo_datasets.evaluation.verify.verify import verify_repository as verify_repository
    from zoo_datasets.hub.push import push_repository as push_repository
    from zoo_datasets.hub.remove import remove_zoo as remove_zoo
    from zoo_datasets.images.prepare import images_of as images_of
    from zoo_datasets.images.prepare import load_images as load_images
    from zoo_datasets.loading.batches import batches as batches
    from zoo_datasets.loading.exporting import load_exported as load_exported
    from zoo_datasets.loading.load import load_zoo as load_zoo
    from zoo_datasets.loading.load import read_layouts as read_layouts
    from zoo_datasets.loading.mixing import mixed_tokens as mixed_tokens
    from zoo_datasets.loading.modules import evaluate as evaluate
    from zoo_datasets.loading.modules import layers_of_row as layers_of_row
    from zoo_datasets.loading.modules import to_module as to_module
    from zoo_datasets.loading.modules import to_modules as to_modules
    from zoo_datasets.loading.modules import to_state_dict as to_state_dict
    from zoo_datasets.loading.ragged import by_layout as by_layout
    from zoo_datasets.loading.rendering import render as render
    from zoo_datasets.loading.repositories.citing import cite as cite
    from zoo_datasets.loading.tasks import dense_sparse_pairs as dense_sparse_pairs
    from zoo_datasets.loading.tasks import join_twins as join_twins
    from zoo_datasets.loading.tasks import property_prediction as property_prediction
    from zoo_datasets.loading.tasks import reconstruction as reconstruction
    from zoo_datasets.loading.tasks import sequence_prediction as sequence_prediction
    from zoo_datasets.loading.tasks import trajectories as trajectories
    from zoo_datasets.networks.architectures import get_architecture as get_architecture
    from zoo_datasets.networks.architectures import layout_of as layout_of
    from zoo_datasets.networks.code import allow_code as allow_code
    from zoo_datasets.networks.fields import Convention as Convention
    from zoo_datasets.networks.layout import WeightLayout as WeightLayout
    from zoo_datasets.networks.module import build_module as build_module
    from zoo_datasets.predictors.predictor import Predictor as Predictor
    from zoo_datasets.runs.run import Run as Run
    from zoo_datasets.specs.axes import HyperParameters as HyperParameters
    from zoo_datasets.specs.images import ImageSpec as ImageSpec
    from zoo_datasets.specs.members import Limits as Limits
    from zoo_datasets.specs.members import Member as Member
    from zoo_datasets.specs.members import members_of as members_of
    from zoo_datasets.specs.spec import ZooSpec as ZooSpec
    from zoo_datasets.specs.zoos import get_zoo as get_zoo
    from zoo_datasets.specs.zoos import list_zoos as list_zoos
    from zoo_datasets.specs.zoos import read_zoo as read_zoo
    from zoo_datasets.training import train_zoo as train_zoo

_HOMES = {
    "Convention": "networks.fields",
    "HyperParameters": "specs.axes",
    "ImageSpec": "specs.images",
    "Limits": "specs.members",
    "Member": "specs.members",
    "Predictor": "predictors.predictor",
    "Run": "runs.run",
    "WeightLayout": "networks.layout",
    "ZooSpec": "specs.spec",
    "align": "evaluation.alignment",
    "allow_code": "networks.code",
    "batches": "loading.batches",
    "by_layout": "loading.ragged",
    "build_module": "networks.module",
    "build_repository": "builders",
    "cite": "loading.repositories.citing",
    "dense_sparse_pairs": "loading.tasks",
    "evaluate": "loading.modules",
    "get_architecture": "networks.architectures",
    "get_zoo": "specs.zoos",
    "images_of": "images.prepare",
    "interpolate": "evaluation.alignment",
    "layers_of_row": "loading.modules",
    "join_twins": "loading.tasks",
    "layout_of": "networks.architectures",
    "list_zoos": "specs.zoos",
    "load_exported": "loading.exporting",
    "load_images": "images.prepare",
    "load_zoo": "loading.load",
    "read_layouts": "loading.load",
    "loss_barrier": "evaluation.alignment",
    "members_of": "specs.members",
    "mixed_tokens": "loading.mixing",
    "property_prediction": "loading.tasks",
    "push_repository": "hub.push",
    "read_zoo": "specs.zoos",
    "reconstruction": "loading.tasks",
    "render": "loading.rendering",
    "remove_zoo": "hub.remove",
    "sequence_prediction": "loading.tasks",
    "statistics": "evaluation.features.statistics",
    "to_module": "loading.modules",
    "to_modules": "loading.modules",
    "to_state_dict": "loading.modules",
    "train_zoo": "training",
    "trajectories": "loading.tasks",
    "verify_repository": "evaluation.verify.verify",
    "write_rows": "builders",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
