"""Layers that treat every number alike: activations, dropout, and flattening, which moves none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_datasets.networks.layers.base import Weightless
from zoo_datasets.networks.layers.passes import Activation, ModuleBuild, ModulePass, StackedPass, as_vectors
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream

ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
}


@dataclass(frozen=True, slots=True)
class Activate(Weightless):
    """The member's activation."""

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """The activation of each number of x, of any shape."""
        return modules.activation(x)

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """The activation of each number of x, of any shape."""
        return state.activate(x)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream: each channel stays in its place; whoever scales it asks which activation it is."""
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, of a module without weights."""
        return (None,)


@dataclass(frozen=True, slots=True)
class Dropout(Weightless):
    """Element-wise dropout at the member's rate; no layer at all where the rate is 0."""

    def build(self, modules: ModuleBuild) -> None:
        """Add an `nn.Dropout` at the member's rate."""
        modules.add_dropout(nn.Dropout(modules.dropout))

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """A tensor of the shape of x with some numbers zero and the others scaled, in training mode alone."""
        out: Tensor = next(modules.dropouts)(x)
        return out

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """A tensor of the shape of x, with a mask of its own for each member."""
        return state.drop(x)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream: each channel stays in its place."""
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, of a module without weights; no place where there is no dropout."""
        return (None,) if dropout else ()


@dataclass(frozen=True, slots=True)
class Flatten(Weightless):
    """[…, C, H, W] to […, C·H·W]."""

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """[B, C, H, W] to [B, C·H·W]."""
        return x.flatten(1)

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """[B, K·C, H, W] to [K, B, C·H·W]."""
        return as_vectors(x, state.members)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream: a channel becomes a block of numbers; the layer that reads it knows how many."""
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, of a module without weights."""
        return (None,)
