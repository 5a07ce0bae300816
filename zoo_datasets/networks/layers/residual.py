"""Layers that are made of layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from zoo_datasets.errors import LayerError
from zoo_datasets.networks.layers.base import Layer, LayerTensor
from zoo_datasets.networks.layers.chain import (
    checked,
    follow_channels,
    follow_forward,
    follow_graph,
    follow_stacked,
    inputs_of,
)
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream


@dataclass(frozen=True, slots=True)
class Residual(Layer):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        checked(self.sublayers())

    def tensors(self) -> tuple[LayerTensor, ...]:
        """An empty tuple: its layers have their own."""
        return ()

    def sublayers(self) -> tuple[Layer, ...]:
        """The body, then the shortcut."""
        return (*self.body, *self.shortcut)

    def build(self, modules: ModuleBuild) -> None:
        """Add nothing: its layers add their own."""

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """The sum of body and shortcut, of the shape that the body gives."""
        shortcut = follow_forward(self.shortcut, x, modules)
        body = follow_forward(self.body, x, modules)
        if body.shape != shortcut.shape:  # torch would spread one over the other
            raise LayerError(
                f"the body of a residual block gives {list(body.shape[1:])}, its shortcut {list(shortcut.shape[1:])}; "
                "expected equal shapes"
            )
        return body + shortcut

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """The sum of body and shortcut, of the shape that the body gives."""
        shortcut = follow_stacked(self.shortcut, x, state)
        return follow_stacked(self.body, x, state) + shortcut

    def subsamples(self) -> bool:
        """Whether one of its layers does."""
        return any(layer.subsamples() for layer in self.sublayers())

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The streams of both sides become one."""
        body = follow_channels(self.body, walk, stream)
        shortcut = follow_channels(self.shortcut, walk, stream)
        return walk.join(shortcut, body)

    def noise_bounds(self) -> dict[str, float]:
        """An empty dictionary: its layers have their own."""
        return {}

    def inputs(self) -> int | None:
        """The number of channels or features that its first layers read."""
        return inputs_of(self.sublayers())

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The sum happens at the last nodes of the body."""
        into = follow_graph(self.body, walk, nodes)
        walk.add_identity(follow_graph(self.shortcut, walk, nodes), into)
        return into

    def reads_out(self) -> bool:
        """False: it is never the last layer, which gives the logits."""
        return False

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists have no blocks."""
