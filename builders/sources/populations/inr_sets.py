"""The published sets of INRs that are files of state dicts: what their names mean, and how their networks compute.

Conventions are those of the authors' code, which each entry names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo_datasets.networks.fields import Convention
from zoo_datasets.repository.credit import Credit
from zoo_datasets.repository.populations import DWSNETS, IMPLICIT_ZOO, NFN

_IMAGES = {
    "mnist": "mnist",
    "fmnist": "fashion_mnist",
    "fashion": "fashion_mnist",
    "fashionmnist": "fashion_mnist",
    "fashion_mnist": "fashion_mnist",
    "cifar": "cifar10",
    "cifar10": "cifar10",
}
# Of image data sets of which both splits were fitted: how many training images come first.
TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Fields = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class InrSet:
    """A published set of networks that each hold one signal.

    Attributes:
        name: of its configs, before the images.
        title: for messages.
        pattern: found in the path of a file of a network; its group `id` is what tells networks apart.
        called: found in the path of the first file and the name of what holds all, where the pattern is a usual one.
        read: columns of a network, of the match and the name of the images that the source's name tells.
        convention: of all its networks.
        code: where the convention stands in the authors' code.
        figures: name of JSON files above the networks that tell their PSNR.
        figures_by: the group of `pattern` by which they call a network: its `id`, or its `index`.
        splits: name of a JSON file that lists files by split.
    """

    name: str
    title: str
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], str | None], Fields]
    convention: Convention
    code: str
    credit: Credit
    figures: re.Pattern[str] | None = None
    figures_by: str = "id"
    splits: str | None = None
    called: re.Pattern[str] | None = None


def images_named(text: str) -> str | None:
    """The image data set that a name of a folder or an archive speaks of."""
    words = re.split(r"[^a-z0-9]+", text.lower())
    return next((_IMAGES[word] for word in words if word in _IMAGES), None)


def signal_group(images: str | None, split: str | None, index: int) -> str:
    """The name of a signal, the same for all networks of it: they lie in one split."""
    first = TRAINING_IMAGES.get(images or "")
    if split == "train+test" and first is not None:
        split, index = ("train", index) if index < first else ("test", index - first)
    return "/".join([images or "signal", *([split] if split else []), str(index)])


def _dws_mnist(match: re.Match[str], named: str | None) -> Fields:
    images = _IMAGES.get(match["images"].lower())
    split = {"training": "train", "testing": "test"}.get(match["split"], match["split"])
    label, index = match["label"], int(match["index"])
    number = _CIFAR10_CLASSES.index(label) if label in _CIFAR10_CLASSES else None
    return {
        "images": images,
        "label": int(label) if label.isdigit() else number,
        "signal_index": index,
        "signal_split": split,
        "source_split": split,
        "group": signal_group(images, split, index),
    }


def _dws_fashion(match: re.Match[str], named: str | None) -> Fields:
    index = int(match["index"])
    return {
        "images": "fashion_mnist",
        "signal_index": index,
        "source_split": match["split"],
        "group": signal_group("fashion_mnist", match["split"], index),
    }


def _nfn(match: re.Match[str], named: str | None) -> Fields:
    images = named if match["images"] is None else _IMAGES.get(match["images"].lower())
    index = int(match["index"])
    return {
        "images": images,
        "label": int(match["label"]),
        "signal_index": index,
        "signal_split": "train+test",
        "source_split": "train" if index < 45_000 else "val" if index < 50_000 else "test",
        "group": signal_group(images, "train+test", index),
        "copy": None if match["copy"] is None else int(match["copy"]),
    }


def _implicit(match: re.Match[str], named: str | None) -> Fields:
    images = "cifar10" if images_named(match["folder"] or "") == "cifar10" else named
    index, split = int(match["index"]), match["split"]
    return {
        "images": images,
        "label": int(match["label"]),
        "signal_index": index,
        "signal_split": {"eval": "test", "val": "test"}.get(split, split),
        "source_split": split,
        "group": signal_group(images, {"eval": "test", "val": "test"}.get(split, split), index),
        "seed": int(match["seed"]),
    }


_SINES = Convention(omega=30.0, omega_hidden=30.0)
_DWS = replace(_SINES, output_offset=0.5, grid="xy[-1,1]")
_DWS_CODE = "nn/inr.py and make_coordinates of experiments/utils.py of AvivNavon/DWSNets"
_NUMBER = r"\d{1,9}"

INR_SETS: tuple[InrSet, ...] = (
    InrSet(
        name="dws",
        title="INRs of DWSNets, by image",
        pattern=re.compile(
            r"(?:^|/)(?P<id>(?P<images>mnist|fmnist|fashion|fashionmnist|fashion_mnist|cifar|cifar10)_png"
            rf"_(?P<split>training|testing|train|test|val)_(?P<label>[A-Za-z0-9]{{1,40}})_(?P<index>{_NUMBER}))"
            r"/checkpoints/model_final\.pth$"
        ),
        read=_dws_mnist,
        convention=_DWS,
        code=_DWS_CODE,
        credit=DWSNETS,
        figures=re.compile(r"(?:^|/)psnr\.json$"),
    ),
    InrSet(
        name="dws",
        title="Fashion-MNIST INRs of DWSNets",
        pattern=re.compile(
            rf"(?:^|/)(?P<id>(?P<split>train|val|test)/(?:[^/]+/)?(?:[^/]*_)?(?P<index>{_NUMBER}))\.pth$"
        ),
        read=_dws_fashion,
        convention=_DWS,
        code=_DWS_CODE,
        credit=DWSNETS,
        figures=re.compile(r"(?:^|/)psnr\.json$"),
        splits="splits.json",
        called=re.compile(r"(?:fmnist|fashion[-_]?mnist)[-_]?inrs?", re.IGNORECASE),
    ),
    InrSet(
        name="nfn",
        title="INRs of NFN",
        pattern=re.compile(
            r"(?:^|/)(?:siren_(?P<images>mnist|fashion|cifar)_wts/)?"
            rf"(?P<id>randinit_smaller(?:_aug(?P<copy>{_NUMBER}))?_(?P<label>{_NUMBER})s/net(?P<index>{_NUMBER}))\.pth$"
        ),
        read=_nfn,
        convention=replace(_SINES, output_offset=0.0, grid="yx[-1,1]", signal_mean=(0.5,), signal_std=(0.5,)),
        code="experiments/siren_utils.py and data_utils.py of AllanYangZhou/nfn",
        credit=NFN,
    ),
    InrSet(
        name="implicit_zoo",
        title="Implicit-Zoo",
        pattern=re.compile(
            rf"(?:^|/)(?:(?P<folder>[^/]+)/)?(?P<id>(?P<split>train|eval|val|test)/ckpts/(?P<label>{_NUMBER})"
            rf"/(?P<index>{_NUMBER})_(?P<seed>{_NUMBER}))\.ckpt$"
        ),
        read=_implicit,
        convention=replace(
            _SINES,
            output_offset=0.0,
            grid="xy[-1,1]",
            signal_mean=(0.485, 0.456, 0.406),
            signal_std=(0.229, 0.224, 0.225),
        ),
        code="src/model_zoo/siren.py and experiments/cifar_generate_configs/main.yaml of qimaqi/Implicit-Zoo",
        credit=IMPLICIT_ZOO,
        figures=re.compile(rf"(?:^|/){_NUMBER}_{_NUMBER}\.json$"),
        figures_by="index",
    ),
)
