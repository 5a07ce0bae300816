"""Networks as graphs (Kofinas et al.: Graph neural networks for learning equivariant representations of neural
networks, ICLR 2024): a node for each neuron or channel, an edge for each weight or kernel, and back bit for bit.

What the paper leaves open, or what differs from it, is such that every number stands at one place:

- A linear layer is a convolution with a kernel of one number; where it reads flattened images of H · H pixels, one
  with a kernel of H · H, which is what it computes. Kernels are padded around their middle to the largest one.
- A normalisation belongs to the nodes whose outputs it normalises: its scale, shift, running mean and running
  variance are features of these nodes, beside the bias.
- A residual sum happens at the last nodes of the block's body. What comes along the shortcut arrives at them by edges
  of their own kind, one for each channel, that hold a 1 in the middle of the kernel: the identity as a convolution.
  A shortcut with a convolution has nodes of its own, and such edges lead from these. What a layer remembered arrives in
  the same way at the nodes that it is added to, along as many edges as both sides have channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.layers import Layer, build_layout, checked
from zoo_datasets.networks.layers.chain import follow_graph, inputs_of
from zoo_datasets.networks.layers.walks import GraphNodes
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.text import TensorsRepr

NODE_FEATURES = ("bias", "norm_weight", "norm_bias", "norm_running_mean", "norm_running_var")
WEIGHT, IDENTITY = 0, 1


@dataclass(frozen=True, slots=True, repr=False)
class Graphs(TensorsRepr):
    """A batch of networks of one architecture: they share everything but the features.

    Attributes:
        nodes: [B, N, F], the features `NODE_FEATURES`, of which networks without normalisation have the first alone.
        edges: [B, E, K · K], kernels of the largest size K.
        index: int64 [2, E]: the node that an edge comes from and the one that it leads to.
        node_mask: bool [N, F], true where a weight is; the rest is 0.
        edge_mask: bool [E, K · K]: the same.
        layer: int64 [N], number of the layer that makes a node, in forward order; 0 is the images' channels.
        kind: int64 [E]: 0 is a weight, 1 the identity of a residual sum.
    """

    nodes: Tensor
    edges: Tensor
    index: Tensor
    node_mask: Tensor
    edge_mask: Tensor
    layer: Tensor
    kind: Tensor

    def dense_edges(self) -> Tensor:
        """[B, N, N, K · K], row by the node an edge comes from; 0 where none is. For small networks: a ResNet-18
        would take 1 GB each."""
        count = self.nodes.shape[1]
        dense = self.edges.new_zeros(len(self.edges), count, count, self.edges.shape[2])
        dense[:, self.index[0], self.index[1]] = self.edges
        return dense


def to_graphs(weights: Tensor, layers: Sequence[Layer]) -> Graphs:
    """The graphs of weights [B, D] in the layout of the layers.

    Raises:
        LayoutError: if the weights have another shape, or a linear layer reads images that are not square.
    """
    plan = _graph_map(tuple(layers))
    if weights.ndim != 2 or weights.shape[1] != plan.layout.size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [B, {plan.layout.size}] for these layers"
        )
    index, layer, kind = (tensor.to(weights.device) for tensor in (plan.index, plan.layer, plan.kind))
    nodes, node_mask = _taken(weights, plan.nodes)
    edges, edge_mask = _taken(weights, plan.edges)
    edges[:, kind == IDENTITY, edges.shape[2] // 2] = 1
    return Graphs(nodes, edges, index, node_mask, edge_mask, layer, kind)


def from_graphs(nodes: Tensor, edges: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The weights [B, D] of nodes [B, N, F] and edges [B, E, K · K]; other features are ignored.

    Raises:
        LayoutError: if the shapes are not those of these layers.
    """
    plan = _graph_map(tuple(layers))
    weights = nodes.new_empty(len(nodes), plan.layout.size)
    for name, features, source in (("nodes", nodes, plan.nodes), ("edges", edges, plan.edges)):
        if features.ndim != 3 or len(features) != len(nodes) or features.shape[1:] != source.shape:
            raise LayoutError(
                f"{name} have shape {list(features.shape)}, expected [B, {', '.join(map(str, source.shape))}]"
            )
        source = source.to(features.device)
        mask = source >= 0
        weights[:, source[mask]] = features[:, mask]
    return weights


