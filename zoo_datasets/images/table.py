"""The table of the image datasets."""

from __future__ import annotations

from typing import Any

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.specs.axes import base_of
from zoo_datasets.specs.images import ImageSpec

_HALF: dict[str, Any] = {"mean": (0.5,), "std": (0.5,)}
_HALF_RGB: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_MNIST: dict[str, Any] = {"mean": (0.1307,), "std": (0.3081,)}
_CIFAR10: dict[str, Any] = {"hub_id": "uoft-cs/cifar10", "image_column": "img", "raw_names": ("cifar_10",)}


# As the Small CNN Zoo prepares them: all official training images, x / 255 · 2 − 1, grey as the mean of the channels.
_SMALL_CNN: dict[str, Any] = {
    "architectures": ("small_cnn",), "classes": 10, "val": 0, "mode": "L", "grey": "mean", **_HALF,
}  # fmt: skip


# The signals of fields: all official images, pixels as they are in [0, 1].
_SIREN: dict[str, Any] = {"architectures": ("siren",), "classes": 10, "val": 0}


IMAGES: tuple[ImageSpec, ...] = (
    ImageSpec(
        name="mnist", hub_id="ylecun/mnist", train=60_000, test=10_000, mode="L", mean=(0.0,), std=(1.0,), **_SIREN,
    ),
    ImageSpec(
        name="fashion_mnist", hub_id="zalando-datasets/fashion_mnist", raw_names=("f_mnist",),
        train=60_000, test=10_000, mode="L", mean=(0.0,), std=(1.0,), **_SIREN,
    ),
    ImageSpec(
        name="cifar10", **_CIFAR10, train=50_000, test=10_000, mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3, **_SIREN,
    ),
    ImageSpec(name="mnist", hub_id="ylecun/mnist", train=60_000, test=10_000, **_SMALL_CNN),
    ImageSpec(
        name="fashion_mnist", hub_id="zalando-datasets/fashion_mnist", raw_names=("f_mnist",),
        train=60_000, test=10_000, **_SMALL_CNN,
    ),
    ImageSpec(name="cifar10", **_CIFAR10, train=50_000, test=10_000, convert=True, **_SMALL_CNN),
    ImageSpec(
        name="svhn", hub_id="ufldl-stanford/svhn", hub_config="cropped_digits",
        train=73_257, test=26_032, convert=True, **_SMALL_CNN,
    ),
    ImageSpec(
        name="mnist", hub_id="ylecun/mnist",
        classes=10, train=50_000, val=10_000, test=10_000, mode="L", **_MNIST,
    ),
    ImageSpec(
        name="fashion_mnist", hub_id="zalando-datasets/fashion_mnist", raw_names=("f_mnist",),
        classes=10, train=50_000, val=10_000, test=10_000, mode="L", **_HALF,
    ),
    ImageSpec(
        name="svhn", hub_id="ufldl-stanford/svhn", hub_config="cropped_digits",
        classes=10, train=60_000, val=13_257, test=26_032, mode="L", convert=True, fit="crop", **_HALF,
    ),
    ImageSpec(
        name="usps", hub_id="flwrlabs/usps",
        classes=10, train=6_000, val=1_291, test=2_007, mode="L", **_MNIST,
    ),
    ImageSpec(
        name="cifar10", **_CIFAR10, architectures=("resnet18",),
        classes=10, train=40_000, val=10_000, test=10_000, mode="RGB",
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    ImageSpec(
        name="cifar10", **_CIFAR10,
        classes=10, train=42_000, val=8_000, test=10_000, mode="RGB", **_HALF_RGB,
    ),
    ImageSpec(
        name="stl10", hub_id="tanganke/stl10", raw_names=("stl_10", "stl"),
        classes=10, train=4_200, val=800, test=8_000, mode="RGB", **_HALF_RGB,
    ),
    ImageSpec(
        name="cifar100", hub_id="uoft-cs/cifar100", image_column="img", label_column="fine_label",
        raw_names=("cifar_100",),
        classes=100, train=40_000, val=10_000, test=10_000, mode="RGB",
        mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761),
    ),
    ImageSpec(
        # Some images of the Hub's copy are grey.
        name="tiny_imagenet", hub_id="zh-plus/tiny-imagenet", test_split="valid", convert=True,
        classes=200, train=100_000, val=0, test=10_000, mode="RGB",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    ImageSpec(
        name="eurosat", hub_id="blanchon/EuroSAT_RGB", val_split="validation",
        classes=10, train=16_200, val=5_400, test=5_400, mode="RGB", **_HALF_RGB,
    ),
    ImageSpec(
        name="digits", hub_id=None, test_split=None,
        classes=10, train=1_297, val=250, test=250, mode="L", **_HALF,
    ),
)  # fmt: skip


def get_image_spec(images: str, architecture: str | None = None) -> ImageSpec:
    """The first recipe of that name that is for the architecture, whatever its sizes, or for any.

    Raises:
        UnknownNameError: with the names that are near.
    """
    base = architecture and base_of(architecture)
    for spec in IMAGES:
        if spec.name == images and (not spec.architectures or base in spec.architectures):
            return spec
    raise UnknownNameError("image dataset", images, {spec.name for spec in IMAGES})
