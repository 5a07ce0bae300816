"""The architectures, each a declarative list of layers from which everything else derives.

A layer is a frozen dataclass; `layers(in_channels, classes)` of an `Architecture` gives the list. The
`nn.Module` (`build_module`), the weight layout (`build_layout`) and the stacked network
(`zoo_datasets.stacked`) all interpret that list, so a new architecture is one entry of `ARCHITECTURES`.
Names of layers do not depend on dropout.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from zoo_datasets.layout import WeightLayout


@dataclass(frozen=True, slots=True)
class Conv:
    """2-D convolution, square kernel."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Linear:
    """Affine map of the last axis."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """2-D batch normalisation with torch's defaults (eps 1e-5, momentum 0.1)."""

    name: str
    channels: int


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Max-pooling, stride equal to the kernel."""

    kernel: int = 2


@dataclass(frozen=True, slots=True)
class Activate:
    """The member's activation."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """Element-wise dropout at the member's rate; no layer at all where the rate is 0."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """[…, C, H, W] to […, C·H·W]."""


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """[…, C, H, W] to […, C]."""


@dataclass(frozen=True, slots=True)
class Residual:
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()


# Input channels, or classes, that a network may have.
MAX_WIDTH = 100_000

Layer = Conv | Linear | BatchNorm | MaxPool | Activate | Dropout | Flatten | GlobalAveragePool | Residual


@dataclass(frozen=True, slots=True)
class Architecture:
    """A named family of networks.

    Attributes:
        input_size: height and width that the network needs; None where it takes any.
        build: (in_channels, classes) to the list of layers, unchecked.
    """

    name: str
    input_size: int | None
    build: Callable[[int, int], tuple[Layer, ...]]

    def layers(self, in_channels: int, classes: int) -> tuple[Layer, ...]:
        """The list of layers for images of so many channels and classes.

        Raises:
            SpecError: where one is no whole number from 1 to `MAX_WIDTH`.
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


def resnet18_layers(width: int = 64) -> Callable[[int, int], tuple[Layer, ...]]:
    """torchvision's ResNet-18 with a 3 × 3 stride-1 first convolution and no max-pool (CIFAR stem).

    `width` is the number of channels of the first stage; the published zoos have 64.
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
                Conv(f"{name}.downsample.0", inside, outside, 1, stride, bias=False),
                BatchNorm(f"{name}.downsample.1", outside),
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
        return (*stem, *blocks, GlobalAveragePool(), Linear("fc", inside, classes))

    return layers


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("cnn_s", 28, _cnn_small((8, 6, 4))),
        Architecture("cnn_m", 28, _cnn_small((6, 9, 6))),
        Architecture("cnn_l", 32, _cnn_large),
        Architecture("resnet18", None, resnet18_layers()),
    )
}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
}


def get_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        UnknownNameError: with the names that are near.
    """
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def flat_layers(layers: Sequence[Layer]) -> list[Layer]:
    """All layers in forward order, those inside residual blocks included (body first)."""
    flat: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Residual):
            flat += flat_layers(layer.body) + flat_layers(layer.shortcut)
        else:
            flat.append(layer)
    return flat


class Network(nn.Module):
    """One member as an ordinary module: [B, C, H, W] float to logits [B, classes].

    Its state dict has the layout's names; dropout layers are sub-modules `dropout0`, `dropout1`, … and
    exist whatever the rate, so that a module can be fine-tuned at another one.
    """

    def __init__(self, layers: Sequence[Layer], activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise UnknownNameError("activation", activation, ACTIVATIONS)
        self.layers = tuple(layers)
        self.activation = ACTIVATIONS[activation]
        dropouts = 0
        for layer in flat_layers(layers):
            if isinstance(layer, Dropout):
                self.add_module(f"dropout{dropouts}", nn.Dropout(dropout))
                dropouts += 1
            elif isinstance(layer, (Conv, Linear, BatchNorm)):
                _add_at(self, layer.name, _module_of(layer))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        dropouts = iter([module for name, module in self.named_children() if name.startswith("dropout")])
        return self._run(self.layers, images, dropouts)

    def _run(self, layers: Sequence[Layer], x: Tensor, dropouts: Any) -> Tensor:
        for layer in layers:
            match layer:
                case Conv() | Linear() | BatchNorm():
                    x = self.get_submodule(layer.name)(x)
                case MaxPool():
                    x = functional.max_pool2d(x, layer.kernel)
                case Activate():
                    x = self.activation(x)
                case Dropout():
                    x = next(dropouts)(x)
                case Flatten():
                    x = x.flatten(1)
                case GlobalAveragePool():
                    x = x.mean(dim=(2, 3))
                case Residual():
                    shortcut = self._run(layer.shortcut, x, dropouts)
                    x = self._run(layer.body, x, dropouts) + shortcut
        return x


def build_module(name: str, in_channels: int, classes: int, activation: str = "relu", dropout: float = 0.0) -> Network:
    """A freshly built module of an architecture (torch's own initialisation; load weights into it)."""
    return Network(get_architecture(name).layers(in_channels, classes), activation, dropout)


def build_layout(layers: Sequence[Layer]) -> WeightLayout:
    """The layout of a list of layers: forward order, in each layer the order of torch's state dict."""
    from zoo_datasets.layout import TensorKind, WeightLayout

    tensors: list[tuple[str, tuple[int, ...], TensorKind]] = []
    for layer in flat_layers(layers):
        match layer:
            case Conv():
                shape = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
                tensors.append((f"{layer.name}.weight", shape, "parameter"))
                if layer.bias:
                    tensors.append((f"{layer.name}.bias", (layer.out_channels,), "parameter"))
            case Linear():
                tensors.append((f"{layer.name}.weight", (layer.out_features, layer.in_features), "parameter"))
                tensors.append((f"{layer.name}.bias", (layer.out_features,), "parameter"))
            case BatchNorm():
                kinds: tuple[tuple[str, TensorKind], ...] = (
                    ("weight", "parameter"), ("bias", "parameter"),
                    ("running_mean", "buffer"), ("running_var", "buffer"),
                )  # fmt: skip
                tensors += [(f"{layer.name}.{part}", (layer.channels,), kind) for part, kind in kinds]
            case _:
                pass
    return WeightLayout.of(tensors)


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


def _module_of(layer: Conv | Linear | BatchNorm) -> nn.Module:
    match layer:
        case Conv():
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding, bias=layer.bias
            )
        case Linear():
            return nn.Linear(layer.in_features, layer.out_features)
        case BatchNorm():
            return nn.BatchNorm2d(layer.channels)


def _add_at(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` at a dotted path, making the modules on the way."""
    *parents, last = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = cast(nn.Module, root._modules[parent])
    root.add_module(last, module)
