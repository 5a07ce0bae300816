"""Weights as lists of weights and biases, as networks on weight spaces take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_datasets.adapters.matrices import _check, _layers
from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.layout import WeightLayout


def to_weight_lists(weights: Tensor, layout: WeightLayout) -> tuple[list[Tensor], list[Tensor]]:
    """Neural functional networks' form (Zhou et al.: Permutation equivariant neural functionals, NeurIPS 2023): for
    each layer its weights [B, 1, out, in, …] and its biases [B, 1, out]; views of `weights`.

    Raises:
        LayoutError: if the weights are not [B, D], or a layer is not one weight and one bias.
    """
    _check(weights, layout)
    tensors = layout.unflatten(weights)
    pairs = _pairs(layout)
    return [tensors[weight][:, None] for weight, _ in pairs], [tensors[bias][:, None] for _, bias in pairs]


def from_weight_lists(matrices: Sequence[Tensor], biases: Sequence[Tensor], layout: WeightLayout) -> Tensor:
    """The weights [B, D] of such lists, in their dtype.

    Raises:
        LayoutError: if they do not fit the layout.
    """
    pairs = _pairs(layout)
    if not len(matrices) == len(biases) == len(pairs):
        raise LayoutError(f"got {len(matrices)} weights and {len(biases)} biases, expected {len(pairs)} of each")
    parts = []
    for names, matrix, vector in zip(pairs, matrices, biases, strict=True):
        for name, tensor in zip(names, (matrix, vector), strict=True):
            spec = next(spec for spec in layout.tensors if spec.name == name)
            if tensor.ndim < 2 or tensor.shape[1] != 1 or tensor.shape[2:] != spec.shape:
                raise LayoutError(f"{name} is {list(tensor.shape)}, expected [B, 1, {', '.join(map(str, spec.shape))}]")
            parts.append(tensor.flatten(1))
    return torch.cat(parts, dim=1)


def _pairs(layout: WeightLayout) -> list[tuple[str, str]]:
    pairs = []
    for layer, specs in _layers(layout).items():
        if [spec.name for spec in specs] != [f"{layer}.weight", f"{layer}.bias"] or len(specs[0].shape) < 2:
            raise LayoutError(
                f"layer {layer!r} holds {', '.join(spec.name for spec in specs)}; lists of weights and biases are for "
                "networks of convolutions and linear layers with biases"
            )
        pairs.append((specs[0].name, specs[1].name))
    return pairs
