"""What is zero in networks: masks and sparsity of weight vectors, and how far twins agree with their parents.

A prunable weight is one of a convolution or a linear layer; biases and normalisation do not count, as in the
published ratios.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_datasets.networks.layout import WeightLayout


def prunable(layout: WeightLayout) -> Tensor:
    """Which entries of a weight vector count: bool [D]."""
    return torch.cat([torch.full((spec.size,), len(spec.shape) > 1) for spec in layout.tensors])


def masks(weights: Tensor, layout: WeightLayout) -> dict[str, Tensor]:
    """Which weights act, of each convolution and linear layer: bool, by tensor name, [K, *shape] of weights [K, D]."""
    named = layout.unflatten(weights)
    return {spec.name: named[spec.name] != 0 for spec in layout.tensors if len(spec.shape) > 1}


def sparsity(weights: Tensor, layout: WeightLayout) -> Tensor:
    """Share of prunable weights that are zero: float32 [K] of weights [K, D]."""
    return (weights[:, prunable(layout)] == 0).to(torch.float32).mean(dim=1)


def layer_sparsity(weights: Tensor, layout: WeightLayout) -> dict[str, Tensor]:
    """The same for each convolution and linear layer: float32 [K], by tensor name."""
    return {name: 1 - kept.flatten(1).to(torch.float32).mean(dim=1) for name, kept in masks(weights, layout).items()}
