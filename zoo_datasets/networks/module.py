"""A network of layers as an ordinary `nn.Module`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn import functional

from zoo_datasets.errors import UnknownNameError

if TYPE_CHECKING:
    pass
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import (
    ACTIVATIONS,
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
    flat_layers,
)


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
