"""Layers that normalise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from zoo_datasets.networks.layers.base import InputWidth, Layer, LayerTensor
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream


@dataclass(frozen=True, slots=True)
class BatchNorm(Layer):
    """2-D batch normalisation with torch's defaults (eps 1e-5, momentum 0.1)."""

    stem: ClassVar[str] = "bn"
    name: str
    channels: InputWidth

    def tensors(self) -> tuple[LayerTensor, ...]:
        """Weight and bias, running mean and variance: [channels] each."""
        shape = (self.channels,)
        return (
            LayerTensor(f"{self.name}.weight", shape, start=1.0),
            LayerTensor(f"{self.name}.bias", shape, start=0.0),
            LayerTensor(f"{self.name}.running_mean", shape, "buffer", start=0.0),
            LayerTensor(f"{self.name}.running_var", shape, "buffer", start=1.0),
        )

    def sublayers(self) -> None:
        """None: this layer holds no others."""

    def build(self, modules: ModuleBuild) -> None:
        """Add an `nn.BatchNorm2d` under its name."""
        modules.add(self.name, nn.BatchNorm2d(self.channels))

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """Images [B, channels, H, W] to images of the same shape."""
        out: Tensor = modules.module(self.name)(x)
        return out

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """Images [B, K · channels, H, W] to the same shape, by one normalisation of all members' channels."""
        tensors = state.tensors
        mean, variance = (tensors[f"{self.name}.running_{part}"].view(-1) for part in ("mean", "var"))
        weight, bias = (tensors[f"{self.name}.{part}"].flatten() for part in ("weight", "bias"))
        return functional.batch_norm(x, mean, variance, weight, bias, training=state.training)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """Its tensors are ordered as the channels are; the scale of what made these is lost."""
        scaling = [f"{self.name}.{part}" for part in ("weight", "bias")]
        walk.normalise(stream, scaling, [f"{self.name}.running_{part}" for part in ("mean", "var")])
        return stream

    def noise_bounds(self) -> dict[str, float]:
        """An empty dictionary: normalisation has no noise."""
        return {}

    def inputs(self) -> int:
        """The number of channels it normalises."""
        return self.channels

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """Its numbers are features of the nodes whose outputs it normalises."""
        parts = ("weight", "bias", "running_mean", "running_var")
        walk.add_features(nodes, {f"norm_{part}": f"{self.name}.{part}" for part in parts})
        return nodes

    def reads_out(self) -> bool:
        """False: it is never the last layer, which gives the logits."""
        return False

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists have no normalisation."""
