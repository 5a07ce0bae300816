"""Weights as sequences of tokens, one token a piece of a unit's weights."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.adapters.matrices import _check, _layers, to_matrices
from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.text import TensorsRepr


@dataclass(frozen=True, slots=True, repr=False)
class Tokens(TensorsRepr):
    """Weights as sequences of tokens.

    Attributes:
        values: [B, T, d]; padding is 0.
        mask: bool [B, T, d], true where a weight is.
        position: int64 [B, T, 3]: number of the token in the model, of its layer, and of the token in the layer.
    """

    values: Tensor
    mask: Tensor
    position: Tensor

    @property
    def position_sizes(self) -> tuple[int, int, int]:
        """How many values each of the three numbers of a position takes, 0 to size − 1, in this batch.

        Those of all batches, for `nn.Embedding`, are `position_sizes(layouts, size)`.
        """
        tokens, layers, within = (int(number) + 1 for number in self.position.flatten(0, 1).amax(dim=0))
        return tokens, layers, within


def to_tokens(weights: Tensor, layout: WeightLayout, size: int) -> Tokens:
    """SANE's chunking (Schürholt, Mahoney, Borth: Towards scalable and versatile weight space learning, ICML 2024):
    the row of each channel, cut into tokens of `size` numbers, the last one padded with zeros.

    Args:
        weights: [B, D].
        size: d, numbers in a token.

    Raises:
        LayoutError: if the weights are not [B, D], or the size is below 1.
    """
    _check(weights, layout)
    if size < 1:
        raise LayoutError(f"tokens of {size} numbers: expected at least 1")
    source, position = token_map(layout, size)
    source, position = source.to(weights.device), position.to(weights.device)
    mask = source >= 0
    values = weights[:, source.clamp(min=0).flatten()].view(len(weights), *source.shape)
    values = values.masked_fill(~mask, 0)
    return Tokens(values, mask.expand_as(values), position.expand(len(weights), -1, -1))


def from_tokens(tokens: Tensor, layout: WeightLayout) -> Tensor:
    """The weights [B, D] of tokens [B, T, d]; what stands in the padding is ignored, and so are surplus tokens.

    Raises:
        LayoutError: if these are too few.
    """
    source, _ = token_map(layout, tokens.shape[2])
    if tokens.shape[1] < len(source):
        raise LayoutError(f"got {tokens.shape[1]} tokens of {tokens.shape[2]} numbers, expected at least {len(source)}")
    source = source.to(tokens.device)
    mask = source >= 0
    weights = tokens.new_empty(len(tokens), layout.size)
    weights[:, source[mask]] = tokens[:, : len(source)][:, mask]
    return weights


def position_sizes(layouts: WeightLayout | Iterable[WeightLayout], size: int) -> tuple[int, int, int]:
    """How many values each of the three numbers of `Tokens.position` takes: what `nn.Embedding` needs for each.

    Args:
        layouts: of all networks that are made into tokens.
        size: d, numbers in a token.

    Returns:
        tokens of a network, layers, and tokens of a layer, each the most of any network.

    Raises:
        LayoutError: if there is no layout, or the size is below 1.
    """
    if size < 1:
        raise LayoutError(f"tokens of {size} numbers: expected at least 1")
    layouts = [layouts] if isinstance(layouts, WeightLayout) else list(layouts)
    if not layouts:
        raise LayoutError("position_sizes got no layouts, expected at least one")
    tokens, layers, within = (
        torch.cat([token_map(layout, int(size))[1] for layout in layouts]).amax(dim=0) + 1
    ).tolist()
    return tokens, layers, within


def count_tokens(layout: WeightLayout, size: int) -> int:
    """T, the number of tokens of a network."""
    return sum(
        specs[0].shape[0] * -(-sum(spec.size // spec.shape[0] for spec in specs) // size)
        for specs in _layers(layout).values()
    )


def mix(parts: Sequence[Tokens], length: int = 0) -> Tokens:
    """Tokens of networks of any sizes, with equal d, as one batch: shorter ones get tokens that are all padding.

    Args:
        length: T at least.

    Raises:
        LayoutError: if d differs.
    """
    sizes = {part.values.shape[2] for part in parts}
    if len(sizes) != 1:
        raise LayoutError(f"tokens of {sorted(sizes)} numbers: expected one size in all parts")
    longest = max(length, *(part.values.shape[1] for part in parts))

    def padded(tensor: Tensor) -> Tensor:
        surplus = tensor.new_zeros(len(tensor), longest - tensor.shape[1], tensor.shape[2])
        return torch.cat([tensor, surplus], dim=1)

    return Tokens(
        torch.cat([padded(part.values) for part in parts]),
        torch.cat([padded(part.mask) for part in parts]),
        torch.cat([padded(part.position) for part in parts]),
    )


@functools.lru_cache(maxsize=32)
def token_map(layout: WeightLayout, size: int) -> tuple[Tensor, Tensor]:
    """Where each number of each token lies in the flat vector, int64 [T, d] with −1 for padding; positions [T, 3]."""
    numbers = torch.arange(layout.size)[None]
    sources, positions = [], []
    for number, rows in enumerate(to_matrices(numbers, layout).values()):
        _, channels, width = rows.shape
        padded = torch.nn.functional.pad(rows[0], (0, -width % size), value=-1).view(-1, size)
        sources.append(padded)
        within = torch.arange(len(padded))
        positions.append(torch.stack([within, torch.full_like(within, number), within], dim=1))
        assert len(padded) == channels * -(-width // size)
    position = torch.cat(positions)
    position[:, 0] = torch.arange(len(position))
    return torch.cat(sources), position
