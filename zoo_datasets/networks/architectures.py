"""The architectures, each a declarative list of layers from which everything else derives.

A layer is a frozen dataclass with rules (`zoo_datasets.networks.layers`); `layers(in_channels, classes)` of an
`Architecture` gives the list. The `nn.Module` (`build_module`), the weight layout (`build_layout`) and the stacked
network (`zoo_datasets.stacked`) all ask that list, so a new architecture is one entry of `ARCHITECTURES`.
Names of layers do not depend on dropout.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.networks.layers import (
    Activate,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Residual,
    Shift,
    Sine,
    build_layout,
)
from zoo_datasets.networks.layout import WeightLayout

# Input channels, or classes, that a network may have.
MAX_WIDTH = 100_000


@dataclass(frozen=True, slots=True)
class Architecture:
    """A named family of networks.

    Attributes:
        input_size: height and width that the network needs; None where it takes any.
        build: (in_channels, classes) to the list of layers, unchecked.
        raw_type: `model::type` of its models in raw zoos; None: its name.
        raw_size: what folders of raw zoos call it beside their images; None: its name, "" where they say nothing.
        raw_dropout: whether its models in raw zoos have dropout layers at a rate of 0 too.
        task: `classification` where it takes images, `field` where it takes coordinates [N, in_channels].
    """

    name: str
    input_size: int | None
    build: Callable[[int, int], tuple[Layer, ...]]
    raw_type: str | None = None
    raw_size: str | None = None
    raw_dropout: bool = False
    task: Literal["classification", "field"] = "classification"

    def layers(self, in_channels: int, classes: int) -> tuple[Layer, ...]:
        """The list of layers for images of so many channels and classes.

        Raises:
            SpecError: if one is no whole number from 1 to `MAX_WIDTH`.
        """
        return self.build(_width("in_channels", in_channels), _width("classes", classes))


def _cnn_small(channels: tuple[int, int, int]) -> Callable[[int, int], tuple[Layer, ...]]:
    first, second, third = channels

    def layers(in_channels: int, classes: int) -> tuple[Layer, ...]:
        return (
            Conv("conv1", in_channels, first, 5), MaxPool(), Activate(), Dropout(),
            Conv("conv2", first, second, 5), MaxPool(), Activate(), Dropout(),
            Conv("conv3", second, third, 2), Activate(), Flatten(),
            Linear("fc1", third * 9, 20), Activate(), Dropout(),
            Linear("fc2", 20, classes),
        )  # fmt: skip

    return layers


def _cnn_large(in_channels: int, classes: int) -> tuple[Layer, ...]:
    return (
        Conv("conv1", in_channels, 16, 3), MaxPool(), Activate(), Dropout(),
        Conv("conv2", 16, 32, 3), MaxPool(), Activate(), Dropout(),
        Conv("conv3", 32, 15, 3), MaxPool(), Activate(), Dropout(), Flatten(),
        Linear("fc1", 60, 20), Activate(), Dropout(),
        Linear("fc2", 20, classes),
    )  # fmt: skip


def _small_cnn(in_channels: int, classes: int) -> tuple[Layer, ...]:
    """The network of the Small CNN Zoo (Unterthiner et al. 2020): 4,970 weights with one channel."""
    return (
        Conv("conv1", in_channels, 16, 3, 2), Activate(), Dropout(),
        Conv("conv2", 16, 16, 3, 2), Activate(), Dropout(),
        Conv("conv3", 16, 16, 3, 2), Activate(), Dropout(),
        GlobalAveragePool(), Linear("fc", 16, classes),
    )  # fmt: skip


def _mlp(in_channels: int, classes: int) -> tuple[Layer, ...]:
    """784-10-10 on grey images of 28 × 28: the network of G.pt's MNIST runs (Peebles et al. 2022)."""
    return (Flatten(), Linear("fc1", in_channels * 28 * 28, 10), Activate(), Dropout(), Linear("fc2", 10, classes))


