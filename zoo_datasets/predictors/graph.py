"""A graph network on the parameter graph (Kofinas et al.: Graph neural networks for learning equivariant
representations of neural networks, ICLR 2024), their PNA variant: a node a neuron or channel, an edge a weight or
kernel (`zoo_datasets.adapters.graphs`).

Hidden nodes of a layer share a learned embedding, inputs and outputs have one each: hidden neurons can be permuted,
inputs and outputs not. For an edge e from q to p: (α, β) = A e, message m = α ∘ (B [x_p, x_q]) + β; messages to p are
aggregated by mean, minimum, maximum and deviation, each as it is and amplified by log(degree + 1) / δ; then
x_p ← x_p + silu(norm(C [x_p, aggregates])) and e ← e + D silu(E e + F x_q + G x_p).

Differs from the released code: layer normalisation is of each node alone, not of all nodes of a mini-batch; a linear
layer's weights stand in the middle of the kernel, as they do in the adapter; Fourier features have fewer frequencies;
there are as many rounds as layers, where theirs are 4; each round adds to nodes and edges, where theirs replaces them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo_datasets.adapters.graphs import Graphs, to_graphs
from zoo_datasets.predictors.base import Config, Decay, Model, Share, TensorScale, WeightSpace, Width, mlp


@dataclass(frozen=True, kw_only=True)
class GraphConfig(Config):
    """Sizes of `GraphNetwork`. Published runs had width 256 on the Small CNN Zoo, 64 and 32 elsewhere.

    Attributes:
        frequencies: of the random Fourier features of biases and kernels.
        sigma: deviation of these frequencies.
        hidden: width of the head.
        depth: rounds of messages; 0 means 4, or as many as layers with weights where these are more, up to 8: messages
            go forward, a layer a round, and what is more than `depth` layers before the outputs is not seen.
    """

    weight_decay: Decay = 5e-4
    width: Width = 32
    depth: Annotated[int, Field(ge=0, le=32)] = 0
    frequencies: Width = 32
    sigma: Annotated[float, Field(gt=0, le=100)] = 0.5
    hidden: Width = 64
    dropout: Share = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes with equally many incoming edges, whose features lie side by side: [B, n, degree, d].

    Attributes:
        nodes: int64 [n].
        edges: of each node, int64 [n, degree].
        sources: the nodes that the edges come from: int64 [degree] where all nodes have the same, else [n, degree].
    """

    nodes: Tensor
    edges: Tensor
    sources: Tensor

    def at_targets(self, x: Tensor) -> Tensor:
        """Features of nodes [B, N, d] at the node that each edge leads to, [B, n, 1, d]."""
        return x.index_select(1, self.nodes.to(x.device))[:, :, None]

    def at_sources(self, x: Tensor) -> Tensor:
        """Features of nodes [B, N, d] at the node that each edge comes from, [B, n or 1, degree, d]."""
        taken = x.index_select(1, self.sources.flatten().to(x.device))
        return taken.view(len(x), -1, self.edges.shape[1], x.shape[2])


