"""The kinds of layers, and the layout of a chain of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from zoo_datasets.networks.layout import WeightLayout


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


Layer = Conv | Linear | BatchNorm | MaxPool | Activate | Dropout | Flatten | GlobalAveragePool | Residual


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
}


def flat_layers(layers: Sequence[Layer]) -> list[Layer]:
    """All layers in forward order, those inside residual blocks included (body first)."""
    flat: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Residual):
            flat += flat_layers(layer.body) + flat_layers(layer.shortcut)
        else:
            flat.append(layer)
    return flat


def build_layout(layers: Sequence[Layer]) -> WeightLayout:
    """The layout of a list of layers: forward order, in each layer the order of torch's state dict."""
    from zoo_datasets.networks.layout import TensorKind, WeightLayout

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
