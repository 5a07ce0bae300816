"""A narrow vision transformer as a user writes it: plain PyTorch, nothing of zoo_datasets.

    zoo train narrow_vit.yaml --allow-code narrow_vit --models 16 --limit-train 2000

run in the folder of this file; `narrow_vit.yaml` beside it names `narrow_vit:make_model`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Self-attention, then two layers for each token by itself, both normalised before and added."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T, dim] to tokens."""
        normalised = self.norm1(tokens)
        tokens = tokens + self.attention(normalised, normalised, normalised, need_weights=False)[0]
        return tokens + self.narrow(functional.gelu(self.widen(self.norm2(tokens))))


class NarrowViT(nn.Module):
    """Square patches as tokens, a few blocks, and the mean of the tokens to logits."""

    def __init__(self, in_channels: int, classes: int, image_size: int, patch: int, dim: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, dim, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn((image_size // patch) ** 2, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads=4) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, classes]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def make_model(
    in_channels: int, classes: int, image_size: int, patch: int = 4, dim: int = 32, depth: int = 2
) -> NarrowViT:
    """The network of a member; its weights are drawn from torch's generator, which the zoo has seeded."""
    return NarrowViT(in_channels, classes, image_size, patch, dim, depth)
