"""A scale-equivariant graph network (Kalogeropoulos et al.: Scale equivariant graph metanetworks, NeurIPS 2024), its
forward variant.

A hidden channel with an odd activation can change its sign, one with a homogeneous activation its scale: its bias and
what leads to it are multiplied by s, what leads away is divided by s. Node features scale with s_p and edge features
with s_p / s_q all the way, since every map is a linear one without offset times an invariant factor; the factor sees
features in a canonical form: φ(x) + φ(−x) for signs, φ(x / |x|) for scales. Which form a channel has follows from the
activation of its network, so that one model reads networks with different ones; channels with neither symmetry (gelu,
sigmoid; signs of max-pooled ones) and inputs and outputs get plain MLPs as well.

Left out: the bidirectional variant; the canonicalisation of phases of sines. Differs: messages are summed over the
root of their number, since no normalisation may follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo_datasets.adapters.graphs import to_graphs
from zoo_datasets.networks.channels import ChannelGroup, permutations
from zoo_datasets.networks.layers.walks import MEMBERS
from zoo_datasets.predictors.base import Config, Decay, Depth, Model, TensorScale, WeightSpace, Width, mlp
from zoo_datasets.predictors.chain import chain_of
from zoo_datasets.predictors.graph import Nodes
from zoo_datasets.symmetries import HOMOGENEOUS, ODD

NONE, SIGN, SCALE = 0, 1, 2
_TINY = 1e-10


@dataclass(frozen=True, kw_only=True)
class ScaleGmnConfig(Config):
    """Sizes of `ScaleGmn`; the published ones are width 128 and hidden 128."""

    weight_decay: Decay = 0.01
    width: Width = 32
    hidden: Width = 64
    depth: Depth = 3


class ScaleGmn(Model):
    """Messages that scale as the channels do, and an invariant readout of all nodes."""

    config_type = ScaleGmnConfig
    choices = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3})
    invariant: ClassVar[str] = "permutations, signs, scales"
    reads_activation: ClassVar[bool] = True

    symmetry: Tensor

    def __init__(self, space: WeightSpace, outputs: int, config: ScaleGmnConfig) -> None:
        super().__init__(space, outputs, config)
        chain = chain_of(space.layers)
        sample = to_graphs(torch.zeros(1, space.layout.size), space.layers)
        self.nodes, width = Nodes(sample), config.width
        self.scale = TensorScale(space.layout, centred=False)
        self.register_buffer("symmetry", symmetries_of(space, sample.layer), persistent=False)
        self.bias, self.kernel = nn.Linear(1, width, bias=False), nn.Linear(sample.edges.shape[2], width, bias=False)
        self.place = nn.Embedding(self.nodes.embeddings, width)
        self.activation = nn.Embedding(max(len(space.activations), 1), width)
        nn.init.normal_(self.activation.weight, 1.0, 0.1)
        hidden = torch.unique(self.nodes.places[self.nodes.hidden])
        with torch.no_grad():
            self.place.weight[hidden] = 1 + 0.1 * self.place.weight[hidden]
        self.rounds = nn.ModuleList(
            _Round(self.nodes, width, config.hidden, number == config.depth - 1) for number in range(config.depth)
        )
        self.readout = Canonical(width, config.hidden)
        self.layers = [torch.nonzero(sample.layer == j).flatten() for j in range(1, len(chain))]
        ends = width * self.nodes.last
        self.head = mlp(width * len(self.layers) + ends, 2 * config.hidden, config.hidden, outputs, activation=nn.SiLU)

    def prepare(self, weights: Tensor) -> None:
        """Take the deviation of each tensor; the mean stays, for the sake of the signs."""
        self.scale.fit(weights)

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs]; see `Model`."""
        self.check(weights)
        graphs = to_graphs(self.scale(weights), self.space.layers)
        symmetry = self.symmetry[activation]  # [B, N]
        hidden = self.nodes.hidden.to(weights.device)
        features = graphs.nodes.masked_fill(graphs.layer[:, None] == 0, 1.0)
        place = self.place(self.nodes.places.to(weights.device))
        x = self.bias(features)
        factors = place * self.activation(activation)[:, None]
        x = torch.where(hidden[:, None], x * factors, x + place)
        e = self.kernel(graphs.edges)
        for step in self.rounds:
            x, e = step(x, e, symmetry)
        seen = self.readout(x, symmetry)
        parts = [seen[:, nodes.to(weights.device)].mean(dim=1) for nodes in self.layers]
        out: Tensor = self.head(torch.cat([*parts, x[:, self.nodes.outputs.to(weights.device)].flatten(1)], dim=1))
        return out