class Nodes:
    """The nodes of a network's graph, apart from their features.

    Attributes:
        source, target: of each edge, int64 [E].
        groups: the nodes that edges lead to.
        places: the embedding of each node: one of each input and output, one of each hidden layer.
        degree: of each node, float64 [N].
        position: of each node in the order of the groups; those without incoming edges come last, as zeros.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.source, self.target = graphs.index
        self.count = graphs.nodes.shape[1]
        self.first, self.last = int((graphs.layer == 0).sum()), int((graphs.layer == graphs.layer.max()).sum())
        incoming: dict[int, list[int]] = defaultdict(list)
        for edge, node in enumerate(self.target.tolist()):
            incoming[node].append(edge)
        layers = graphs.layer.tolist()
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for node, edges in sorted(incoming.items()):
            alike[layers[node], len(edges)].append(node)
        self.groups = [_group(nodes, [incoming[node] for node in nodes], self.source) for nodes in alike.values()]
        self.degree = torch.bincount(self.target, minlength=self.count).double()
        final = int(graphs.layer.max())
        places = [number if layer == 0 else self.first + layer - 1 for number, layer in enumerate(layers)]
        self.outputs = torch.nonzero(graphs.layer == final).flatten()
        for number, node in enumerate(self.outputs.tolist()):
            places[node] = self.first + final - 1 + number
        self.places = torch.tensor(places)
        self.embeddings = self.first + final - 1 + self.last
        self.hidden = (graphs.layer > 0) & (graphs.layer < final)
        order = torch.cat([group.nodes for group in self.groups])
        self.position = torch.full((self.count,), len(order))
        self.position[order] = torch.arange(len(order))


def _group(nodes: list[int], edges: list[list[int]], source: Tensor) -> Group:
    places = torch.tensor(edges)
    sources = source[places]
    shared = bool((sources == sources[:1]).all())
    return Group(torch.tensor(nodes), places, sources[0] if shared else sources)


class GraphNetwork(Model):
    """Message passing on nodes and edges, and an MLP on the output nodes."""

    config_type = GraphConfig
    choices = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3})
    invariant: ClassVar[str] = "permutations"
    reads_activation: ClassVar[bool] = True

    def __init__(self, space: WeightSpace, outputs: int, config: GraphConfig) -> None:
        super().__init__(space, outputs, config)
        sample = to_graphs(torch.zeros(1, space.layout.size), space.layers)
        self.nodes = Nodes(sample)
        width = config.width
        self.scale = TensorScale(space.layout)
        self.node_features = _Fourier(sample.nodes.shape[2], width, config)
        self.edge_features = _Fourier(sample.edges.shape[2], width, config)
        self.place = nn.Embedding(self.nodes.embeddings, width)
        self.activation = nn.Embedding(max(len(space.activations), 1), width)
        self.kind = nn.Embedding(2, width)
        delta = float(torch.log(self.nodes.degree + 1).mean())
        amplify = (torch.log(self.nodes.degree + 1) / delta).float()
        depth = config.depth or min(max(4, int(sample.layer.max())), 8)
        self.rounds = nn.ModuleList(
            _Round(self.nodes, amplify, width, config.dropout, number == depth - 1) for number in range(depth)
        )
        self.head = mlp(self.nodes.last * width, config.hidden, config.hidden, outputs)

    def prepare(self, weights: Tensor) -> None:
        """Take mean and deviation of each tensor."""
        self.scale.fit(weights)

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs]; see `Model`."""
        self.check(weights)
        graphs = to_graphs(self.scale(weights), self.space.layers)
        device = weights.device
        told = self.activation(activation)[:, None] * self.nodes.hidden.to(device)[:, None]
        x = self.node_features(graphs.nodes) + self.place(self.nodes.places.to(device)) + told
        edges = [self._edges_of(group, graphs) for group in self.nodes.groups]
        for step in self.rounds:
            x, edges = step(x, edges)
        out: Tensor = self.head(x[:, self.nodes.outputs.to(device)].flatten(1))
        return out

    def _edges_of(self, group: Group, graphs: Graphs) -> Tensor:
        """Features of a group's edges, [B, n, degree, d]."""
        where = group.edges.flatten().to(graphs.edges.device)
        features: Tensor = self.edge_features(graphs.edges.index_select(1, where)) + self.kind(graphs.kind[where])
        return features.view(len(features), *group.edges.shape, features.shape[2])


