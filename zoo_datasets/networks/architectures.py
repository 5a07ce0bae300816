"""The architectures, each a declarative list of layers from which everything else derives.

A layer is a frozen dataclass with rules (`zoo_datasets.networks.layers`); `layers(in_channels, classes)` of an
`Architecture` gives the list. The `nn.Module` (`build_module`), the weight layout (`build_layout`) and the stacked
network (`zoo_datasets.stacked`) all ask that list, so a new architecture is one entry of `ARCHITECTURES`.
Names of layers do not depend on dropout.
"""

from __future__ import annotations

import itertools
import operator
import re
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
# Names of networks of other sizes: `resnet18_w8` begins with 8 channels, `mlp_w32_d2` has two hidden layers of 32.
_SIZED_NAME = re.compile(r"(?P<base>.+?)(?:_w(?P<width>[1-9]\d{0,4}))?(?:_d(?P<depth>[1-9]\d?))?")

Build = Callable[[int, int], "tuple[Layer, ...]"]


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
        sized: (width, depth) to `build` of a network of other sizes, None being its own; None where it has one size.
    """

    name: str
    input_size: int | None
    build: Build
    raw_type: str | None = None
    raw_size: str | None = None
    raw_dropout: bool = False
    task: Literal["classification", "field"] = "classification"
    sized: Callable[[int | None, int | None], Build] | None = None

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


def _small_cnn(width: int | None = None, depth: int | None = None) -> Build:
    """The network of the Small CNN Zoo (Unterthiner et al. 2020): 4,970 weights with one channel.

    Its width is the number of channels, 16, its depth that of the convolutions, 3.
    """
    channels, convolutions = width or 16, depth or 3

    def layers(in_channels: int, classes: int) -> tuple[Layer, ...]:
        body: tuple[Layer, ...] = ()
        inside = in_channels
        for number in range(1, convolutions + 1):
            body += (Conv(f"conv{number}", inside, channels, 3, 2), Activate(), Dropout())
            inside = channels
        return (*body, GlobalAveragePool(), Linear("fc", channels, classes))

    return layers


def _mlp(width: int | None = None, depth: int | None = None) -> Build:
    """784-10-10 on grey images of 28 × 28: the network of G.pt's MNIST runs (Peebles et al. 2022).

    Its width is that of the hidden layers, 10, its depth their number, 1.
    """
    hidden, count = width or 10, depth or 1

    def layers(in_channels: int, classes: int) -> tuple[Layer, ...]:
        body: tuple[Layer, ...] = (Flatten(),)
        inside = in_channels * 28 * 28
        for number in range(1, count + 1):
            body += (Linear(f"fc{number}", inside, hidden), Activate(), Dropout())
            inside = hidden
        return (*body, Linear(f"fc{count + 1}", inside, classes))

    return layers


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


def _siren(width: int | None = None, depth: int | None = None) -> Build:
    """The network that DWSNets (Navon et al. 2023) fit to each image: 2-32-32-1, 1,185 weights, for grey ones.

    Its width is that of the hidden layers, 32, its depth their number, 2.
    """
    hidden = (width or 32,) * (depth or 2)
    return lambda in_channels, classes: siren_layers((in_channels, *hidden, classes), shift=0.5)


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


def _sized_resnet18(width: int | None, depth: int | None) -> Build:
    if depth is not None:
        raise SpecError("resnet18 has one depth; only its width can be another one")
    return resnet18_layers(width or 64)


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("cnn_s", 28, _cnn_small((8, 6, 4)), raw_type="CNN", raw_size=""),
        Architecture("cnn_m", 28, _cnn_small((6, 9, 6)), raw_type="CNN2", raw_size="medium"),
        Architecture("cnn_l", 32, _cnn_large, raw_type="CNN3", raw_size="large", raw_dropout=True),
        Architecture("small_cnn", None, _small_cnn(), sized=_small_cnn),
        Architecture("mlp", 28, _mlp(), sized=_mlp),
        Architecture("siren", None, _siren(), task="field", sized=_siren),
        Architecture("resnet18", None, resnet18_layers(), raw_type="Resnet18", sized=_sized_resnet18),
        Architecture("resnet18_slim", None, resnet18_layers(32, "shortcut", True), raw_type="ResNet18Slim"),
    )
}


def get_architecture(name: str) -> Architecture:
    """The architecture of that name, or of a name with other sizes, as `resnet18_w8` or `mlp_w32_d2`.

    Raises:
        UnknownNameError: if the table has no such name; names those that are near.
        SpecError: if the architecture has no such sizes.
    """
    if not is_architecture(name):
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    match = _SIZED_NAME.fullmatch(name)
    assert match is not None
    base = ARCHITECTURES[match["base"]]
    width, depth = (None if match[size] is None else int(match[size]) for size in ("width", "depth"))
    if base.sized is None:
        raise SpecError(f"{base.name} has one size, so that there is no {brief(name)}; {_sized_names()}")
    build = base.sized(width, depth)
    return Architecture(name, base.input_size, build, task=base.task, sized=None)


def is_architecture(name: Any) -> bool:
    """Whether it is a name of the table, or one of these with other sizes."""
    if not isinstance(name, str):
        return False
    match = _SIZED_NAME.fullmatch(name)
    return name in ARCHITECTURES or (match is not None and match["base"] in ARCHITECTURES)


def _sized_names() -> str:
    names = [name for name, architecture in ARCHITECTURES.items() if architecture.sized is not None]
    return f"{', '.join(names)} have others"


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
