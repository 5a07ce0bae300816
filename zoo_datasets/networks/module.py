"""A network of layers as an ordinary `nn.Module`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import ACTIVATIONS, Layer, flat_layers
from zoo_datasets.networks.layers.chain import follow_forward
from zoo_datasets.networks.layers.module import module_of
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass


class Network(nn.Module):
    """One member as an ordinary module: [B, C, H, W] float to logits [B, classes].

    Its state dict has the layout's names; dropout layers are sub-modules `dropout0`, `dropout1`, … and
    exist whatever the rate, so that a module can be fine-tuned at another one. `layers` are the kinds of its layers,
    unless a module of the network is called so.
    """

    def __init__(self, layers: Sequence[Layer], activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise UnknownNameError("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        modules = ModuleBuild(self, dropout)
        for layer in flat_layers(layers):
            layer.build(modules)
        self._chain = tuple(layers)

    def __getattr__(self, name: str) -> Any:
        # No attribute of its own, so that a network may have modules of this name.
        if name == "layers" and name not in self._modules and "_chain" in self.__dict__:
            return self._chain
        return super().__getattr__(name)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        dropouts = iter([module for name, module in self.named_children() if name.startswith("dropout")])
        return follow_forward(self._chain, images, ModulePass(self.get_submodule, self.activation, dropouts))


def module_of_layers(layers: Sequence[Layer], activation: str = "relu", dropout: float = 0.0) -> nn.Module:
    """A freshly made module of layers: a `Network`, or what the code of a user's own makes.

    Raises:
        SpecError: if the code is not allowed, fails, or makes a network of other tensors.
    """
    own = module_of(layers)
    return Network(layers, activation, dropout) if own is None else own.fresh()


def build_module(name: str, in_channels: int, classes: int, activation: str = "relu", dropout: float = 0.0) -> Network:
    """A freshly built module of an architecture (torch's own initialisation; load weights into it)."""
    return Network(get_architecture(name).layers(in_channels, classes), activation, dropout)
