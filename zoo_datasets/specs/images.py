"""Image datasets of zoos: where they lie, and how they are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo_datasets.specs.bounds import MAX_SIDE

Grey = Literal["luma", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """One image dataset: where it lies and how it is prepared.

    Attributes:
        name: the name that zoos use, `cifar10`.
        hub_id: the dataset on the Hugging Face Hub; None for images that come with a library.
        architectures: the architectures this recipe is for; empty means any.
        train, val, test: number of images of the official split; `val` is cut from the training
            images, 0 means that there is none.
        val_split, test_split: names of official splits; None means cut from the training images.
        mode: PIL mode after preparation, `L` (one channel) or `RGB` (three).
        convert: whether images of another mode may be converted to `mode`.
        grey: how colours become grey: by luma (ITU-R 601-2), or as the mean of the channels.
        fit: how a size that differs from the architecture's is made to fit.
        mean, std: per channel, of pixel values scaled to [0, 1].
        raw_names: what folders of raw zoos call it besides `name`; `_` stands for `_`, `-` or nothing.
    """

    name: str
    hub_id: str | None
    hub_config: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    val_split: str | None = None
    test_split: str | None = "test"
    architectures: tuple[str, ...] = ()
    classes: int
    train: int
    val: int
    test: int
    mode: Literal["L", "RGB"]
    convert: bool = False
    grey: Grey = "luma"
    fit: Literal["resize", "crop"] = "resize"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw_names: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels after preparation."""
        return 1 if self.mode == "L" else 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """What images of one's own are made into: all that decides, besides the files, what networks see.

    Attributes:
        size: height and width; None for that of the architecture, or the images' own where it takes any.
        mode, grey, fit, mean, std: as of `ImageSpec`; without a mean and std 0.5 for each channel.
        validation: whether there are validation images: of their own folder, else cut from the training images.
    """

    size: int | None = None
    mode: Literal["L", "RGB"] = "RGB"
    grey: Grey = "luma"
    fit: Literal["resize", "crop"] = "resize"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    validation: bool = True

    def __post_init__(self) -> None:
        channels = 1 if self.mode == "L" else 3
        for name, least in (("mean", float("-inf")), ("std", 0.0)):
            values = getattr(self, name) or (0.5,) * channels
            object.__setattr__(self, name, values)
            if len(values) != channels or not all(least < value < float("inf") for value in values):
                above = " above 0" if name == "std" else ""
                raise ValueError(f"images.{name}: expected {channels} numbers{above}, one a channel, found {values}")
        if self.size is not None and not 1 <= self.size <= MAX_SIDE:
            raise ValueError(f"images.size: expected 1 to {MAX_SIDE:,}, found {self.size}")
