"""Neural functional networks (Zhou et al.: Permutation equivariant neural functionals, NeurIPS 2023).

An HNP layer is equivariant to permutations of hidden neurons, an NP layer to those of all neurons. Both are complete:
every equivariant affine map is one, and none is one twice, so that with one channel in and out the free parameters
are as many as the space has dimensions. The released code lacks one term of HNP, which the paper's own table has: the
last hidden bias in the update of the last weight. A complete layer for hidden permutations is that of DWSNets as well
(Navon et al., ICML 2023). The paper leaves flattened images before a linear layer to future work; here their pixels
are kernel positions (`zoo_datasets.predictors.chain`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo_datasets.errors import SpecError
from zoo_datasets.predictors.base import (
    MAX_PARAMETERS,
    Config,
    Model,
    Share,
    TensorScale,
    WeightSpace,
    Width,
    mean_of,
    mlp,
)
from zoo_datasets.predictors.chain import Chain, chain_of

Mode = Literal["hnp", "np"]
# With a wider input or output, HNP's dense maps between all inputs take over.
_DENSE = 20_000_000


@dataclass(frozen=True, kw_only=True)
class NfnConfig(Config):
    """Sizes of `Nfn`. Published Small CNN Zoo runs had channels 16, 16, 5, a head of 1,000 and batches of 8.

    Attributes:
        mode: `hnp`; `np` has far fewer parameters where inputs or outputs are many, and learned embeddings of them;
            `auto` is `hnp` unless its layers had over 20 million parameters.
        channels: of the features after each equivariant layer.
        hidden: width of the head's two hidden layers.
    """

    mode: Literal["auto", "hnp", "np"] = "auto"
    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (8, 8, 4)
    hidden: Width = 256
    dropout: Share = 0.0


class Equivariant(nn.Module):
    """An affine map between weight-space features, as blocks: W⁽ⁱ⁾ and b⁽ⁱ⁾, each the sum of dense maps of what a
    neuron of its row, one of its column, or the whole network says.

    Features are W⁽ⁱ⁾ [B, n_i, n_{i−1}, c · k_i] and b⁽ⁱ⁾ [B, n_i, c]; kernel positions count as channels.
    """

    def __init__(self, chain: Chain, inside: int, outside: int, mode: Mode) -> None:
        super().__init__()
        self.chain, self.mode, self.inside, self.outside = chain, mode, inside, outside
        last = len(chain)
        everything = global_width(chain, mode) * inside
        self.rows, self.columns, self.points = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.weights_of_all, self.biases_of_all = nn.ModuleList(), nn.ModuleList()
        self.bias_rows = nn.ModuleDict()
        for i in range(1, last + 1):
            key, width = str(i), outside * chain.positions[i - 1] * self._fixed(i - 1) * self._fixed(i)
            # Of a row: neurons of layer i, of a column: of layer i − 1, where these are free to move.
            row = neuron_width(chain, i, mode) * inside if movable(chain, i, mode) else 0
            column = neuron_width(chain, i - 1, mode) * inside if movable(chain, i - 1, mode) else 0
            point = inside * chain.positions[i - 1] if row and column else 0
            if row:
                self.rows[key] = nn.Linear(row, width, bias=False)
            if column:
                self.columns[key] = nn.Linear(column, width, bias=False)
            if point:
                self.points[key] = nn.Linear(point, width, bias=False)
            self.weights_of_all.append(nn.Linear(everything, width))
            if row:
                self.bias_rows[key] = nn.Linear(row, outside, bias=False)
            outputs = self._fixed(last) if i == last else 1
            self.biases_of_all.append(nn.Linear(everything, outside * outputs))
            self._draw(everything + row + column + point, [self.weights_of_all[-1], *self._maps(key)])
            self._draw(everything + row, [self.biases_of_all[-1], *([self.bias_rows[key]] if row else [])])

    @staticmethod
    def count(chain: Chain, inside: int, outside: int, mode: Mode) -> int:
        """Free parameters of such a layer, without building it: dimension · inside · outside + offsets · outside."""
        linear, offsets = dimensions(chain, mode)
        return linear * inside * outside + offsets * outside

    def _maps(self, key: str) -> list[nn.Module]:
        return [maps[key] for maps in (self.rows, self.columns, self.points) if key in maps]

    @staticmethod
    def _draw(fan_in: int, maps: list[nn.Module]) -> None:
        bound = 1 / math.sqrt(fan_in)
        for module in maps:
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound)

    def _fixed(self, layer: int) -> int:
        return fixed(self.chain, layer, self.mode)

    def forward(self, weights: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The new features, of the same shapes but for the channels."""
        chain, last = self.chain, len(self.chain)
        neurons = {j: self._neurons(j, weights, biases) for j in range(last + 1) if movable(chain, j, self.mode)}
        everything = pooled(chain, weights, biases, self.mode)
        new_weights, new_biases = [], []
        for i in range(1, last + 1):
            key = str(i)
            out = self.weights_of_all[i - 1](everything)[:, None, None, :]
            if key in self.rows:
                out = out + self.rows[key](neurons[i])[:, :, None, :]
            if key in self.columns:
                out = out + self.columns[key](neurons[i - 1])[:, None, :, :]
            if key in self.points:
                out = out + self.points[key](weights[i - 1])
            new_weights.append(self._spread(out, i))
            bias = self.biases_of_all[i - 1](everything)
            if key in self.bias_rows:
                bias = bias[:, None, :] + self.bias_rows[key](neurons[i])
            new_biases.append(bias.reshape(len(bias), -1, self.outside).expand(-1, chain.widths[i], -1))
        return new_weights, new_biases

    def _neurons(self, layer: int, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        """What a neuron of a layer says, [B, n, ·]: its incoming weights, its bias and its outgoing weights."""
        parts = []
        if layer > 0:
            incoming = weights[layer - 1]
            kept = self._fixed(layer - 1) > 1
            parts += [incoming.flatten(2) if kept else mean_of(incoming, 2), biases[layer - 1]]
        if layer < len(self.chain):
            outgoing = weights[layer]
            kept = self._fixed(layer + 1) > 1
            parts.append(outgoing.transpose(1, 2).flatten(2) if kept else mean_of(outgoing, 1))
        return torch.cat(parts, dim=2)

    def _spread(self, out: Tensor, i: int) -> Tensor:
        """Channels of fixed outputs and inputs in their places: [B, n_i, n_{i−1}, outside · k_i]."""
        batch, rows, columns, _ = out.shape
        above, below = self._fixed(i), self._fixed(i - 1)
        width = self.outside * self.chain.positions[i - 1]
        out = out.reshape(batch, rows, columns, above, below, width)
        out = out.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * above, columns * below, width)
        return out.expand(-1, self.chain.widths[i], self.chain.widths[i - 1], -1)


