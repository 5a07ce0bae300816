"""What a kind of layer is: a frozen dataclass with a method for each rule that the rest of the package asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NoReturn

from pydantic import Field
from torch import Tensor

from zoo_datasets.errors import LayerError
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream
from zoo_datasets.networks.layout import TensorKind

DRAWN: Final = None
"""The start of a tensor that the member's initialisation draws."""

# Types of the fields of kinds, with the bounds of what a document may say.
INPUTS: Final = "as many as the layer before it gives"
Width = Annotated[int, Field(ge=1, le=1 << 30)]
InputWidth = Annotated[Width, INPUTS]
Extent = Annotated[int, Field(ge=1, le=1 << 12)]
Margin = Annotated[int, Field(ge=0, le=1 << 12)]

# Each rule, a method of `Layer`, and who asks for it.
RULES: Final[Mapping[str, str]] = {
    "tensors": "weight layouts and initial weights",
    "sublayers": "walks through the layers inside it",
    "build": "modules",
    "forward": "the forward pass of modules",
    "stacked": "the forward pass of stacks",
    "subsamples": "the engine paths",
    "walk_channels": "symmetries",
    "noise_bounds": "variational dropout",
    "inputs": "the input nodes of graphs",
    "walk_graph": "graphs",
    "reads_out": "predictions and representations",
    "raw_places": "the module lists of raw zoos",
}


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """A tensor of a layer.

    Attributes:
        name: in state dicts, `conv1.weight`.
        start: its constant value at epoch 0; `DRAWN` where the member's initialisation draws it, with all axes but
            the first as fan in.
    """

    name: str
    shape: tuple[int, ...]
    kind: TensorKind = "parameter"
    start: float | None = DRAWN


class Layer:
    """A layer of a network. Kinds are frozen dataclasses, equal where their fields are.

    A rule that a kind does not have raises `LayerError`. One for which a kind does nothing returns its argument.

    Attributes:
        stem: what layers of the kind are named by where they are given no name, `conv` for `conv1`; "" for the kind's.
    """

    __slots__ = ()
    stem: ClassVar[str] = ""

    def tensors(self) -> tuple[LayerTensor, ...]:
        """Its own tensors in the order of torch's state dict; none of its sub-layers."""
        no_rule(self, "tensors")

    def sublayers(self) -> tuple[Layer, ...] | None:
        """The layers that it is made of, in the order of the layout; None where it is not made of layers."""
        no_rule(self, "sublayers")

    def build(self, modules: ModuleBuild) -> None:
        """Add its module, whose state dict has the names and shapes of `tensors`."""
        no_rule(self, "build")

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """What one member makes of x: [B, C, H, W] or [B, F]."""
        no_rule(self, "forward")

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """What K members make of x: [B, K · C, H, W], channels last in memory, or [K, B, F].

        The arithmetic of a member may depend neither on its place in the stack nor on the other members.
        """
        no_rule(self, "stacked")

    def subsamples(self) -> bool:
        """Whether `stacked` rounds otherwise on the CPU for a member alone than versions before did: another path."""
        no_rule(self, "subsamples")

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """Note which axes of its tensors run over the channels of `stream`; returns the stream that leaves it.

        A layer after which channels cannot be permuted, scaled or flipped says so in the stream.
        """
        no_rule(self, "walk_channels")

    def noise_bounds(self) -> dict[str, float]:
        """Its tensors that have noise in variational dropout, by name, each with the bound that clamps its log α."""
        no_rule(self, "noise_bounds")

    def inputs(self) -> int | None:
        """How many channels or features it reads; None where it takes any number."""
        no_rule(self, "inputs")

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """Add its nodes, edges and features after `nodes`; returns the nodes that leave it."""
        no_rule(self, "walk_graph")

    def reads_out(self) -> bool:
        """Whether, as the last one of a network, it reads logits out of a representation [K, B, F]."""
        no_rule(self, "reads_out")

    def raw_places(self, dropout: bool) -> tuple[str | None, ...] | None:
        """Its places in the module list of the authors' raw zoos: for each the layer's name, or None for a module
        without weights. None where such a list cannot hold it.

        Args:
            dropout: whether dropout layers are in the list.
        """
        no_rule(self, "raw_places")


class Weightless(Layer):
    """A layer without tensors: nothing to build, to draw or to give noise to."""

    __slots__ = ()

    def tensors(self) -> tuple[LayerTensor, ...]:
        """An empty tuple: it has no weights."""
        return ()

    def sublayers(self) -> None:
        """None: this layer holds no others."""

    def build(self, modules: ModuleBuild) -> None:
        """Add nothing: there is nothing to store."""

    def noise_bounds(self) -> dict[str, float]:
        """An empty dictionary: noise belongs to weights."""
        return {}

    def inputs(self) -> None:
        """None: it takes any number of channels or features."""

    def reads_out(self) -> bool:
        """False: it is never the last layer, which gives the logits."""
        return False


def no_rule(layer: object, rule: str) -> NoReturn:
    """Raise the error of a layer that has no such rule."""
    kind = type(layer).__name__
    raise LayerError(
        f"{kind} layers have no rule for {RULES[rule]}; write the method {rule} of the class {kind} "
        "(zoo_datasets.networks.layers.base.Layer says what it returns), or use networks without such layers"
    )
