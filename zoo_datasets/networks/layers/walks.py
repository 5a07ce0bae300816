"""What layers are handed by those who follow the channels of a network: symmetries and graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

# Of `Stream.functions`, besides names of activations.
MEMBERS: Final = ""
"""The member's activation."""
SINE: Final = "sine"
SHIFT: Final = "shift"


@dataclass(frozen=True, slots=True)
class Use:
    """An axis of a tensor that runs over the channels of a group.

    Attributes:
        axis: 0 or 1.
        block: entries of the axis for each channel: height · width where a linear layer reads flattened images.
        power: if a channel is multiplied by a, then these weights by a to this power: 1 where they make the
            channel, −1 where they read it, 0 where a normalisation follows or statistics are meant.
    """

    tensor: str
    axis: int
    block: int
    power: int


@dataclass(slots=True, eq=False)
class Stream:
    """The channels that flow between layers, while these are walked through.

    Attributes:
        name: the first layer that makes them.
        channels: how many; 0 for the images'.
        width: of a root, the channels of the widest of all streams that are part of it.
        bounds: of a root, the numbers of channels of all streams that are part of it: the order of so many first ones
            is one of their own.
        functions: what each number of them passes through: names of activations, `MEMBERS`, `SINE`, `SHIFT`.
        frequencies: ω of each sine among these.
        pooled: whether they are max-pooled, which a change of sign does not survive.
        fixed: whether they must keep their order, as the network's inputs and outputs must.
        joined: the stream that this one became part of, as its channels have one order.
        flat: whether a channel is a row of numbers by now.
    """

    name: str
    channels: int
    uses: list[Use] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    frequencies: list[float] = field(default_factory=list)
    pooled: bool = False
    fixed: bool = False
    joined: Stream | None = None
    flat: bool = False
    width: int = field(init=False)
    bounds: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.width = self.channels

    def root(self) -> Stream:
        """The stream that it is part of by now; what is noted of the channels is noted there."""
        return self if self.joined is None else self.joined.root()


@dataclass(slots=True)
class ChannelWalk:
    """All streams of a network.

    Attributes:
        makers: places in the current stream's uses of the tensors of the layer that made it last, on this branch: a
            normalisation takes their scale away.
        remembered: streams that layers kept for later ones, by key.
    """

    streams: list[Stream] = field(default_factory=list)
    makers: list[int] = field(default_factory=list)
    remembered: dict[str, Stream] = field(default_factory=dict)

    def weights(self, name: str, channels: int, inputs: int, bias: bool, stream: Stream) -> Stream:
        """A layer with a weight [channels, inputs, …], and a bias [channels] or none, reads a stream; returns what it
        makes."""
        source = stream.root()
        block = 1 if source.fixed else inputs // stream.channels
        source.uses.append(Use(f"{name}.weight", 1, block, -1))
        stream_out = Stream(name, channels)
        self.streams.append(stream_out)
        stream_out.uses += [Use(f"{name}.{part}", 0, 1, 1) for part in (("weight", "bias") if bias else ("weight",))]
        self.makers = list(range(len(stream_out.uses)))
        return stream_out

    def normalise(self, stream: Stream, scaling: list[str], statistics: list[str]) -> None:
        """Channels are normalised one by one, then scaled and shifted by some tensors; others are their statistics."""
        uses = stream.root().uses
        for index in self.makers:
            uses[index] = Use(uses[index].tensor, uses[index].axis, uses[index].block, 0)
        self.makers = list(range(len(uses), len(uses) + len(scaling)))
        uses += [Use(tensor, 0, 1, 1) for tensor in scaling]
        uses += [Use(tensor, 0, 1, 0) for tensor in statistics]

    def branch(self) -> None:
        """Another branch begins, or one ends: what made the channels lies on none or on both."""
        self.makers = []

    def join(self, first: Stream, second: Stream) -> Stream:
        """A sum needs the same order on both sides: two streams become one."""
        self.tie(first, second)
        return first

    def tie(self, first: Stream, second: Stream) -> None:
        """The channels that two streams both have, the first ones of the wider, get one order; the further ones keep to
        themselves. Rows of numbers are tied only where both sides have as many channels."""
        root, other = first.root(), second.root()
        self.branch()
        if first.channels != second.channels:
            root.fixed |= first.flat or second.flat
        if root is not other:
            root.uses += other.uses
            root.functions += other.functions
            root.frequencies += other.frequencies
            root.pooled |= other.pooled
            root.fixed |= other.fixed
            root.bounds |= {*other.bounds, root.width, other.width}
            root.width = max(root.width, other.width)
            other.joined = root

    def flatten(self, stream: Stream) -> Stream:
        """The same channels, each a row of numbers from now on."""
        return Stream(stream.name, stream.channels, joined=stream.root(), flat=True)


@dataclass(frozen=True, slots=True)
class GraphNodes:
    """The nodes of one layer: `count` of them from number `start` on."""

    start: int
    count: int


class GraphWalk(Protocol):
    """The nodes and edges of a network's graph, while its layers are walked through.

    Attributes:
        remembered: nodes that layers kept for later ones, by key.
    """

    remembered: dict[str, GraphNodes]

    def add_weights(self, name: str, bias: bool, nodes: GraphNodes) -> GraphNodes:
        """A node for each output of a layer with the tensors `name.weight` [outputs, inputs, …] and `name.bias`, and
        an edge to it from each of `nodes`.

        Raises:
            LayoutError: if the inputs are neither numbers nor square images of the nodes.
        """

    def add_features(self, nodes: GraphNodes, features: Mapping[str, str]) -> None:
        """Tensors, one number a node, as further features of nodes: the feature's name to the tensor's."""

    def add_identity(self, nodes: GraphNodes, into: GraphNodes) -> None:
        """An edge from each node to its counterpart that passes its value on, for a sum."""