def movable(chain: Chain, layer: int, mode: Mode) -> bool:
    """Whether the neurons of a layer are permuted: hidden ones, with NP all; a single one has nowhere to go."""
    return chain.widths[layer] > 1 and (mode == "np" or 0 < layer < len(chain))


def fixed(chain: Chain, layer: int, mode: Mode) -> int:
    """How many neurons of a layer are channels of their own, as HNP's inputs and outputs; 1 where they are permuted."""
    return chain.widths[layer] if mode == "hnp" and layer in (0, len(chain)) else 1


def neuron_width(chain: Chain, layer: int, mode: Mode) -> int:
    """Numbers that a neuron of a layer says, for each channel of the features."""
    incoming = chain.positions[layer - 1] * fixed(chain, layer - 1, mode) + 1 if layer > 0 else 0
    outgoing = chain.positions[layer] * fixed(chain, layer + 1, mode) if layer < len(chain) else 0
    return incoming + outgoing


def global_width(chain: Chain, mode: Mode) -> int:
    """Invariant numbers of a network, for each channel of the features: what `pooled` gives."""
    last = len(chain)
    weights = sum(k * fixed(chain, i, mode) * fixed(chain, i + 1, mode) for i, k in enumerate(chain.positions))
    return weights + last - 1 + fixed(chain, last, mode)