class _Fourier(nn.Module):
    """Random Fourier features of a vector, beside itself, and a linear map."""

    frequencies: Tensor

    def __init__(self, inside: int, width: int, config: GraphConfig) -> None:
        super().__init__()
        drawn = torch.randn(inside, config.frequencies) * config.sigma / math.sqrt(inside)
        self.register_buffer("frequencies", drawn)
        self.map = mlp(2 * config.frequencies + inside, width, width, activation=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * (x @ self.frequencies)
        out: Tensor = self.map(torch.cat([x, angles.sin(), angles.cos()], dim=-1))
        return out


class _Round(nn.Module):
    """One round of messages: nodes [B, N, d] and the edges of each group, [B, n, degree, d], to new ones."""

    amplify: Tensor

    def __init__(self, nodes: Nodes, amplify: Tensor, width: int, dropout: float, final: bool) -> None:
        super().__init__()
        self.nodes, self.final = nodes, final
        self.register_buffer("amplify", amplify, persistent=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.from_target, self.from_source = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.update = nn.Sequential(nn.Linear(9 * width, width), nn.Linear(width, width))
        if not final:
            self.norm = nn.LayerNorm(width)
            self.dropout = nn.Dropout(dropout)
            self.edge = nn.ModuleList(nn.Linear(width, width, bias=number == 0) for number in range(3))
            self.edge_out = nn.Linear(width, width)

    def forward(self, x: Tensor, edges: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        device = x.device
        pairs = list(zip(self.nodes.groups, edges, strict=True))
        target, source = self.from_target(x), self.from_source(x)
        parts = [self._aggregates(group, e, target, source) for group, e in pairs]
        parts.append(parts[0].new_zeros(len(x), 1, parts[0].shape[2]))  # of nodes to which no edge leads
        gathered = torch.cat(parts, dim=1).index_select(1, self.nodes.position.to(device))
        new: Tensor = self.update(torch.cat([x, gathered, gathered * self.amplify[:, None]], dim=2))
        if self.final:
            return x + new, edges
        new = x + self.dropout(nn.functional.silu(self.norm(new)))
        source, target = self.edge[1](new), self.edge[2](new)
        mixed = [self.edge[0](e).add_(group.at_sources(source)).add_(group.at_targets(target)) for group, e in pairs]
        return new, [e + self.edge_out(nn.functional.silu(told)) for e, told in zip(edges, mixed, strict=True)]

    def _aggregates(self, group: Group, e: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Mean, minimum, maximum and deviation of α ∘ (B [x_p, x_q]) + β over the edges to each node, [B, n, 4 d].

        α and β are computed apart: halves of one tensor would be copied together again in the backward pass.
        """
        width = target.shape[2]
        weight, bias = self.modulate.weight, self.modulate.bias
        factor = nn.functional.linear(e, weight[:width], bias[:width])
        shift = nn.functional.linear(e, weight[width:], bias[width:])
        inputs = (factor, shift, group.at_targets(target), group.at_sources(source))
        aggregates: tuple[Tensor, ...] = Aggregates.apply(*inputs)  # type: ignore[no-untyped-call]
        mean, square, least, most = aggregates
        deviation = (square - mean.square()).clamp(min=1e-5).sqrt()
        return torch.cat([mean, least, most, deviation], dim=2)


class Aggregates(torch.autograd.Function):
    """Mean, mean square, minimum and maximum over k of factor ∘ (target + source) + shift, each [B, n, d], for factor
    and shift [B, n, k, d], target [B, n, 1, d], source [B, 1 or n, k, d]. Autograd would read and write the large
    tensors more than twice as often."""

    @staticmethod
    def forward(ctx: Any, factor: Tensor, shift: Tensor, target: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        messages = torch.addcmul(shift, factor, target + source)
        least, most = messages.amin(dim=2), messages.amax(dim=2)
        ctx.save_for_backward(messages, factor, target, source, least, most)
        return messages.mean(dim=2), messages.square().mean(dim=2), least, most

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        messages, factor, target, source, least, most = ctx.saved_tensors
        mean, square, *ends = (gradient[:, :, None] for gradient in gradients)
        count = messages.shape[2]
        back = torch.addcmul(mean / count, messages, square * (2 / count))
        at = torch.empty_like(messages)
        for end, gradient in zip((least, most), ends, strict=True):
            torch.eq(messages, end[:, :, None], out=at)  # equal ones share it
            back.addcmul_(at, gradient / at.sum(dim=2, keepdim=True))
        to_factor = torch.mul(back, torch.add(target, source, out=at), out=at)
        inside = back * factor
        to_source = inside.sum(dim=1, keepdim=True) if source.shape[1] == 1 else inside
        return to_factor, back, inside.sum(dim=2, keepdim=True), to_source
