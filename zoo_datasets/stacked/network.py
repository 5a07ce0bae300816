"""Forward pass of a stack of members in plain PyTorch: grouped convolutions and batched matrix products.

A stack is computed in blocks of `LANES` members, the last one padded, and everywhere in a block the
arithmetic of a member is the same whatever its place and its neighbours. So a member's result does not
depend on its cohort. (Measured, and held by a test; a library that broke it would fail the test.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.networks.layers import ACTIVATIONS, Layer, build_layout, checked, flat_layers
from zoo_datasets.networks.layers.chain import follow_stacked
from zoo_datasets.networks.layers.module import module_of
from zoo_datasets.networks.layers.passes import VECTOR_LOOP, Masks, Noise, StackedPass, side_by_side

__all__ = ["LANES", "VECTOR_LOOP", "Masks", "Noise", "StackedNetwork", "lanes_of", "subsamples"]

LANES = 16
# Above so many weights members are computed one at a time: a stack of them would take gigabytes. Whether a small
# stack were faster was not measured.
_LARGE = 100_000


def lanes_of(layers: Sequence[Layer]) -> int:
    """How many members a block of these layers has: fixed for an architecture, so that results are."""
    module = module_of(layers)
    alone = module is not None and module.alone
    return LANES if build_layout(layers).size <= _LARGE and not alone else 1


def subsamples(layers: Sequence[Layer]) -> bool:
    """Whether strided 1 × 1 convolutions of these layers are computed on subsampled images on the CPU.

    Their gradients are rounded otherwise than by the strided convolutions, which earlier versions took.
    """
    return lanes_of(layers) == 1 and any(layer.subsamples() for layer in flat_layers(layers))


class StackedNetwork:
    """K networks of the same layers and activation as one function."""

    def __init__(self, layers: Sequence[Layer], activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise UnknownNameError("activation", activation, ACTIVATIONS)
        self.layers = checked(layers)
        self._activation = ACTIVATIONS[activation]

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        images: Tensor,
        *,
        training: bool = False,
        masks: Masks | None = None,
        noise: Noise | None = None,
        generators: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits [K, B, classes].

        Args:
            tensors: the stacked weights by name, each [K, …]; BatchNorm's running statistics are updated
                in place where `training`.
            images: normalised, [K, B, C, H, W], or [B, C, H, W] shared by all members; of networks that read vectors,
                such as coordinates, [K, B, F] or [B, F].
            masks: (number of the dropout layer, B · units) to the scaled keep-mask [K, B · units]; None
                for no dropout.
            noise: by the local reparameterisation, outputs of layers with weights are drawn from a normal
                distribution with the mean of the weights and the variance that squared inputs give.
            generators: seeds of torch's generator, one a member, for networks that draw by themselves.
        """
        members = next(iter(tensors.values())).shape[0]
        # Images of a stack are held as [B, K·C, H, W], channels last in memory: torch's pooling and grouped
        # convolutions are twice as fast on them. Vectors are held as [K, B, F].
        vectors = images.ndim <= 3
        x = images.expand(members, *images.shape[-2 if vectors else -4 :])
        x = x if vectors else side_by_side(x)
        state = StackedPass(tensors, members, self._activation, training, masks, noise, generators)
        return follow_stacked(self.layers, x, state)


def values_at(layers: Sequence[Layer], weights: Tensor, points: Tensor) -> Tensor:
    """What K networks of coordinates give at N points, in one stacked pass: [K, N, C] in the dtype of the weights.

    Args:
        layers: without a member's activation.
        weights: [K, D] in the order of the layers.
        points: [N, inputs] of the same dtype.
    """
    tensors = build_layout(layers).unflatten(weights)
    with torch.no_grad():
        return StackedNetwork(layers, next(iter(ACTIVATIONS)))(tensors, points)
