"""A chain of layers: what its layers have, and are, in order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zoo_datasets.errors import LayerError
from zoo_datasets.networks.layers.base import Layer, LayerTensor
from zoo_datasets.networks.layers.passes import ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream
from zoo_datasets.networks.layout import WeightLayout


def checked(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers, all of which are layers.

    Raises:
        LayerError: if one is no layer; names its type.
    """
    for layer in layers:
        if not isinstance(layer, Layer):
            raise LayerError(
                f"{type(layer).__name__} is no kind of layer: expected a class that derives from "
                "zoo_datasets.networks.layers.Layer and has its rules"
            )
    return tuple(layers)


def flat_layers(layers: Sequence[Layer]) -> list[Layer]:
    """All layers in forward order, those inside residual blocks in place of the block (body first)."""
    flat: list[Layer] = []
    for layer in checked(layers):
        inside = layer.sublayers()
        flat += [layer] if inside is None else flat_layers(inside)
    return flat


def tensors_of(layers: Sequence[Layer]) -> list[LayerTensor]:
    """All tensors of a list of layers: forward order, in each layer the order of torch's state dict."""
    return [tensor for layer in flat_layers(layers) for tensor in layer.tensors()]


def build_layout(layers: Sequence[Layer]) -> WeightLayout:
    """The layout of a list of layers: its tensors in the order of `tensors_of`."""
    return WeightLayout.of((tensor.name, tensor.shape, tensor.kind) for tensor in tensors_of(layers))


def inputs_of(layers: Sequence[Layer]) -> int | None:
    """How many channels or features the first layer reads that does not take any number; None where all do."""
    return next((count for layer in layers if (count := layer.inputs()) is not None), None)


def follow_forward(layers: Sequence[Layer], x: Tensor, modules: ModulePass) -> Tensor:
    """What the layers make of x in one member."""
    for layer in layers:
        x = layer.forward(x, modules)
    return x


def follow_stacked(layers: Sequence[Layer], x: Tensor, state: StackedPass) -> Tensor:
    """What the layers make of x in a stack."""
    for layer in layers:
        x = layer.stacked(x, state)
    return x


def follow_channels(layers: Sequence[Layer], walk: ChannelWalk, stream: Stream) -> Stream:
    """The stream that leaves the layers of a branch."""
    walk.branch()
    for layer in layers:
        stream = layer.walk_channels(walk, stream)
    return stream


def follow_graph(layers: Sequence[Layer], walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
    """The nodes that leave the layers."""
    for layer in layers:
        nodes = layer.walk_graph(walk, nodes)
    return nodes
