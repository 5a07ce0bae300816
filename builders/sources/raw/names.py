"""What the folder names of the published zoos and their trials tell."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from zoo_datasets.specs.spec import Sparsifier, digest_of

# The longer name first: `f_mnist` holds `mnist`, `cifar100` holds `cifar10`.
IMAGE_NAMES: tuple[tuple[str, str], ...] = (
    (r"f(ashion)?[_-]?mnist", "fashion_mnist"),
    (r"mnist", "mnist"),
    (r"svhn", "svhn"),
    (r"usps", "usps"),
    (r"cifar[_-]?100", "cifar100"),
    (r"cifar[_-]?10", "cifar10"),
    (r"tiny[_-]?imagenet", "tiny_imagenet"),
    (r"stl([_-]?10)?", "stl10"),
    (r"eurosat", "eurosat"),
    (r"digits", "digits"),
)
KIND_SUFFIXES: tuple[tuple[str, str], ...] = (
    (r"hyp[a-z]*_(\d+_)?fix(ed)?(_seeds?)?", "_hyp_fix"),
    (r"hyp[a-z]*_(\d+_)?rand(om)?(_seeds?)?", "_hyp_rand"),
)
_TWINS: tuple[tuple[str, Sparsifier], ...] = (
    (r"ard(_vd)?|_vd|sparse", "variational_dropout"),
    (r"magn(itude)?_?(?P<percent>\d{1,2})", "magnitude"),
)
_EDGE = r"(?:^|(?<=[_\-/\s])){}(?=$|[_\-/.\s])"
_DATE = re.compile(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$")

# Keys of params.json, as Ray Tune writes them into folder names, and the columns that they fill.
COLUMN_OF_KEY: dict[str, str] = {
    "model::nlin": "activation",
    "model::init_type": "init",
    "model::dropout": "dropout",
    "optim::optimizer": "optimizer",
    "optim::lr": "lr",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "training::batchsize": "batch_size",
    "seed": "seed",
}
WHOLE_COLUMNS = ("seed", "batch_size")
TEXT_COLUMNS = ("activation", "init", "optimizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderName:
    """What a zoo folder's name says. `percent` is that of magnitude pruning."""

    images: str | None
    suffix: str
    sparsifier: Sparsifier | None
    percent: int | None


def read_folder_name(name: str) -> FolderName:
    """Images, kind and sparsifier, as far as a zoo folder's name tells them."""
    text = name.lower()
    images = next((images for pattern, images in IMAGE_NAMES if _found(pattern, text)), None)
    suffix = next((suffix for pattern, suffix in KIND_SUFFIXES if _found(pattern, text)), "")
    for pattern, sparsifier in _TWINS:
        if match := _found(pattern, text):
            percent = match.groupdict().get("percent")
            return FolderName(
                images=images, suffix=suffix, sparsifier=sparsifier, percent=None if percent is None else int(percent)
            )
    return FolderName(images=images, suffix=suffix, sparsifier=None, percent=None)


def zoo_name(images: str, architecture: str, suffix: str, sparsifier: Sparsifier | None, percent: int | None) -> str:
    """The config's name: `mnist_cnn_s`, `mnist_cnn_s_hyp_rand_sparse`, `eurosat_cnn_s_magnitude50`."""
    twin = "" if sparsifier is None else "_sparse" if percent is None else f"_magnitude{percent}"
    return f"{images}_{architecture}{suffix}{twin}"


def raw_model_id(zoo_folder: str, trial_folder: str) -> str:
    """The id of an imported model: a hash of the names of its folders alone, so that a folder, an archive and a
    twin's path to its parent agree."""
    return digest_of(["raw", zoo_folder, trial_folder])


def parent_of(path: object) -> tuple[str, str] | None:
    """Zoo folder and trial folder of a twin's `training::init_checkpoint_path`; None where it is none."""
    if not isinstance(path, str):
        return None
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and re.fullmatch(r"checkpoints?|checkpoint_\d+", parts[-1]):
        parts.pop()
    if parts and re.fullmatch(r"checkpoint_\d+", parts[-1]):
        parts.pop()
    return (parts[-2], parts[-1]) if len(parts) >= 2 else None


def trial_name_values(name: str) -> dict[str, str]:
    """The texts of hyperparameters that a trial folder's name holds, by column."""
    columns: dict[str, str] = {}
    for part in _DATE.sub("", name).split(","):
        key, equals, value = part.rpartition("=")
        for known, column in COLUMN_OF_KEY.items():
            if equals and re.search(rf"(^|_){known.replace('::', '__')}$", key):
                columns[column] = value
    return columns


def read_trial_name(name: str) -> dict[str, Any]:
    """The hyperparameters that a trial folder's name holds, by column; values that make no sense are left away."""
    values = {column: _value(column, text) for column, text in trial_name_values(name).items()}
    return {column: value for column, value in values.items() if value is not None}


def _value(column: str, text: str) -> Any:
    if column in TEXT_COLUMNS:
        return text if re.fullmatch(r"[a-z_]+", text) else None
    try:
        value = int(text) if column in WHOLE_COLUMNS else float(text)
        return value if math.isfinite(value) else None
    except (ValueError, OverflowError):
        return None


def _found(pattern: str, text: str) -> re.Match[str] | None:
    return re.search(_EDGE.format(f"(?:{pattern})"), text)
