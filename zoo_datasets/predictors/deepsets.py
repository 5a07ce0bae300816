"""Deep sets over channels (Zaheer et al.: Deep sets, NeurIPS 2017): a layer is a set of channels, and a channel a set
of the kernels that lead to it and a set of those that lead away.

For a hidden channel p of layer j: x_p = φⱼ(mean_q ψⱼ(W⁽ʲ⁾[p, q]), b⁽ʲ⁾[p], mean_r χⱼ(W⁽ʲ⁺¹⁾[r, p])), where a mean over
inputs or outputs of the whole network, which have names, is all of them side by side. The mean of x_p over p, for each
layer, and the last bias go into an MLP. Each layer is seen by itself: what a path through three layers does is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo_datasets.predictors.base import Config, Model, Share, TensorScale, WeightSpace, Width, mlp
from zoo_datasets.predictors.chain import chain_of

# Above so many weights of named inputs or outputs they are a set, too.
_NAMED = 1024


@dataclass(frozen=True, kw_only=True)
class DeepSetsConfig(Config):
    """Sizes of `DeepSets`.

    Attributes:
        channels: of a kernel's and a channel's features.
        hidden: width of the head's two hidden layers.
    """

    channels: Width = 64
    hidden: Width = 256
    dropout: Share = 0.0


class DeepSets(Model):
    """Sets of channels that are sets of kernels, and an MLP."""

    config_type = DeepSetsConfig
    choices = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3})
    invariant: ClassVar[str] = "permutations"

    def __init__(self, space: WeightSpace, outputs: int, config: DeepSetsConfig) -> None:
        super().__init__(space, outputs, config)
        self.chain = chain_of(space.layers)
        self.scale = TensorScale(space.layout)
        width, last = config.channels, len(self.chain)
        self.incoming, self.outgoing, self.channels = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for j in range(1, last):
            before, after = self.chain.matrices[j - 1], self.chain.matrices[j]
            ends = [before.inputs * before.positions if j == 1 else 0, after.outputs * after.positions]
            named = [j == 1 and ends[0] <= _NAMED, j == last - 1 and ends[1] <= _NAMED]
            self.incoming.append(_Set(before.positions, width, before.inputs if named[0] else 0))
            self.outgoing.append(_Set(after.positions, width, after.outputs if named[1] else 0))
            self.channels.append(mlp(2 * width + 1, width, width))
        classes = self.chain.widths[-1]
        head = width * (last - 1) + classes
        self.head = mlp(head, config.hidden, config.hidden, outputs, dropout=config.dropout)

    def prepare(self, weights: Tensor) -> None:
        """Take mean and deviation of each tensor."""
        self.scale.fit(weights)

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs]; see `Model`."""
        self.check(weights)
        matrices, biases = self.chain.split(self.scale(weights))
        layers = []
        for j, channel in enumerate(self.channels):
            parts = [self.incoming[j](matrices[j]), biases[j], self.outgoing[j](matrices[j + 1].transpose(1, 2))]
            layers.append(channel(torch.cat(parts, dim=2)).mean(dim=1))
        out: Tensor = self.head(torch.cat([*layers, biases[-1].flatten(1)], dim=1))
        return out


class _Set(nn.Module):
    """[B, n, m, k], a set of m kernels for each of n channels, to [B, n, width]; where `named`, m named ones."""

    def __init__(self, positions: int, width: int, named: int) -> None:
        super().__init__()
        self.named = bool(named)
        self.kernel = mlp(max(named, 1) * positions, width, width)

    def forward(self, kernels: Tensor) -> Tensor:
        if self.named:
            out: Tensor = self.kernel(kernels.flatten(2))
            return out
        mean: Tensor = self.kernel(kernels).mean(dim=2)
        return mean
