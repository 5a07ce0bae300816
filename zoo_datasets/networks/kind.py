"""Which network it is: the one value that says what a row, a run, a repository or a checkpoint holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.module import Network

KIND_COLUMNS: Final = ("architecture", "in_channels", "classes")
"""The columns of a row that tell its network."""


class ImageWidths(Protocol):
    """Anything that says of images how many channels and classes they have."""

    @property
    def channels(self) -> int: ...

    @property
    def classes(self) -> int: ...


@dataclass(frozen=True)
class NetworkKind:
    """An architecture for images of so many channels and classes.

    The fields are checked when the layers are first asked for, so that a kind can be read from any file: `layers`,
    `layout` and `module` raise UnknownNameError where there is no such architecture, and SpecError where a number is no
    whole one from 1 to `MAX_WIDTH`.
    """

    architecture: str
    in_channels: int
    classes: int

    @classmethod
    def on(cls, architecture: str, images: ImageWidths) -> NetworkKind:
        """The kind of an architecture whose input and output fit `images`."""
        return cls(architecture, images.channels, images.classes)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> NetworkKind:
        """The kind of a row; KeyError if it lacks one of `KIND_COLUMNS`."""
        return cls(*(row[name] for name in KIND_COLUMNS))

    def columns(self) -> dict[str, Any]:
        """Its fields by the names of `KIND_COLUMNS`."""
        return dataclasses.asdict(self)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the network, from the image to the logits; UnknownNameError or SpecError if there are none."""
        return get_architecture(self.architecture).layers(self.in_channels, self.classes)

    @cached_property
    def layout(self) -> WeightLayout:
        """Where each tensor lies in the flat weights [D]."""
        return build_layout(self.layers)

    def module(self, activation: str = "relu", dropout: float = 0.0) -> Network:
        """An `nn.Module` in float32 with fresh weights; see `build_module`."""
        return Network(self.layers, activation, dropout)
