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
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo_datasets.adapters.graphs import Graphs, to_graphs
from zoo_datasets.predictors.base import Config, Decay, Model, Share, TensorScale, WeightSpace, Width, mean_of, mlp


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


class Nodes:
    """The nodes of a network's graph, apart from their features.

    Attributes:
        source, target: of each edge, int64 [E].
        groups: nodes with equally many incoming edges, int64 [n], and these, int64 [n, degree].
        places: the embedding of each node: one of each input and output, one of each hidden layer.
        degree: of each node, float64 [N].
    """

    def __init__(self, graphs: Graphs) -> None:
        self.source, self.target = graphs.index
        self.count = graphs.nodes.shape[1]
        self.first, self.last = int((graphs.layer == 0).sum()), int((graphs.layer == graphs.layer.max()).sum())
        incoming: dict[int, list[int]] = defaultdict(list)
        for edge, node in enumerate(self.target.tolist()):
            incoming[node].append(edge)
        by_degree: dict[int, list[int]] = defaultdict(list)
        for node, edges in sorted(incoming.items()):
            by_degree[len(edges)].append(node)
        self.groups = [
            (torch.tensor(nodes), torch.tensor([incoming[node] for node in nodes])) for nodes in by_degree.values()
        ]
        self.degree = torch.bincount(self.target, minlength=self.count).double()
        final = int(graphs.layer.max())
        places = [
            number if layer == 0 else self.first + layer - 1 for number, layer in enumerate(graphs.layer.tolist())
        ]
        self.outputs = torch.nonzero(graphs.layer == final).flatten()
        for number, node in enumerate(self.outputs.tolist()):
            places[node] = self.first + final - 1 + number
        self.places = torch.tensor(places)
        self.embeddings = self.first + final - 1 + self.last
        self.hidden = (graphs.layer > 0) & (graphs.layer < final)
        # Nodes in the order of the groups, and back; those without incoming edges come last, as zeros.
        order = torch.cat([nodes for nodes, _ in self.groups])
        position = torch.full((self.count,), len(order))
        position[order] = torch.arange(len(order))
        self.position = position


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
        e = self.edge_features(graphs.edges) + self.kind(graphs.kind)
        for step in self.rounds:
            x, e = step(x, e)
        out: Tensor = self.head(x[:, self.nodes.outputs.to(device)].flatten(1))
        return out


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
    """One round of messages: nodes [B, N, d] and edges [B, E, d] to new ones."""

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

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        source, target = self.nodes.source.to(x.device), self.nodes.target.to(x.device)
        factor, shift = self.modulate(e).chunk(2, dim=2)
        message = (
            factor * (self.from_target(x).index_select(1, target) + self.from_source(x).index_select(1, source)) + shift
        )
        gathered = self._aggregate(message)
        told = [x, gathered, gathered * self.amplify[:, None]]
        new: Tensor = self.update(torch.cat(told, dim=2))
        if self.final:
            return x + new, e
        new = x + self.dropout(nn.functional.silu(self.norm(new)))
        mixed = self.edge[0](e) + self.edge[1](new).index_select(1, source) + self.edge[2](new).index_select(1, target)
        return new, e + self.edge_out(nn.functional.silu(mixed))

    def _aggregate(self, message: Tensor) -> Tensor:
        """Mean, minimum, maximum and deviation of the messages to each node, [B, N, 4 d]; 0 where none arrive."""
        parts = []
        for _, edges in self.nodes.groups:
            taken = message.index_select(1, edges.flatten().to(message.device))
            taken = taken.view(len(message), *edges.shape, -1)
            mean = mean_of(taken, 2)
            variance = (mean_of(taken.square(), 2) - mean.square()).clamp(min=1e-5)
            parts.append(torch.cat([mean, taken.amin(dim=2), taken.amax(dim=2), variance.sqrt()], dim=2))
        parts.append(parts[0].new_zeros(len(message), 1, parts[0].shape[2]))
        return torch.cat(parts, dim=1).index_select(1, self.nodes.position.to(message.device))
