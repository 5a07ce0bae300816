"""Augmentation of a stack's batches, on pixels before normalisation; what comes from outside is black."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo_datasets.stacked.streams import AUGMENTATION, random_words

CROP_PADDING = 4
ROTATION_DEGREES = 20.0

# One Philox block a sample: row shift, column shift, flip, angle.
_DRAWS = 4
_ROW, _COLUMN, _FLIP, _ANGLE = range(_DRAWS)


def augment(pixels: Tensor, kinds: Sequence[str], seeds: Tensor, *, epoch: int, step: int) -> Tensor:
    """Apply the augmentations in order to uint8 pixels [K, B, C, H, W]; each sample draws its own."""
    members, batch = pixels.shape[:2]
    words = random_words(seeds, AUGMENTATION, epoch=epoch, step=step, count=_DRAWS * batch)
    draws = words.view(members * batch, _DRAWS)
    flat = pixels.flatten(0, 1)
    for kind in kinds:
        rows, columns = AUGMENTATIONS[kind](draws, *flat.shape[-2:])
        flat = _take(flat, rows, columns)
    return flat.view(pixels.shape)


def _crop(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """torchvision's RandomCrop of the same size after zero padding by 4."""
    shifts = draws[:, [_ROW, _COLUMN]] % (2 * CROP_PADDING + 1) - CROP_PADDING
    rows = torch.arange(height, device=draws.device)[None, :, None] + shifts[:, :1, None]
    columns = torch.arange(width, device=draws.device)[None, None, :] + shifts[:, 1:, None]
    return rows.expand(-1, -1, width), columns.expand(-1, height, -1)


def _flip(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Horizontal flip of every second sample."""
    forward = torch.arange(width, device=draws.device)[None, None, :]
    flipped = (draws[:, _FLIP] & 1).bool()[:, None, None]
    columns = torch.where(flipped, width - 1 - forward, forward)
    rows = torch.arange(height, device=draws.device)[None, :, None]
    return rows.expand(len(draws), -1, width), columns.expand(-1, height, -1)


def _rotate(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rotation about the centre by up to ± 20°, nearest pixel, as torchvision's RandomRotation."""
    share = (draws[:, _ANGLE].to(torch.float64) + 0.5) * 2.0**-32
    angle = ((2 * share - 1) * math.radians(ROTATION_DEGREES))[:, None, None]
    y = (torch.arange(height, device=draws.device, dtype=torch.float64) - (height - 1) / 2)[None, :, None]
    x = (torch.arange(width, device=draws.device, dtype=torch.float64) - (width - 1) / 2)[None, None, :]
    rows = torch.cos(angle) * y - torch.sin(angle) * x + (height - 1) / 2
    columns = torch.sin(angle) * y + torch.cos(angle) * x + (width - 1) / 2
    return torch.round(rows).to(torch.int64), torch.round(columns).to(torch.int64)


def _take(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """pixels[n, :, rows[n], columns[n]] with 0 outside: uint8 [N, C, H, W], indices [N, H, W]."""
    height, width = pixels.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    flat = pixels.flatten(2)
    taken = flat.gather(2, index.flatten(1)[:, None, :].expand(-1, flat.shape[1], -1))
    return (taken * inside.flatten(1)[:, None, :]).view(pixels.shape)


AUGMENTATIONS: dict[str, Callable[[Tensor, int, int], tuple[Tensor, Tensor]]] = {
    "crop": _crop,
    "flip": _flip,
    "rotate": _rotate,
}
