"""Which channels of a network can be permuted, and which tensors they run through."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from zoo_datasets.networks.layers import Layer, checked
from zoo_datasets.networks.layers.chain import follow_channels
from zoo_datasets.networks.layers.walks import ChannelWalk, Stream, Use

__all__ = ["ChannelGroup", "Use", "permutations"]


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that can be reordered together: the same order in every use.

    Attributes:
        name: the first layer that makes them.
        channels: of the widest stream among them; others run over the first of them.
        functions, frequencies: what each number of them passes through, as of `Stream`.
        pooled: whether they are max-pooled, which a change of sign does not survive.
        bounds: numbers of channels, ascending; an order keeps the channels before each of them before it.
    """

    name: str
    channels: int
    uses: tuple[Use, ...]
    functions: tuple[str, ...]
    pooled: bool
    bounds: tuple[int, ...] = ()
    frequencies: tuple[float, ...] = ()

    def widths(self) -> list[int]:
        """How many channels lie between bounds, in order; their sum is `channels`."""
        edges = [0, *self.bounds, self.channels]
        return [stop - start for start, stop in itertools.pairwise(edges)]


def permutations(layers: Sequence[Layer]) -> tuple[ChannelGroup, ...]:
    """The groups of channels of a network that can be permuted, inputs and outputs left out.

    The channels of a residual stream are one group: a sum needs the same order on both sides. Where streams of
    different widths are added, their first channels are, and the further ones of the wider are a part of their own;
    those of several wide streams tied to one narrow one have one order too, though they need not.

    Raises:
        LayerError: if a layer has no rule for it.
    """
    walk = ChannelWalk()
    outputs = follow_channels(checked(layers), walk, Stream("images", 0, fixed=True))
    outputs.root().fixed = True
    groups = [stream for stream in walk.streams if stream.joined is None and not stream.fixed]
    return tuple(
        ChannelGroup(
            group.name,
            group.width,
            tuple(group.uses),
            tuple(group.functions),
            group.pooled,
            tuple(sorted(group.bounds - {group.width})),
            tuple(group.frequencies),
        )
        for group in groups
    )
