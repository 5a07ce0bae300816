"""The network that the settings of the CNN Wild Park describe, with its residual sums."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from zoo_datasets.documents import brief, problems_of
from zoo_datasets.errors import CheckpointError, LayerError, SpecError
from zoo_datasets.networks.layers import (
    ACTIVATIONS,
    Activate,
    AddRemembered,
    Conv,
    GlobalAveragePool,
    Layer,
    Linear,
    Remember,
    build_layout,
)
from zoo_datasets.networks.layers.documents import check_network, layers_to_json
from zoo_datasets.networks.module import Network
from zoo_datasets.networks.records import NetworkRecord

_IMAGE = (3, 32, 32)  # CIFAR-10
_Width = Annotated[int, Field(ge=1, le=1 << 12)]
_Widths = Annotated[list[_Width], Field(max_length=64)]


@checked_dataclass(frozen=True, kw_only=True)
class WildConfig:
    """The settings of one CNN; lists have an entry a layer, `channels` one more.

    Attributes:
        residual: of each layer, the earlier one whose output is added to its own before the activation; −1: none.
    """

    n_layers: Annotated[int, Field(ge=1, le=64)]
    n_classes: _Width
    channels: _Widths
    kernel_size: _Widths
    stride: _Widths
    padding: Annotated[list[Annotated[int, Field(ge=0, le=1 << 12)]], Field(max_length=64)]
    residual: Annotated[list[Annotated[int, Field(ge=-1, le=64)]], Field(max_length=64)]
    activation: Annotated[list[str], Field(max_length=64)]

    def layers(self) -> tuple[Layer, ...]:
        """The network.

        Raises:
            CheckpointError: if the settings are of none.
        """
        self._check()
        layers: list[Layer] = []
        for number in range(self.n_layers):
            layers.append(
                Conv(
                    f"layers.{number}",
                    self.channels[number],
                    self.channels[number + 1],
                    self.kernel_size[number],
                    self.stride[number],
                    self.padding[number],
                )
            )
            if self.residual[number] >= 0:
                layers.append(AddRemembered(_key(self.residual[number])))
            layers.append(Activate(self.activation[number]))
            if number in self.residual:
                layers.append(Remember(_key(number)))
        return (*layers, GlobalAveragePool(), Linear("fc", self.channels[-1], self.n_classes))

    def _check(self) -> None:
        lists = {
            name: len(getattr(self, name)) for name in ("kernel_size", "stride", "padding", "residual", "activation")
        }
        if wrong := [name for name, length in lists.items() if length != self.n_layers]:
            raise CheckpointError(f"its settings have {self.n_layers} layers, but {lists[wrong[0]]} of {wrong[0]}")
        if len(self.channels) != self.n_layers + 1:
            raise CheckpointError(f"its settings have {self.n_layers} layers, but {len(self.channels)} channels")
        if late := [number for number, source in enumerate(self.residual) if source >= number]:
            raise CheckpointError(f"its settings add the output of layer {self.residual[late[0]]} to layer {late[0]}")
        if unknown := [name for name in self.activation if name not in ACTIVATIONS]:
            raise CheckpointError(
                f"its settings name the activation {brief(unknown[0])}, known are {', '.join(ACTIVATIONS)}"
            )


_CONFIG = TypeAdapter(WildConfig)


def _key(number: int) -> str:
    return f"layers.{number}"


@lru_cache(maxsize=1 << 14)
def record_of(config: str) -> NetworkRecord:
    """The network of settings as JSON, tried on an image.

    Raises:
        CheckpointError: if they are of none.
    """
    try:
        settings = _CONFIG.validate_json(config, strict=True)
    except ValidationError as error:
        raise CheckpointError(f"its settings are no CNN's: {problems_of(error, 'config')}") from None
    layers = settings.layers()
    try:
        check_network(layers)
        with torch.device("meta"):
            Network(layers)(torch.empty(1, *_IMAGE))
    except (SpecError, LayerError, RuntimeError) as error:
        raise CheckpointError(f"its settings make no network for CIFAR-10: {brief(str(error))}") from None
    return NetworkRecord(build_layout(layers), json.dumps(layers_to_json(layers)))