def symmetries_of(space: WeightSpace, layer: Tensor) -> Tensor:
    """What can be done to each node by each activation, int64 [activations, N]: `NONE`, `SIGN` or `SCALE`.

    Args:
        layer: int64 [N], the layer of each node.
    """
    groups = permutations(space.layers)
    names = space.activations or ("unknown",)
    table = torch.zeros(len(names), len(layer), dtype=torch.int64)
    for row, name in enumerate(names):
        for number, group in enumerate(groups, 1):
            table[row, layer == number] = _symmetry(group, name)
    return table


def _symmetry(group: ChannelGroup, activation: str) -> int:
    functions = {activation if name == MEMBERS else name for name in group.functions}
    if functions <= set(HOMOGENEOUS):
        return SCALE
    return SIGN if functions <= set(ODD) and not group.pooled else NONE


class Canonical(nn.Module):
    """An MLP of features in a canonical form, which no change of sign or scale reaches."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.map = nn.Sequential(
            nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, width)
        )  # fmt: skip

    def forward(self, x: Tensor, symmetry: Tensor) -> Tensor:
        """[..., width] to [..., width]; `symmetry` [...] says how each vector may change."""
        scaled, signed = symmetry == SCALE, symmetry == SIGN
        if bool(scaled.any()):
            x = x / (x.norm(dim=-1, keepdim=True) + _TINY).where(scaled[..., None], x.new_ones(()))
        out: Tensor = self.map(x)
        if bool(signed.all()):
            out = out + self.map(-x)
        elif bool(signed.any()):
            out = out + self.map(-x) * signed[..., None]
        return out


class _Scaling(nn.Module):
    """f(x) = Γ x ∘ ρ(x): scales as x does. Where nothing can be scaled, a plain MLP is added."""

    def __init__(self, inside: int, width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inside, width, bias=False)
        self.factor = Canonical(width, hidden)
        self.free = nn.Sequential(
            nn.Linear(inside, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, width)
        )  # fmt: skip

    def forward(self, x: Tensor, symmetry: Tensor) -> Tensor:
        linear = self.linear(x)
        out: Tensor = linear * self.factor(linear, symmetry)
        free = symmetry == NONE
        if bool(free.any()):
            out = out + self.free(x) * free[..., None]
        return out


class _Round(nn.Module):
    def __init__(self, nodes: Nodes, width: int, hidden: int, final: bool) -> None:
        super().__init__()
        self.nodes, self.final = nodes, final
        self.edge_in, self.node_in = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.message = Canonical(width, hidden)
        self.message_linear = nn.Linear(width, width, bias=False)
        self.update = _Scaling(2 * width, width, hidden)
        self.skip = nn.Linear(width, width, bias=False)
        if not final:
            self.edge_linear = nn.Linear(width, width, bias=False)
            self.seen = Canonical(width, hidden)
            self.edge_factor = mlp(2 * width, width, activation=nn.SiLU)

    def forward(self, x: Tensor, e: Tensor, symmetry: Tensor) -> tuple[Tensor, Tensor]:
        source, target = self.nodes.source.to(x.device), self.nodes.target.to(x.device)
        product = self.edge_in(e) * self.node_in(x).index_select(1, source)
        message = self.message_linear(product) * self.message(product, symmetry[:, target])
        root = self.nodes.degree.clamp(min=1).sqrt().to(x)
        gathered = torch.zeros_like(x).index_add(1, target, message) / root[:, None]
        new = self.skip(x) + self.update(torch.cat([x, gathered], dim=2), symmetry)
        if self.final:
            return new, e
        seen = self.seen(new, symmetry)
        ends = [seen.index_select(1, source), seen.index_select(1, target)]
        factor = self.edge_factor(torch.cat(ends, dim=2))
        return new, self.edge_linear(e) * factor
