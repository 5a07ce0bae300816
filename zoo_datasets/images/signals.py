"""Images by their number in a data set, as networks were fitted to them one by one: each part in the order of its file.

Nothing is cut, cropped or normalised, unlike the images that classifiers were trained on.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from zoo_datasets.documents import StrPath, brief
from zoo_datasets.errors import ImagesError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.images.table import get_image_spec

TOGETHER: Final = "train+test"
"""Of images that are counted on from the training images to the test images."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Images of a part: uint8 [N, C, H, W]."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)


class Signals:
    """The images of a data set by number.

    Args:
        images: name in the table of image data sets.
        source: a folder in the layout of the Hub's data set, or an image folder; None means the Hub.

    Attributes:
        fingerprint: of images that are prepared; None of others.

    Raises:
        UnknownNameError: if there are no such images.
    """

    def __init__(self, images: str, source: StrPath | None = None) -> None:
        self.spec = get_image_spec(images)
        self.fingerprint: str | None = None
        self._source = None if source is None else Path(source).expanduser()

    @classmethod
    def prepared(cls, data: ImageData) -> Signals:
        """Of images as they were prepared for the training of fields."""
        signals = cls(data.spec.name)
        signals.fingerprint = data.fingerprint
        signals._parts = {role: _Prepared(split.images) for role, split in data.splits().items()}
        return signals

    @cached_property
    def _parts(self) -> Mapping[str, Any]:
        from zoo_datasets.images.sources import opened_source

        scratch = Path(tempfile.mkdtemp(prefix="zoo-images-"))
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        return {str(role): part for role, part in opened_source(self.spec, self._source, scratch).items()}

    def place(self, split: str, index: int) -> tuple[str, int] | None:
        """The part, `train` or `test`, and the number in it of an image; None where there is none.

        Args:
            split: a part, or `train+test`.
        """
        if split == TOGETHER and "train" in self._parts:
            first = len(self._parts["train"])
            split, index = ("train", index) if index < first else ("test", index - first)
        return (split, index) if split in self._parts and 0 <= index < len(self._parts[split]) else None

    def read(self, places: Sequence[tuple[str, int]]) -> Tensor:
        """Some images, in any order: uint8 [n, C, H, W].

        Raises:
            ImagesError: if one cannot be read, or they are of different sizes.
        """
        from zoo_datasets.images.sources import read_images

        found: dict[tuple[str, int], Tensor] = {}
        for split in dict.fromkeys(split for split, _ in places):
            numbers = sorted({index for part, index in places if part == split})
            if split not in self._parts or not 0 <= numbers[0] <= numbers[-1] < len(self._parts[split]):
                raise ImagesError(f"{self.spec.name} has no image {numbers[-1]} of {brief(split)}")
            if isinstance(part := self._parts[split], _Prepared):
                found |= {(split, index): part.images[index] for index in numbers}
                continue
            spec = dataclasses.replace(self.spec, fit="resize")
            pixels = read_images(self._parts[split].select(numbers), spec, f"{self.spec.name}, {split}")
            found |= {(split, index): image for index, image in zip(numbers, pixels, strict=True)}
        return torch.stack([found[place] for place in places])
