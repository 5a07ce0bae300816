"""Layers that keep what flows past them, and add it to what flows later: connections over any layers, also overlapping
ones, between images of different numbers of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from zoo_datasets.errors import LayerError
from zoo_datasets.networks.layers.base import Weightless
from zoo_datasets.networks.layers.passes import ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$", max_length=200)]

Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Remember(Weightless):
    """Keeps x, which goes on unchanged, for `AddRemembered` layers of the same key.

    Attributes:
        key: by which it is asked for; each at most once in a network.
    """

    key: Key

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """x itself, of any shape."""
        modules.remembered[self.key] = x
        return x

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """x itself, of any shape."""
        state.remembered[self.key] = x
        return x

    def subsamples(self) -> bool:
        """False: it computes nothing."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream, which is kept; a normalisation that follows is not one of all that reads it."""
        walk.remembered[self.key] = stream
        walk.branch()
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes, which are kept."""
        walk.remembered[self.key] = nodes
        return nodes

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists are chains."""


@dataclass(frozen=True, slots=True)
class AddRemembered(Weightless):
    """x + what a `Remember` kept. Of images, the first channels that both have are added, the rest of x stays as it is;
    heights and widths must be equal, and of vectors the lengths.

    Attributes:
        key: of the layer that kept it, which comes before in forward order.
    """

    key: Key

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """[B, C, H, W], or [B, F], of the shape of x."""
        return _sum(x, _kept(self.key, modules.remembered), self.key)

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """Images [B, K · C, H, W], of each member its first channels, or [K, B, F], of the shape of x."""
        kept = _kept(self.key, state.remembered)
        if x.ndim != 4 or x.shape == kept.shape:
            return _sum(x, kept, self.key)
        batch, _, height, width = x.shape
        apart = [images.reshape(batch * state.members, -1, *images.shape[2:]) for images in (x, kept)]
        together = _sum(apart[0], apart[1], self.key).reshape(batch, -1, height, width)
        return together.contiguous(memory_format=torch.channels_last)

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream: the channels that both sides have are in one order, which the further ones of the wider side
        keep among themselves."""
        walk.tie(stream, _kept(self.key, walk.remembered))
        return stream

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """The same nodes, at which what was kept arrives along edges of the identity, one for each channel that both
        have."""
        kept = _kept(self.key, walk.remembered)
        count = min(kept.count, nodes.count)
        walk.add_identity(GraphNodes(kept.start, count), GraphNodes(nodes.start, count))
        return nodes

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists are chains."""


def _kept(key: str, remembered: Mapping[str, Kept]) -> Kept:
    if key not in remembered:
        raise LayerError(f"nothing was remembered as {key!a} before it is added; put a Remember of this key before it")
    return remembered[key]


def _sum(x: Tensor, kept: Tensor, key: str) -> Tensor:
    """x plus the channels of what was kept that x has too; all else of x as it is."""
    if x.shape == kept.shape:
        return x + kept
    if x.ndim != 4 or kept.ndim != 4 or x.shape[2:] != kept.shape[2:]:
        raise LayerError(
            f"what was remembered as {key!a} has the shape {list(kept.shape[1:])}, and is added to "
            f"{list(x.shape[1:])}; expected images of one height and width, or vectors of one length"
        )
    count = min(x.shape[1], kept.shape[1])
    return torch.cat([x[:, :count] + kept[:, :count], x[:, count:]], dim=1)
