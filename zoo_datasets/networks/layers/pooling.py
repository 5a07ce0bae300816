"""Layers that pool images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from zoo_datasets.networks.layers.base import Extent, Weightless
from zoo_datasets.networks.layers.passes import ModulePass, StackedPass, as_vectors
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream


class Pooling(Weightless):
    """A layer that pools each channel by itself: all rules but the passes, and what it does to a stream's marks."""

    __slots__ = ()

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
        """One place, of a module without weights."""
        return (None,)


class WindowPooling(Pooling):
    """Pooling of windows, stride equal to the kernel; kinds say by which function."""

    __slots__ = ()
    pool: ClassVar[Callable[[Tensor, int], Tensor]]
    kernel: Extent

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """[B, C, H, W] to [B, C, H // kernel, W // kernel]."""
        return type(self).pool(x, self.kernel)

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """Images [B, K · C, H, W] to [B, K · C, H // kernel, W // kernel]."""
        return type(self).pool(x, self.kernel)


@dataclass(frozen=True, slots=True)
class MaxPool(WindowPooling):
    """Max-pooling, stride equal to the kernel."""

    pool: ClassVar[Callable[[Tensor, int], Tensor]] = staticmethod(functional.max_pool2d)

    kernel: Extent = 2

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """The same stream, marked as pooled: a maximum is another one when signs flip."""
        stream.root().pooled = True
        return stream


@dataclass(frozen=True, slots=True)
class AveragePool(WindowPooling):
    """Average pooling, stride equal to the kernel."""

    pool: ClassVar[Callable[[Tensor, int], Tensor]] = staticmethod(functional.avg_pool2d)

    kernel: Extent = 2


@dataclass(frozen=True, slots=True)
class GlobalAveragePool(Pooling):
    """[…, C, H, W] to […, C]."""

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """[B, C, H, W] to [B, C]."""
        return x.mean(dim=(2, 3))

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """[B, K·C, H, W] to [K, B, C]."""
        return as_vectors(x.mean(dim=(2, 3)), state.members)
