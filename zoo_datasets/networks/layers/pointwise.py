"""Layers that treat every number alike: activations, sines, constants, dropout, and flattening, which moves none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from zoo_datasets.networks.layers.base import Weightless
from zoo_datasets.networks.layers.passes import Activation, ModuleBuild, ModulePass, StackedPass, as_vectors, pointwise
from zoo_datasets.networks.layers.walks import MEMBERS, SHIFT, SINE, ChannelWalk, GraphNodes, GraphWalk, Stream

ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "leaky_relu": functional.leaky_relu,  # of slope 0.01, torch's default
    "elu": functional.elu,
    "selu": functional.selu,
    "none": lambda x: x,
}


def _known(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation of that name; known are {', '.join(ACTIVATIONS)}")
    return name


ActivationName = Annotated[str, AfterValidator(_known)]
Frequency = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Activate(Weightless):
    """The member's activation, or one of its own.

    Attributes:
        activation: a name of `ACTIVATIONS`; None for the member's.
    """

    activation: ActivationName | None = None

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """The activation of each number of x, of any shape."""
        return modules.activation(x) if self.activation is None else ACTIVATIONS[self.activation](x)

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """The activation of each number of x, of any shape."""
        return state.activate(x) if self.activation is None else pointwise(ACTIVATIONS[self.activation], x)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream: each channel stays in its place; whoever scales it asks which activation it is."""
        stream.root().functions.append(MEMBERS if self.activation is None else self.activation)
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, of a module without weights."""
        return (None,)


@dataclass(frozen=True, slots=True)
class Sine(Weightless):
    """sin(ω x), the activation of sinusoidal networks (Sitzmann et al.: Implicit Neural Representations with Periodic
    Activation Functions, 2020).

    Attributes:
        omega: ω, which the paper calls ω₀.
    """

    omega: Frequency = 30.0

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """The sine of ω times each number of x, of any shape."""
        return torch.sin(self.omega * x)

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """The sine of ω times each number of x, of any shape."""
        return pointwise(torch.sin, self.omega * x)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream: each channel stays in its place."""
        stream.root().functions.append(SINE)
        stream.root().frequencies.append(self.omega)
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists have no sines."""


@dataclass(frozen=True, slots=True)
class Shift(Weightless):
    """x plus a constant, such as the 0.5 that networks of images in [0, 1] add to their output."""

    amount: float

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """A tensor of the shape of x."""
        return x + self.amount

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """A tensor of the shape of x."""
        return x + self.amount

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream, whose channels can no longer be scaled."""
        stream.root().functions.append(SHIFT)
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists have no such layer."""


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
        """The same channels: each becomes a row of numbers; the layer that reads them knows how many."""
        return walk.flatten(stream)

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes: it has no weights, and changes no order."""
        return nodes

    def raw_places(self, dropout: bool) -> tuple[str | None, ...]:
        """One place, of a module without weights."""
        return (None,)
