"""Weights as one matrix a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.layout import TensorSpec, WeightLayout


def to_matrices(weights: Tensor, layout: WeightLayout) -> dict[str, Tensor]:
    """A matrix for each layer: [B, channels, numbers of a row].

    Raises:
        LayoutError: if the weights are not [B, D].
    """
    _check(weights, layout)
    tensors = layout.unflatten(weights)
    return {
        layer: torch.cat([tensors[spec.name].flatten(2) if spec.shape[1:] else tensors[spec.name][..., None]
                          for spec in specs], dim=2)
        for layer, specs in _layers(layout).items()
    }  # fmt: skip


def from_matrices(matrices: Mapping[str, Tensor], layout: WeightLayout) -> Tensor:
    """The weights [B, D] of the matrices of all layers.

    Raises:
        LayoutError: if a layer is missing or has another shape.
    """
    state = {}
    for layer, specs in _layers(layout).items():
        if layer not in matrices:
            raise LayoutError(f"layer {layer!r} is missing")
        widths = [spec.size // spec.shape[0] for spec in specs]
        if matrices[layer].shape[1:] != (specs[0].shape[0], sum(widths)):
            shape = list(matrices[layer].shape)
            raise LayoutError(f"layer {layer!r} has shape {shape}, expected [B, {specs[0].shape[0]}, {sum(widths)}]")
        for spec, part in zip(specs, torch.split(matrices[layer], widths, dim=2), strict=True):
            state[spec.name] = part.reshape(len(part), *spec.shape)
    return torch.cat([state[spec.name].flatten(1) for spec in layout.tensors], dim=1)


def _check(weights: Tensor, layout: WeightLayout) -> None:
    if weights.ndim != 2 or weights.shape[1] != layout.size:
        raise LayoutError(f"weights have shape {list(weights.shape)}, expected [B, {layout.size}]")


def _layers(layout: WeightLayout) -> dict[str, list[TensorSpec]]:
    layers: dict[str, list[TensorSpec]] = {}
    for spec in layout.tensors:
        layers.setdefault(spec.name.rpartition(".")[0], []).append(spec)
    return layers
