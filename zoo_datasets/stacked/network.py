"""Forward pass of a stack of members in plain PyTorch: grouped convolutions and batched matrix products.

A stack is computed in blocks of `LANES` members, the last one padded, and everywhere in a block the
arithmetic of a member is the same whatever its place and its neighbours. So a member's result does not
depend on its cohort. (Measured, and held by a test; a library that broke it would fail the test.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.networks.layers import (
    ACTIVATIONS,
    Activate,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Residual,
    build_layout,
    flat_layers,
)
from zoo_datasets.networks.variational import EPSILON

LANES = 16
# Above so many weights members are computed one at a time: a stack of them would take gigabytes. Whether a small
# stack were faster was not measured.
_LARGE = 100_000
# One vectorised loop of torch's CPU kernels; the rest of a tensor goes through other, scalar code.
VECTOR_LOOP = 64


Masks = Callable[[int, int], Tensor]


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of variational dropout.

    Attributes:
        variances: of the weights and biases that have noise, by name, [K, …].
        draw: (number of the layer among those with weights, batch, units) to standard normal numbers [K, batch, units].
    """

    variances: Mapping[str, Tensor]
    draw: Callable[[int, int, int], Tensor]


def lanes_of(layers: Sequence[Layer]) -> int:
    """How many members a block of these layers has: fixed for an architecture, so that results are."""
    return LANES if build_layout(layers).size <= _LARGE else 1


def subsamples(layers: Sequence[Layer]) -> bool:
    """Whether strided 1 × 1 convolutions of these layers are computed on subsampled images on the CPU.

    Their gradients are rounded otherwise than by the strided convolutions, which earlier versions took.
    """
    return lanes_of(layers) == 1 and any(map(_crashes, flat_layers(layers)))


@dataclass(slots=True)
class _Pass:
    """What one forward pass carries from layer to layer besides the activations."""

    tensors: Mapping[str, Tensor]
    members: int
    training: bool
    masks: Masks | None
    noise: Noise | None
    dropouts: int = 0
    weighted: int = 0


class StackedNetwork:
    """K networks of the same layers and activation as one function."""

    def __init__(self, layers: Sequence[Layer], activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise UnknownNameError("activation", activation, ACTIVATIONS)
        self.layers = tuple(layers)
        self._activation = ACTIVATIONS[activation]

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        images: Tensor,
        *,
        training: bool = False,
        masks: Masks | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """Logits [K, B, classes].

        Args:
            tensors: the stacked weights by name, each [K, …]; BatchNorm's running statistics are updated
                in place where `training`.
            images: normalised, [K, B, C, H, W], or [B, C, H, W] shared by all members.
            masks: (number of the dropout layer, B · units) to the scaled keep-mask [K, B · units]; None
                for no dropout.
            noise: by the local reparameterisation, outputs of layers with weights are drawn from a normal
                distribution with the mean of the weights and the variance that squared inputs give.
        """
        members = next(iter(tensors.values())).shape[0]
        # Images of a stack are held as [B, K·C, H, W], channels last in memory: torch's pooling and grouped
        # convolutions are twice as fast on them. Vectors are held as [K, B, F].
        x = _side_by_side(images.expand(members, *images.shape[-4:]))
        return self._run(self.layers, x, _Pass(tensors, members, training, masks, noise))

    def _run(self, layers: Sequence[Layer], x: Tensor, state: _Pass) -> Tensor:
        tensors, members = state.tensors, state.members
        for layer in layers:
            match layer:
                case Conv() | Linear():
                    x = self._weigh(layer, x, state)
                case BatchNorm():
                    mean, variance = (tensors[f"{layer.name}.running_{part}"].view(-1) for part in ("mean", "var"))
                    weight, bias = (tensors[f"{layer.name}.{part}"].flatten() for part in ("weight", "bias"))
                    x = functional.batch_norm(x, mean, variance, weight, bias, training=state.training)
                case MaxPool():
                    x = functional.max_pool2d(x, layer.kernel)
                case Activate():
                    x = self._activate(x)
                case Dropout():
                    if state.masks is not None:
                        x = x * _as(x, state.masks(state.dropouts, x.numel() // members), members)
                    state.dropouts += 1
                case Flatten():
                    x = x.reshape(len(x), members, -1).transpose(0, 1)
                case GlobalAveragePool():
                    x = x.mean(dim=(2, 3)).reshape(len(x), members, -1).transpose(0, 1)
                case Residual():
                    shortcut = self._run(layer.shortcut, x, state)
                    x = self._run(layer.body, x, state) + shortcut
        return x

    def _weigh(self, layer: Conv | Linear, x: Tensor, state: _Pass) -> Tensor:
        number, state.weighted = state.weighted, state.weighted + 1
        mean = _affine(layer, x, state.tensors, state.members)
        if state.noise is None:
            return mean
        variance = _affine(layer, x * x, state.noise.variances, state.members)
        if isinstance(layer, Linear):
            noise = state.noise.draw(number, mean.shape[1], mean.shape[2])
        else:
            units = mean[0].numel() // state.members
            noise = _as(mean, state.noise.draw(number, len(mean), units), state.members)
        return mean + torch.sqrt(variance + EPSILON) * noise

    def _activate(self, x: Tensor) -> Tensor:
        surplus = -x.numel() % VECTOR_LOOP
        if not surplus:
            return self._activation(x)
        # The end of a tensor that is no multiple of a vector takes scalar code with another rounding:
        # padded away, so that the last member of a block is computed as the first one is.
        padded = functional.pad(x.reshape(-1), (0, surplus))
        return self._activation(padded)[: x.numel()].view(x.shape)


def _affine(layer: Conv | Linear, x: Tensor, tensors: Mapping[str, Tensor], members: int) -> Tensor:
    """Weights times inputs plus bias, if there is one in `tensors`."""
    weight, bias = tensors[f"{layer.name}.weight"], tensors.get(f"{layer.name}.bias")
    if isinstance(layer, Conv):
        flat = None if bias is None else bias.flatten()
        stride = layer.stride
        if x.device.type == "cpu" and members == 1 and _crashes(layer):
            x, stride = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last), 1
        return functional.conv2d(x, weight.flatten(0, 1), flat, stride, layer.padding, groups=members)
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None, :], x, weight.transpose(1, 2))


def _crashes(layer: Layer) -> bool:
    """Whether torch's own convolution corrupts memory, so that one of the subsampled image takes its place.

    The backward pass of torch 2.13 does on processors with AVX2 but no AVX-512, for a 1 × 1 convolution of stride 2
    and one group with fewer than 8 channels, on memory with channels last. Wider ones and several groups do not.
    """
    if not isinstance(layer, Conv):
        return False
    return layer.kernel == 1 and layer.stride > 1 and not layer.padding and layer.in_channels < 8


def _as(x: Tensor, mask: Tensor, members: int) -> Tensor:
    """A mask [K, B · units] in the arrangement of x: [B, K·C, H, W] or [K, B, F]."""
    if x.ndim == 3:
        return mask.view(x.shape)
    batch, channels, height, width = x.shape
    return _side_by_side(mask.view(members, batch, channels // members, height, width))


def _side_by_side(images: Tensor) -> Tensor:
    """[K, B, C, H, W] as [B, K·C, H, W], channels last in memory."""
    members, batch, channels, height, width = images.shape
    last = images.permute(1, 3, 4, 0, 2).reshape(batch, height, width, members * channels).contiguous()
    return last.permute(0, 3, 1, 2)
