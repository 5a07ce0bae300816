"""index_dict.json of the authors' zoos: where each layer lies in the flat vector, and in their list of modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo_datasets.networks.layers import Layer, build_layout, checked
from zoo_datasets.networks.layout import WeightLayout


def module_indices(layers: Sequence[Layer], dropout: bool) -> dict[str, int]:
    """Where each layer with weights stands in the authors' module list, by its name: with dropout layers the
    later ones stand further back. Networks with normalisation or blocks have no such list: empty.

    Raises:
        LayerError: if a layer has no rule for it.
    """
    places = [layer.raw_places(dropout) for layer in checked(layers)]
    if None in places:
        return {}
    names = [name for place in places for name in place or ()]
    return {name: index for index, name in enumerate(names) if name is not None}


def index_dict(layers: Sequence[Layer], dropout: bool) -> dict[str, list[Any]]:
    """The index_dict.json of an architecture; layers of ResNets are identified by name."""
    layout = build_layout(layers)
    names = [spec.name.removesuffix(".weight") for spec in layout.tensors if len(spec.shape) > 1]
    return {"layer": list(module_indices(layers, dropout).values()) or names, **index_of(layout)}


def index_of(layout: WeightLayout) -> dict[str, list[int]]:
    """The parallel lists of an index_dict.json, but for `layer`, which depends on dropout: where each layer's weight
    and bias begin in the flat vector and how long they are, its outputs, its kernel's h·w, and its inputs."""
    keys = ("idx_start", "idx_length", "kernel_no", "kernel_size", "channels_in")
    index: dict[str, list[int]] = {key: [] for key in keys}
    last = ""
    for spec in layout.tensors:
        layer, _, part = spec.name.rpartition(".")
        if len(spec.shape) > 1:
            kernel = spec.size // (spec.shape[0] * spec.shape[1])
            for key, value in zip(keys, (spec.offset, spec.size, spec.shape[0], kernel, spec.shape[1]), strict=True):
                index[key].append(value)
            last = layer
        elif part == "bias" and layer == last:
            index["idx_length"][-1] += spec.size
    return index