def pooled(chain: Chain, weights: list[Tensor], biases: list[Tensor], mode: Mode) -> Tensor:
    """The linear invariants of a network, [B, ·]: means over the neurons that are permuted."""
    last = len(chain)
    parts = []
    for i, weight in enumerate(weights, 1):
        if fixed(chain, i, mode) == 1:
            weight = mean_of(weight, 1, keepdim=True)
        if fixed(chain, i - 1, mode) == 1:
            weight = mean_of(weight, 2, keepdim=True)
        parts.append(weight.flatten(1))
    for i, bias in enumerate(biases, 1):
        parts.append((bias if i == last and mode == "hnp" else mean_of(bias, 1, keepdim=True)).flatten(1))
    return torch.cat(parts, dim=1)


def dimensions(chain: Chain, mode: Mode) -> tuple[int, int]:
    """Dimensions of the space of equivariant linear maps, and of invariant offsets, for one channel in and out."""
    everything = global_width(chain, mode)
    neurons = [neuron_width(chain, layer, mode) ** 2 for layer in range(len(chain) + 1) if movable(chain, layer, mode)]
    points = [k**2 for i, k in enumerate(chain.positions) if movable(chain, i, mode) and movable(chain, i + 1, mode)]
    return everything**2 + sum(neurons) + sum(points), everything


class Nfn(Model):
    """Equivariant layers with ReLU between them, pooled to invariants, and an MLP."""

    config_type = NfnConfig
    choices = ({"learning_rate": 1e-3}, {"learning_rate": 3e-4})
    invariant: ClassVar[str] = "permutations"

    def __init__(self, space: WeightSpace, outputs: int, config: NfnConfig) -> None:
        super().__init__(space, outputs, config)
        self.chain = chain_of(space.layers)
        sizes = (1, *config.channels)
        steps = list(itertools.pairwise(sizes))
        self.mode: Mode = "np" if config.mode == "np" else "hnp"
        counts = {mode: sum(Equivariant.count(self.chain, *step, mode) for step in steps) for mode in ("hnp", "np")}
        if config.mode == "auto" and counts["hnp"] > _DENSE:
            self.mode = "np"
        if counts[self.mode] > MAX_PARAMETERS:
            raise SpecError(
                f"{counts[self.mode]:,} parameters in the {self.mode} layers, expected at most {MAX_PARAMETERS:,}; "
                "give mode np, or fewer channels"
            )
        self.scale = TensorScale(space.layout)
        self.layers = nn.ModuleList(Equivariant(self.chain, *step, self.mode) for step in steps)
        self.embeddings = nn.ModuleList(_Ends(self.chain, inside) for inside, _ in steps) if self.mode == "np" else None
        pooled_width = global_width(self.chain, "hnp") * sizes[-1]
        if pooled_width * config.hidden > MAX_PARAMETERS:
            raise SpecError(f"{pooled_width:,} numbers are pooled, too many for {config.hidden} neurons")
        self.head = mlp(pooled_width, config.hidden, config.hidden, outputs, dropout=config.dropout)

    def prepare(self, weights: Tensor) -> None:
        """Take mean and deviation of each tensor."""
        self.scale.fit(weights)

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs]; see `Model`."""
        self.check(weights)
        matrices, biases = self.chain.split(self.scale(weights))
        for number, layer in enumerate(self.layers):
            if self.embeddings is not None:
                matrices, biases = self.embeddings[number](matrices, biases)
            matrices, biases = layer(matrices, biases)
            matrices, biases = [torch.relu(x) for x in matrices], [torch.relu(x) for x in biases]
        out: Tensor = self.head(pooled(self.chain, matrices, biases, "hnp"))
        return out


class _Ends(nn.Module):
    """Learned embeddings of inputs and outputs, added to the features that belong to them: with them NP tells inputs
    and outputs apart."""

    def __init__(self, chain: Chain, channels: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(chain.widths[0], channels * chain.positions[0]))
        self.last = nn.Parameter(torch.randn(chain.widths[-1], 1, channels * chain.positions[-1]))
        self.bias = nn.Parameter(torch.randn(chain.widths[-1], channels))

    def forward(self, weights: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        weights, biases = list(weights), list(biases)
        weights[0] = weights[0] + self.first
        weights[-1] = weights[-1] + self.last
        biases[-1] = biases[-1] + self.bias
        return weights, biases
