"""Augmentation of training networks: other weights of the same function, and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.networks.channels import permutations
from zoo_datasets.networks.layers.walks import MEMBERS
from zoo_datasets.predictors.base import WeightSpace
from zoo_datasets.symmetries import HOMOGENEOUS, ODD, flip_signs, permute, rescale

AUGMENTATIONS = ("permute", "scale", "noise")
_NOISE = 0.1


def check_augmentations(names: tuple[str, ...]) -> None:
    """UnknownNameError unless all are names of `AUGMENTATIONS`."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise UnknownNameError("augmentation of weights", name, AUGMENTATIONS)


def augmented(
    weights: Tensor, activation: Tensor, space: WeightSpace, names: tuple[str, ...], generator: torch.Generator
) -> Tensor:
    """Weights [B, D] of networks with other orders of channels (`permute`), other signs and scales where the activation
    allows (`scale`), and noise of a tenth of the deviation of each tensor (`noise`).

    Args:
        activation: int64 [B], places in `space.activations`.
    """
    if "permute" in names:
        weights = permute(weights, space.layers, generator)
    if "scale" in names:
        weights = _scaled(weights, activation, space, generator)
    if "noise" in names:
        weights = weights.clone()
        for where in space.layout.slices().values():
            part = weights[:, where]
            spread = part.std(dim=1, keepdim=True, correction=0)
            part += _NOISE * spread * torch.randn(part.shape, generator=generator, device=part.device)
    return weights


def _scaled(weights: Tensor, activation: Tensor, space: WeightSpace, generator: torch.Generator) -> Tensor:
    told = any(MEMBERS in group.functions for group in permutations(space.layers))
    if told and not space.activations:  # an activation that is to be predicted may not decide
        return weights
    names = space.activations if told else ("none",)
    parts = weights.clone()
    for code, name in enumerate(names):
        mine = activation == code if told else torch.ones_like(activation, dtype=torch.bool)
        rows = parts[mine]
        if len(rows) and name in ODD:
            rows = flip_signs(rows, space.layers, name, generator)
        if len(rows) and name in HOMOGENEOUS:
            rows = rescale(rows, space.layers, name, generator=generator)
        parts[mine] = rows
    return parts
