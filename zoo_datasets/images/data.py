"""Prepared images as tensors that all members of a zoo share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.images.split import Role, Split
from zoo_datasets.specs.images import ImageSpec, Pixels
from zoo_datasets.specs.members import Limits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageData:
    """A prepared image dataset.

    Attributes:
        size: height and width of the images.
        fingerprint: hash of the prepared tensors of all splits before any limit, and of the spec's mean,
            std and number of classes; the Hub and a local copy give the same.
        val: None if the dataset has no validation images.
    """

    spec: ImageSpec
    size: int
    fingerprint: str
    train: Split
    val: Split | None
    test: Split

    def __repr__(self) -> str:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
        return (
            f"ImageData({self.spec.name}: {counts} images [{self.channels}, {self.size}, {self.size}], "
            f"{self.classes} classes)"
        )

    @property
    def channels(self) -> int:
        """Channels of an image: 1 if grey, 3 if RGB; the C of `images` [N, C, H, W]."""
        return self.spec.channels

    @property
    def classes(self) -> int:
        """How many labels there are, 0 to classes − 1: the length of a network's output."""
        return self.spec.classes

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, of pixels scaled to [0, 1]: float32 [C]."""
        return torch.tensor(self.spec.mean, dtype=torch.float32)

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel, of pixels scaled to [0, 1]: float32 [C]."""
        return torch.tensor(self.spec.std, dtype=torch.float32)

    @property
    def pixels(self) -> Pixels:
        """What the images were made into."""
        spec = self.spec
        return Pixels(
            size=self.size,
            mode=spec.mode,
            grey=spec.grey,
            fit=spec.fit,
            mean=spec.mean,
            std=spec.std,
            validation=self.val is not None,
        )

    def splits(self) -> dict[Role, Split]:
        """The splits that there are, by role."""
        splits: dict[Role, Split | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {role: split for role, split in splits.items() if split is not None}

    def normalise(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(pixels / 255 − mean) / std, on the device of `pixels`: uint8 [..., C, H, W] to `dtype`, same shape.

        In float32 it equals torchvision's ToTensor and Normalize bit for bit.
        """
        mean, std = (
            torch.tensor(values, dtype=dtype, device=pixels.device).view(-1, 1, 1)
            for values in (self.spec.mean, self.spec.std)
        )
        return pixels.to(dtype).div_(255).sub_(mean).div_(std)

    def limited(self, limits: Limits) -> ImageData:
        """The first so many images of each split (all if a limit is larger); the fingerprint stays."""

        def first(split: Split, limit: int | None) -> Split:
            return Split(split.images[:limit], split.labels[:limit])

        return dataclasses.replace(
            self,
            train=first(self.train, limits.train),
            val=None if self.val is None else first(self.val, limits.val),
            test=first(self.test, limits.test),
        )
