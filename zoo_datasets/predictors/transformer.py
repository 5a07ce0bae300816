"""A transformer on weights as tokens (Schürholt, Mahoney, Borth: Towards scalable and versatile weight space learning,
ICML 2024), with a head that is trained on the targets at once, without SANE's reconstruction before.

A token is a piece of the row of one channel, `zoo_datasets.adapters.to_tokens`; its position, three numbers, is
learned: E₁[token] + E₂[layer] beside E₃[token in the layer]. Blocks are GPT-2's, pre-norm, with full attention.
Positions tell the channels of a layer apart, so that nothing is invariant here: symmetry augmentation, or rows in a
canonical order, take the place of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo_datasets.adapters import count_tokens, position_sizes, to_matrices, to_tokens
from zoo_datasets.errors import SpecError
from zoo_datasets.predictors.base import Config, Decay, Depth, Model, Share, TensorScale, WeightSpace, Width, mlp

# Attention is of all tokens to all.
_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """Sizes of `Transformer`. SANE has width 1,024 and 8 blocks; this is for a processor.

    Attributes:
        token: numbers in a token; 0 means the longest row, up to 256.
        width: of a token's features, a multiple of `heads` and of 2.
    """

    weight_decay: Decay = 1e-4
    token: Annotated[int, Field(ge=0, le=4096)] = 0
    width: Width = 128
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    depth: Depth = 3
    hidden: Width = 128
    dropout: Share = 0.0


class Transformer(Model):
    """Tokens with positions, blocks of attention, the mean over tokens, and an MLP."""

    config_type = TransformerConfig
    choices = ({"learning_rate": 1e-3}, {"learning_rate": 3e-4})
    invariant: ClassVar[str] = "none"

    def __init__(self, space: WeightSpace, outputs: int, config: TransformerConfig) -> None:
        super().__init__(space, outputs, config)
        width, layout = config.width, space.layout
        if width % 2 or width % config.heads:
            raise SpecError(f"width {width}: expected a multiple of 2 and of {config.heads} heads")
        rows = to_matrices(torch.zeros(1, layout.size), layout).values()
        self.size = config.token or min(max(matrix.shape[2] for matrix in rows), 256)
        count = count_tokens(layout, self.size)
        if count > _TOKENS:
            raise SpecError(f"{count:,} tokens of {self.size} numbers, expected at most {_TOKENS:,}; give larger ones")
        tokens, layers, within = position_sizes(layout, self.size)
        self.scale = TensorScale(layout)
        self.embed = nn.Linear(self.size, width)
        self.positions = nn.ModuleList(nn.Embedding(size, width // 2) for size in (tokens, layers, within))
        self.blocks = nn.ModuleList(_Block(width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = mlp(width, config.hidden, outputs)
        for parameter in self.positions.parameters():
            nn.init.normal_(parameter, std=0.02)

    def prepare(self, weights: Tensor) -> None:
        """Take mean and deviation of each tensor."""
        self.scale.fit(weights)

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs]; see `Model`."""
        self.check(weights)
        tokens = to_tokens(self.scale(weights), self.space.layout, self.size)
        token, layer, within = (table(tokens.position[:1, :, place]) for place, table in enumerate(self.positions))
        x = self.embed(tokens.values) + torch.cat([token + layer, within], dim=2)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x.mean(dim=1)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width, bias=False)
        self.feed = mlp(width, 4 * width, width, activation=nn.GELU)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.norms[0](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.dropout(self.join(mixed.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.dropout(self.feed(self.norms[1](x)))
        return out
