"""A block of fields in training: each member is fitted to a signal of its own, all pixels of an image at once."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_datasets.images.prepare import ImageData
from zoo_datasets.images.split import Split
from zoo_datasets.networks.fields import grid_points
from zoo_datasets.stacked.block import BlockRecipe, Tally, TorchBlock

GRID = "xy[-1,1]"
"""Where pixels are for the networks that are trained here; see `Convention`."""


def signals_of(data: ImageData, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """The images and labels of members: image seed − 1, counted over the training images and then the test images.

    Args:
        seeds: int64 [K], from 1 to the number of these.

    Returns:
        uint8 [K, C, H, W] and int64 [K].
    """
    numbers, first = seeds - 1, len(data.train)
    images = torch.empty(len(seeds), *data.train.images.shape[1:], dtype=torch.uint8)
    labels = torch.empty(len(seeds), dtype=torch.int64)
    for part, own, start in ((data.train, numbers < first, 0), (data.test, numbers >= first, first)):
        images[own], labels[own] = part.images[numbers[own] - start], part.labels[numbers[own] - start]
    return images, labels


def psnr(error: Tensor) -> Tensor:
    """−10 log₁₀ of mean squared errors of values in [0, 1]: in dB, of the shape of `error`."""
    return -10.0 * torch.log10(error)


class FieldBlock(TorchBlock):
    """As `TorchBlock`; the loss is the mean squared error over all pixels of the member's image, in [0, 1].

    A step is one over the whole image, and metrics are of whole images: `loss` is the mean squared error, `correct`
    means nothing and is 0. The splits that its methods are given are of no matter but for their length, the steps.
    """

    def __init__(
        self,
        recipe: BlockRecipe,
        data: ImageData,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(recipe, data, device, dtype)
        images, _ = signals_of(data, recipe.seeds[self._lanes])
        pixels = images.to(self._device, dtype) / 255.0
        self._targets = pixels.flatten(2).transpose(1, 2).contiguous()  # [lanes, H · W, C]
        self._places = grid_points(GRID, data.size).to(self._device, dtype)

    def gradients(
        self, split: Split, index: Tensor, *, epoch: int, step: int, kl_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass: mean squared error [lanes], zeros [lanes], gradients [lanes, P]."""
        parameters = self._parameters.detach().requires_grad_()
        with torch.enable_grad():
            error = self._error(parameters, training=True)
        (gradients,) = torch.autograd.grad(error.sum(), parameters)
        return error.detach(), self._zeros(torch.int64), gradients

    @torch.no_grad()
    def evaluate(self, split: Split, batch_size: int = 1) -> Tally:
        """The mean squared error of each member on its own image."""
        error = self._error(self._parameters, training=False)
        return self._members_of(Tally(error.to(torch.float64), self._zeros(torch.int64), 1))

    def _error(self, parameters: Tensor, training: bool) -> Tensor:
        drawn = self._network(self._tensors(parameters), self._places, training=training)
        return (drawn - self._targets).square().mean(dim=(1, 2))
