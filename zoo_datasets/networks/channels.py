"""Which channels of a network can be permuted, and which tensors they run through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zoo_datasets.networks.layers import BatchNorm, Conv, Layer, Linear, MaxPool, Residual


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


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can be reordered together: the same order in every use.

    Attributes:
        name: the first layer that makes them.
        pooled: whether they are max-pooled, which a change of sign does not survive.
    """

    name: str
    channels: int
    uses: tuple[Use, ...]
    pooled: bool


@dataclass(slots=True)
class _Stream:
    """A group while the layers are walked through."""

    name: str
    channels: int
    uses: list[Use] = field(default_factory=list)
    pooled: bool = False
    fixed: bool = False
    joined: _Stream | None = None

    def root(self) -> _Stream:
        return self if self.joined is None else self.joined.root()


def permutations(layers: Sequence[Layer]) -> tuple[Group, ...]:
    """The groups of channels of a network that can be permuted, inputs and outputs left out.

    The channels of a residual stream are one group: a sum needs the same order on both sides.
    """
    streams: list[_Stream] = []
    images = _Stream("images", 0, fixed=True)
    outputs = _walk(tuple(layers), images, streams)
    outputs.root().fixed = True
    groups = [stream for stream in streams if stream.joined is None and not stream.fixed]
    return tuple(Group(group.name, group.channels, tuple(group.uses), group.pooled) for group in groups)


def _walk(layers: tuple[Layer, ...], stream: _Stream, streams: list[_Stream]) -> _Stream:
    """Follow the channels through layers; gives the stream that leaves them."""
    made: list[int] = []  # uses of the last layer that made this stream: a normalisation takes their scale
    for layer in layers:
        here = stream.root()
        match layer:
            case Conv() | Linear():
                conv = isinstance(layer, Conv)
                channels = layer.out_channels if isinstance(layer, Conv) else layer.out_features
                inputs = layer.in_channels if isinstance(layer, Conv) else layer.in_features
                block = 1 if conv or here.fixed else inputs // here.channels
                here.uses.append(Use(f"{layer.name}.weight", 1, block, -1))
                stream = _Stream(layer.name, channels)
                streams.append(stream)
                stream.uses.append(Use(f"{layer.name}.weight", 0, 1, 1))
                if not isinstance(layer, Conv) or layer.bias:
                    stream.uses.append(Use(f"{layer.name}.bias", 0, 1, 1))
                made = list(range(len(stream.uses)))
            case BatchNorm():
                for index in made:
                    use = here.uses[index]
                    here.uses[index] = Use(use.tensor, use.axis, use.block, 0)
                start = len(here.uses)
                here.uses += [Use(f"{layer.name}.{part}", 0, 1, 1) for part in ("weight", "bias")]
                made = [start, start + 1]
                here.uses += [Use(f"{layer.name}.running_{part}", 0, 1, 0) for part in ("mean", "var")]
            case MaxPool():
                here.pooled = True
            case Residual():
                body = _walk(layer.body, stream, streams)
                shortcut = _walk(layer.shortcut, stream, streams)
                stream = _join(shortcut.root(), body.root())
                made = []
            case _:
                pass
    return stream


def _join(first: _Stream, second: _Stream) -> _Stream:
    if first is not second:
        first.uses += second.uses
        first.pooled |= second.pooled
        first.fixed |= second.fixed
        second.joined = first
    return first