def _taken(weights: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Weights at places, 0 where a place is −1, and whether it is not."""
    source = source.to(weights.device)
    mask = source >= 0
    values = weights[:, source.clamp(min=0).flatten()].view(len(weights), *source.shape)
    return values.masked_fill_(~mask, 0) if not values.requires_grad else values.masked_fill(~mask, 0), mask


@dataclass(frozen=True, slots=True)
class _GraphMap:
    """Where each feature lies in the flat vector: nodes [N, F] and edges [E, K · K], −1 where none is."""

    layout: WeightLayout
    nodes: Tensor
    edges: Tensor
    index: Tensor
    layer: Tensor
    kind: Tensor


class _Walk:
    """Collects nodes and edges: a `GraphWalk`."""

    def __init__(self, layout: WeightLayout) -> None:
        places = torch.arange(layout.size)
        self.place = layout.unflatten(places)
        self.nodes: list[Tensor] = []  # of each layer [count, F]
        self.blocks: list[tuple[Tensor, Tensor, int]] = []  # index [2, e], places [e, k, k], kind
        self.count = 0
        self.remembered: dict[str, GraphNodes] = {}

    def add_nodes(self, count: int) -> GraphNodes:
        nodes = GraphNodes(self.count, count)
        self.nodes.append(torch.full((count, len(NODE_FEATURES)), -1))
        self.count += count
        return nodes

    def add_features(self, nodes: GraphNodes, features: Mapping[str, str]) -> None:
        rows = self._features_of(nodes)
        for feature, tensor in features.items():
            rows[:, NODE_FEATURES.index(feature)] = self.place[tensor]

    def add_weights(self, name: str, bias: bool, nodes: GraphNodes) -> GraphNodes:
        weight = self.place[f"{name}.weight"]
        side = math.isqrt(weight[0].numel() // nodes.count)
        if side * side * nodes.count != weight[0].numel():
            raise LayoutError(
                f"layer {name!r} reads {weight[0].numel()} numbers of {nodes.count} channels, no square images; "
                "graphs are for networks whose linear layers read single numbers or square images"
            )
        kernels = weight.reshape(len(weight), nodes.count, side, side)
        outputs = self.add_nodes(len(weight))
        if bias:
            self.add_features(outputs, {"bias": f"{name}.bias"})
        # In the order of the weights: by the node an edge leads to, then by the one it comes from.
        into = torch.arange(outputs.count).repeat_interleave(nodes.count) + outputs.start
        out_of = torch.arange(nodes.count).repeat(outputs.count) + nodes.start
        self.blocks.append((torch.stack([out_of, into]), kernels.flatten(0, 1), WEIGHT))
        return outputs

    def add_identity(self, nodes: GraphNodes, into: GraphNodes) -> None:
        channels = torch.arange(into.count)
        none = torch.full((into.count, 1, 1), -1)
        self.blocks.append((torch.stack([channels + nodes.start, channels + into.start]), none, IDENTITY))

    def _features_of(self, nodes: GraphNodes) -> Tensor:
        start = 0
        for features in self.nodes:
            if start == nodes.start:
                return features
            start += len(features)
        raise AssertionError("nodes are those of a layer")


@functools.lru_cache(maxsize=8)
def _graph_map(layers: tuple[Layer, ...]) -> _GraphMap:
    inputs = inputs_of(checked(layers))
    if inputs is None:
        raise LayoutError("graphs are for networks with weights; none of these layers has any")
    layout = build_layout(layers)
    walk = _Walk(layout)
    follow_graph(layers, walk, walk.add_nodes(inputs))
    side = max(kernels.shape[1] for _, kernels, _ in walk.blocks)
    edges = [_centred(kernels, side).flatten(1) for _, kernels, _ in walk.blocks]
    nodes = torch.cat(walk.nodes)
    if not (nodes[:, 1:] >= 0).any():
        nodes = nodes[:, :1]
    return _GraphMap(
        layout,
        nodes,
        torch.cat(edges),
        torch.cat([index for index, _, _ in walk.blocks], dim=1),
        torch.cat([torch.full((len(features),), number) for number, features in enumerate(walk.nodes)]),
        torch.cat([torch.full((len(kernels),), kind) for _, kernels, kind in walk.blocks]),
    )


def _centred(kernels: Tensor, side: int) -> Tensor:
    """Kernels [e, k, k] in the middle of [e, side, side], −1 around."""
    before = (side - kernels.shape[1]) // 2
    after = side - kernels.shape[1] - before
    return torch.nn.functional.pad(kernels, (before, after, before, after), value=-1)
