"""Layers that are affine maps with a weight and a bias: convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_datasets.networks.layers.base import Extent, InputWidth, Layer, LayerTensor, Margin, Width
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream

# Of every bias at epoch 0.
BIAS_START: Final = 0.01
# Of variational dropout: log α is clamped to ± these.
CONV_BOUND: Final = 8.0
LINEAR_BOUND: Final = 10.0


@dataclass(frozen=True, slots=True)
class Conv(Layer):
    """2-D convolution, square kernel."""

    name: str
    in_channels: InputWidth
    out_channels: Width
    kernel: Extent
    stride: Extent = 1
    padding: Margin = 0
    bias: bool = True

    def tensors(self) -> tuple[LayerTensor, ...]:
        """Weight [out, in, k, k], and bias [out] if it has one."""
        shape = (self.out_channels, self.in_channels, self.kernel, self.kernel)
        weight = LayerTensor(f"{self.name}.weight", shape)
        bias = LayerTensor(f"{self.name}.bias", (self.out_channels,), start=BIAS_START)
        return (weight, bias) if self.bias else (weight,)

    def sublayers(self) -> None:
        """None: this layer holds no others."""

    def build(self, modules: ModuleBuild) -> None:
        """Add an `nn.Conv2d` under its name."""
        module = nn.Conv2d(self.in_channels, self.out_channels, self.kernel, self.stride, self.padding, bias=self.bias)
        modules.add(self.name, module)

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """Images [B, in, H, W] to [B, out, rows, columns]."""
        out: Tensor = modules.module(self.name)(x)
        return out

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """Images [B, K · in, H, W] to [B, K · out, rows, columns], by a group of the convolution for each member."""
        mean = self._convolved(x, state.tensors, state.members)
        return state.add_noise(mean, lambda noise: self._convolved(x * x, noise.variances, state.members))

    def _convolved(self, x: Tensor, tensors: Mapping[str, Tensor], members: int) -> Tensor:
        weight, bias = tensors[f"{self.name}.weight"], tensors.get(f"{self.name}.bias")
        flat = None if bias is None else bias.flatten()
        stride = self.stride
        if x.device.type == "cpu" and members == 1 and self.subsamples():
            x, stride = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last), 1
        return functional.conv2d(x, weight.flatten(0, 1), flat, stride, self.padding, groups=members)

    def subsamples(self) -> bool:
        """Whether torch's own convolution corrupts memory, so that one of the subsampled image takes its place.

        The backward pass of torch 2.13 does on processors with AVX2 but no AVX-512, for a 1 × 1 convolution of stride
        2 and one group with fewer than 8 channels, on memory with channels last. Wider ones and several groups do not.
        """
        return self.kernel == 1 and self.stride > 1 and not self.padding and self.in_channels < 8

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """Its output channels are a stream of their own."""
        return walk.weights(self.name, self.out_channels, self.in_channels, self.bias, stream)

    def noise_bounds(self) -> dict[str, float]:
        """The weight and the bias, with one bound for both."""
        return {tensor.name: CONV_BOUND for tensor in self.tensors()}

    def inputs(self) -> int:
        """The number of channels [C] of the images it reads."""
        return self.in_channels

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """A node for each output channel, an edge for each kernel."""
        return walk.add_weights(self.name, self.bias, nodes)

    def reads_out(self) -> bool:
        """False: it is never the last layer, which gives the logits."""
        return False

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, under its name."""
        return (self.name,)


@dataclass(frozen=True, slots=True)
class Linear(Layer):
    """Affine map of the last axis."""

    stem: ClassVar[str] = "fc"
    name: str
    in_features: InputWidth
    out_features: Width

    def tensors(self) -> tuple[LayerTensor, ...]:
        """Weight [out, in] and bias [out]."""
        return (
            LayerTensor(f"{self.name}.weight", (self.out_features, self.in_features)),
            LayerTensor(f"{self.name}.bias", (self.out_features,), start=BIAS_START),
        )

    def sublayers(self) -> None:
        """None: this layer holds no others."""

    def build(self, modules: ModuleBuild) -> None:
        """Add an `nn.Linear` under its name."""
        modules.add(self.name, nn.Linear(self.in_features, self.out_features))

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """Vectors [B, in] to [B, out]."""
        out: Tensor = modules.module(self.name)(x)
        return out

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """Vectors [K, B, in] to [K, B, out], by one batched matrix product."""
        mean = self._multiplied(x, state.tensors)
        return state.add_noise(mean, lambda noise: self._multiplied(x * x, noise.variances))

    def _multiplied(self, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        weight, bias = tensors[f"{self.name}.weight"], tensors.get(f"{self.name}.bias")
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias[:, None, :], x, weight.transpose(1, 2))

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """Its outputs are a stream of their own; a channel of the one it reads may be a whole image."""
        return walk.weights(self.name, self.out_features, self.in_features, True, stream)

    def noise_bounds(self) -> dict[str, float]:
        """The weight; the bias has no noise."""
        return {f"{self.name}.weight": LINEAR_BOUND}

    def inputs(self) -> int:
        """The number of features [F] it reads."""
        return self.in_features

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """A node for each output, an edge for each weight, or for each image of weights."""
        return walk.add_weights(self.name, True, nodes)

    def reads_out(self) -> bool:
        """True: a last linear layer reads the logits out of what the others make."""
        return True

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, under its name."""
        return (self.name,)
