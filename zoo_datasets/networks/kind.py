"""Which network it is: the one value that says what a row, a run, a repository or a checkpoint holds."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

from torch import nn

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.networks.architectures import ARCHITECTURES, get_architecture, is_architecture
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layers.documents import layers_from_json, layers_to_json
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.module import module_of_layers
from zoo_datasets.networks.outlines import complete, sized
from zoo_datasets.specs.axes import NetworkChoice
from zoo_datasets.specs.spec import ZooSpec

KIND_COLUMNS: Final = ("architecture", "in_channels", "classes")
"""The columns of a row that tell its network."""

LAYERS: Final = "layers"
"""Where an architecture of one's own is recorded beside these."""

# Architectures of zoos of one's own that this process read of a run or a manifest, by the columns that rows tell.
_KNOWN: Final[dict[tuple[str, int, int], set[tuple[Layer, ...]]]] = {}
COORDINATES: Final = 2
"""What networks of pictures read: a column and a row."""


def is_field(architecture: str) -> bool:
    """Whether networks of an architecture of the table are fields, which read coordinates."""
    return is_architecture(architecture) and get_architecture(architecture).task == "field"


class ImageWidths(Protocol):
    """Anything that says of images how many channels and classes they have."""

    @property
    def channels(self) -> int: ...

    @property
    def classes(self) -> int: ...


class ImageShape(ImageWidths, Protocol):
    """And how many pixels a side."""

    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class NetworkKind:
    """An architecture for images of so many channels and classes.

    The fields are checked when the layers are first asked for, so that a kind can be read from any file: `layers`,
    `layout` and `module` raise UnknownNameError where there is no such architecture, and SpecError where a number is no
    whole one from 1 to `MAX_WIDTH`, or where several networks of one's own are known by this name.

    Attributes:
        own: the layers of an architecture that is not in the table; None where it is, or where they are not known.
    """

    architecture: str
    in_channels: int
    classes: int
    own: tuple[Layer, ...] | None = None

    @classmethod
    def on(cls, architecture: str, images: ImageWidths) -> NetworkKind:
        """The kind of an architecture of the table whose input and output fit `images`: from pixels to classes, or of
        fields from coordinates to the channels of a pixel."""
        if is_field(architecture):
            return cls(architecture, COORDINATES, images.channels)
        return cls(architecture, images.channels, images.classes)

    @classmethod
    def of_zoo(cls, zoo: ZooSpec, images: ImageShape, network: NetworkChoice | None = None) -> NetworkKind:
        """The architecture of a zoo for these images; of several networks, the first one unless one is given.

        Raises:
            SpecError: naming the layer of one's own that does not fit.
        """
        network = zoo.networks()[0] if network is None else network
        name, outline = zoo.architecture_of(network), zoo.outline_of(network)
        if outline is None:
            return cls.on(name, images)
        try:
            outline = sized(outline, network.width, network.depth)
            layers = complete(outline, images.channels, images.classes, images.size)
        except SpecError as error:
            raise SpecError(f"architecture {name}: {error}") from None
        return cls(name, images.channels, images.classes, layers)._remembered()

    @classmethod
    def recorded(cls, architecture: str, in_channels: int, classes: int, layers: Any = None) -> NetworkKind:
        """A kind as a run or a manifest records it, which rows of it can be told by from now on.

        Args:
            layers: JSON values as `layers_to_json` gives them; None of architectures of the table.

        Raises:
            SpecError: where they are no layers, or those of another network than the table's of that name.
        """
        if layers is None:
            return cls(architecture, in_channels, classes)
        own = layers_from_json(layers)
        if is_architecture(architecture):
            if own != get_architecture(architecture).layers(in_channels, classes):
                raise SpecError(f"its layers are not those of {architecture}; expected another name for its network")
            return cls(architecture, in_channels, classes)
        return cls(architecture, in_channels, classes, own)._remembered()

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> NetworkKind:
        """The kind of a row; KeyError if it lacks one of `KIND_COLUMNS`."""
        kind = cls(*(row[name] for name in KIND_COLUMNS))
        known = kind._known()
        return dataclasses.replace(kind, own=next(iter(known))) if len(known) == 1 else kind

    def columns(self) -> dict[str, Any]:
        """Its fields by the names of `KIND_COLUMNS`."""
        return {name: getattr(self, name) for name in KIND_COLUMNS}

    def record(self) -> dict[str, Any]:
        """`columns`, and of an architecture of one's own `layers` as JSON values: what `recorded` takes."""
        return self.columns() | ({} if self.own is None else {LAYERS: layers_to_json(self.own)})

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the network, from the image to the logits; UnknownNameError or SpecError if there are none."""
        if self.own is not None:
            return self.own
        known = self._known()
        if len(known) > 1:
            raise SpecError(
                f"{len(known)} different networks named {brief(self.architecture)} were read here; give one of the "
                "architectures another name, or open one of their zoos in another process"
            )
        return next(iter(known)) if known else self._of_table()

    @cached_property
    def layout(self) -> WeightLayout:
        """Where each tensor lies in the flat weights [D]."""
        return build_layout(self.layers)

    def module(self, activation: str = "relu", dropout: float = 0.0) -> nn.Module:
        """An `nn.Module` in float32 with fresh weights; see `module_of_layers`."""
        return module_of_layers(self.layers, activation, dropout)

    def _known(self) -> set[tuple[Layer, ...]]:
        """The architectures of one's own that it may be."""
        try:
            key = (self.architecture, operator.index(self.in_channels), operator.index(self.classes))
            return _KNOWN.get(key, set())
        except TypeError:  # of a row that is none
            return set()

    def _of_table(self) -> tuple[Layer, ...]:
        if isinstance(self.architecture, str) and not is_architecture(self.architecture):
            remedy = "That of a zoo of your own is known once load_zoo has opened its repository"
            raise UnknownNameError("architecture", self.architecture, ARCHITECTURES, remedy)
        return get_architecture(self.architecture).layers(self.in_channels, self.classes)

    def _remembered(self) -> NetworkKind:
        assert self.own is not None
        _KNOWN.setdefault((self.architecture, self.in_channels, self.classes), set()).add(self.own)
        return self