def siren_layers(
    widths: Sequence[int], omega: float = 30.0, omega_hidden: float = 30.0, shift: float = 0.0, name: str = "layer"
) -> tuple[Layer, ...]:
    """A sinusoidal network, from coordinates [N, widths[0]] to values [N, widths[-1]] (Sitzmann et al. 2020).

    Args:
        omega: ω₀ of the first sine; `omega_hidden` is that of the others.
        shift: what is added to the output.
        name: of the layers, before their number from 1 on.
    """
    layers: list[Layer] = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
        if layers:
            layers.append(Sine(omega if number == 2 else omega_hidden))
        layers.append(Linear(f"{name}{number}", inputs, outputs))
    return (*layers, Shift(shift)) if shift else tuple(layers)


def _siren(in_channels: int, classes: int) -> tuple[Layer, ...]:
    """The network that DWSNets (Navon et al. 2023) fit to each image: 2-32-32-1, 1,185 weights, for grey ones."""
    return siren_layers((in_channels, 32, 32, classes), shift=0.5)


def resnet18_layers(
    width: int = 64, shortcut_name: str = "downsample", dropout: bool = False
) -> Callable[[int, int], tuple[Layer, ...]]:
    """torchvision's ResNet-18 with a 3 × 3 stride-1 first convolution and no max-pool (CIFAR stem).

    Args:
        width: the number of channels of the first stage; the published zoos have 64.
        shortcut_name: of the modules beside a block.
        dropout: whether there is one before the last layer.
    """

    def block(name: str, inside: int, outside: int, stride: int) -> tuple[Layer, ...]:
        body = (
            Conv(f"{name}.conv1", inside, outside, 3, stride, 1, bias=False), BatchNorm(f"{name}.bn1", outside),
            Activate(),
            Conv(f"{name}.conv2", outside, outside, 3, 1, 1, bias=False), BatchNorm(f"{name}.bn2", outside),
        )  # fmt: skip
        shortcut: tuple[Layer, ...] = ()
        if stride != 1 or inside != outside:
            shortcut = (
                Conv(f"{name}.{shortcut_name}.0", inside, outside, 1, stride, bias=False),
                BatchNorm(f"{name}.{shortcut_name}.1", outside),
            )
        return (Residual(body, shortcut), Activate())

    def layers(in_channels: int, classes: int) -> tuple[Layer, ...]:
        stem = (Conv("conv1", in_channels, width, 3, 1, 1, bias=False), BatchNorm("bn1", width), Activate())
        blocks: tuple[Layer, ...] = ()
        inside = width
        for stage in range(4):
            outside = width * 2**stage
            blocks += block(f"layer{stage + 1}.0", inside, outside, 1 if stage == 0 else 2)
            blocks += block(f"layer{stage + 1}.1", outside, outside, 1)
            inside = outside
        drop = (Dropout(),) if dropout else ()
        return (*stem, *blocks, GlobalAveragePool(), *drop, Linear("fc", inside, classes))

    return layers


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("cnn_s", 28, _cnn_small((8, 6, 4)), raw_type="CNN", raw_size=""),
        Architecture("cnn_m", 28, _cnn_small((6, 9, 6)), raw_type="CNN2", raw_size="medium"),
        Architecture("cnn_l", 32, _cnn_large, raw_type="CNN3", raw_size="large", raw_dropout=True),
        Architecture("small_cnn", None, _small_cnn),
        Architecture("mlp", 28, _mlp),
        Architecture("siren", None, _siren, task="field"),
        Architecture("resnet18", None, resnet18_layers(), raw_type="Resnet18"),
        Architecture("resnet18_slim", None, resnet18_layers(32, "shortcut", True), raw_type="ResNet18Slim"),
    )
}


def get_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        UnknownNameError: if the table has no such name; names those that are near.
    """
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def layout_of(name: str, in_channels: int, classes: int) -> WeightLayout:
    """The weight layout of an architecture: 2,464 entries for `cnn_s` with one channel, and so on."""
    return build_layout(get_architecture(name).layers(in_channels, classes))


def _width(what: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = int(value) if isinstance(value, float) and value.is_integer() else 0
    if not 1 <= number <= MAX_WIDTH:
        raise SpecError(f"{what}={brief(value)}: expected a whole number from 1 to {MAX_WIDTH:,}")
    return number
