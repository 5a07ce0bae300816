"""The fast path of fields: `FieldBlock`, by the native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.fields import grid_points
from zoo_datasets.networks.layers import Layer, Linear, flat_layers
from zoo_datasets.stacked.block import BlockRecipe, Tally
from zoo_datasets.stacked.field import GRID, signals_of
from zoo_datasets.stacked.native.block import NativeBlock, Shape

# As many points as a row of small images has: what two layers keep of them fits the second-level cache.
_MOST_POINTS = 48


def points_shape(layers: Sequence[Layer], size: int) -> Shape:
    """The shape of the points that are computed at a time, [coordinates, 1, points], of images size × size."""
    total = size * size
    points = next(count for count in range(min(_MOST_POINTS, total), 0, -1) if total % count == 0)
    first = next((layer for layer in flat_layers(layers) if isinstance(layer, Linear)), None)
    return (2 if first is None else first.in_features), 1, points


class NativeFieldBlock(NativeBlock):
    """As `FieldBlock`, for up to `lanes()` members, by the native kernels on the CPU in float32.

    Sines are within 2e-7 (1.5e-7 with fused products and sums) for arguments up to 25,000, beyond which the C library
    computes them.
    """

    _of_fields: ClassVar[bool] = True

    def _in_shape(self, recipe: BlockRecipe, data: ImageData) -> Shape:
        return points_shape(recipe.layers, data.size)

    def _inputs(self, recipe: BlockRecipe, data: ImageData) -> dict[str, Tensor]:
        coordinates, _, count = self.in_shape
        points = grid_points(GRID, data.size).to(torch.float32).view(-1, count, coordinates)
        pixels = signals_of(data, recipe.seeds)[0][self._lanes].to(torch.float32) / 255.0
        parts = pixels.view(*pixels.shape[:2], -1, count)  # [lanes, C, parts, count]
        return {"points": points.transpose(1, 2).contiguous(), "targets": parts.permute(2, 1, 3, 0).contiguous()}

    def _pass(self, split: Split, used: Tensor, arrays: dict[str, Tensor], numbers: dict[str, float]) -> Tally:
        steps = int(numbers["steps"])
        arrays = arrays | {"parameters": self._weights}
        return self._run(self._kernels.zoo_fit, arrays, {**numbers, "length": self._parts}, steps)

    def evaluate(self, split: Split) -> Tally:
        """The mean squared error of each member on its own image."""
        return self._run(self._kernels.zoo_measure, {"parameters": self._acting()}, {"length": self._parts}, 1)

    @property
    def _parts(self) -> int:
        return len(self._fixed["points"])
