"""The information in the folder names of the published zoos and their trials."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.images import table as image_table
from zoo_datasets.networks.architectures import ARCHITECTURES, get_architecture
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.specs.spec import SparsifierName, digest_of
from zoo_datasets.specs.zoos import dense_name, get_zoo
from zoo_datasets.storage.names import file_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of zoo beside the one of seeds: `suffix` of its zoo's name, `folder` as its folder says it, and `pattern`
    of what else folders say."""

    suffix: str
    folder: str
    pattern: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinKind:
    """Twins by one sparsifier: `suffix` of their zoo's name, `folder` as its folder says it, and `pattern` of what else
    folders say; `{percent}` is the share of weights that are pruned."""

    sparsifier: SparsifierName
    suffix: str
    folder: str
    pattern: str


KINDS: tuple[Kind, ...] = (
    Kind(suffix="_hyp_fix", folder="_hyperparameter_10_fixed_seeds", pattern=r"hyp[a-z]*_(\d+_)?fix(ed)?(_seeds?)?"),
    Kind(suffix="_hyp_rand", folder="_hyperparameter_10_random_seeds", pattern=r"hyp[a-z]*_(\d+_)?rand(om)?(_seeds?)?"),
)
TWINS: tuple[TwinKind, ...] = (
    TwinKind(
        sparsifier="variational_dropout", suffix="_sparse", folder="_ard_vd", pattern=r"ard(_vd)?|_vd|sparse"
    ),
    TwinKind(
        sparsifier="magnitude", suffix="_magnitude{percent}", folder="_magn_{percent}",
        pattern=r"magn(itude)?_?(?P<percent>\d{1,2})",
    ),
)  # fmt: skip
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
# Of zoos that this package exports: what neither the tensors nor the authors' keys tell.
SPARSIFIER_KEY = "zoo_datasets::sparsifier"
WHOLE_COLUMNS = ("seed", "batch_size")
TEXT_COLUMNS = ("activation", "init", "optimizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderName:
    """The parts of a zoo folder's name. `size` is an architecture's `raw_size`, `percent` that of magnitude pruning."""

    images: str | None
    size: str
    suffix: str
    sparsifier: SparsifierName | None
    percent: int | None


def read_folder_name(name: str) -> FolderName:
    """Images, size, kind and sparsifier, where a zoo folder's name states them."""
    text = name.lower()
    twin, match = next(((twin, match) for twin in TWINS if (match := _found(twin.pattern, text))), (None, None))
    percent = match.groupdict().get("percent") if match is not None else None
    return FolderName(
        images=_longest({spec.name: _pattern(spec.name, *spec.raw_names) for spec in image_table.IMAGES}, text),
        size=_longest({size: re.escape(size.lower()) for size in map(raw_size, ARCHITECTURES) if size}, text) or "",
        suffix=next((kind.suffix for kind in KINDS if _found(kind.pattern, text)), ""),
        sparsifier=None if twin is None else twin.sparsifier,
        percent=None if percent is None else int(percent),
    )


_BY_TYPE = re.compile(
    r"tune_zoo_(?P<images>[a-z0-9](?:[a-z0-9_ -]*[a-z0-9])?)_(?:{})".format(
        "|".join(
            sorted({re.escape((one.raw_type or one.name).lower()) for one in ARCHITECTURES.values()}, reverse=True)
        )
    )
)


def free_images(folder: str) -> str | None:
    """The images of a folder that is named by images and type of network alone, `tune_zoo_blood-cells_cnn3`, whatever
    they are called: as names have it, `blood_cells`. Those of the table are called as there."""
    match = _BY_TYPE.fullmatch(folder.lower())
    if match is None:
        return None
    for spec in image_table.IMAGES:
        if re.fullmatch(_pattern(spec.name, *spec.raw_names), match["images"]):
            return spec.name
    return re.sub(r"[ _-]+", "_", match["images"])


def named_images(config: str, architecture: str) -> str | None:
    """The images that a config is named by: `blood_cells` of `blood_cells_cnn_l`; None where it ends otherwise."""
    images = config.removesuffix(f"_{architecture}")
    return images if images != config and NAME.fullmatch(images) else None


def raw_size(architecture: str) -> str:
    """What folders of raw zoos call an architecture beside their images."""
    entry = get_architecture(architecture)
    return entry.name if entry.raw_size is None else entry.raw_size


def raw_folder_name(config: str, images: str, architecture: str, sparsifier: str | None = None) -> str:
    """The name of a config's folder as the authors would give it: `tune_zoo_mnist_uniform` for `mnist_cnn_s`.

    Raises:
        SpecError: if it is pruned by magnitude and its name states no percentage.
    """
    config_name = read_folder_name(config)
    dense = dense_name(config, sparsifier)
    size = f"_{raw_size(architecture)}" if raw_size(architecture) else ""
    kind = next((kind.folder for kind in KINDS if kind.suffix == config_name.suffix), None)
    with contextlib.suppress(UnknownNameError):
        kind = kind or f"_{get_zoo(dense).init[0]}"
    names = (
        f"{images}{size}{kind}" if kind else dense,
        f"{images}{size}{config_name.suffix}",
        f"{images}{config_name.suffix}",
    )
    own = next((name for name in names if not _misleads(name, images, config_name.suffix)), names[-1])
    return file_name(f"tune_zoo_{own}{_twin_folder(config, sparsifier, config_name.percent)}")


def _misleads(name: str, images: str, suffix: str) -> bool:
    """Whether a dense zoo's folder of that name would be taken for one of other images or another kind, or of twins."""
    folder_name = read_folder_name(f"_{name}")
    return (
        folder_name.images not in (images, None) or folder_name.suffix != suffix or folder_name.sparsifier is not None
    )


def _twin_folder(config: str, sparsifier: str | None, percent: int | None) -> str:
    if sparsifier is None:
        return ""
    twin = next((twin for twin in TWINS if twin.sparsifier == sparsifier), None)
    if twin is None:
        return f"_{sparsifier}"
    if "{percent}" in twin.folder and percent is None:
        raise SpecError(f"{config}: its name does not tell how many percent are pruned; expected …_magnitude50")
    return twin.folder.format(percent=percent)


def zoo_name(
    images: str, architecture: str, suffix: str, sparsifier: SparsifierName | None, percent: int | None
) -> str:
    """The config's name: `mnist_cnn_s`, `mnist_cnn_s_hyp_rand_sparse`, `eurosat_cnn_s_magnitude50`."""
    own = "" if sparsifier is None else f"_{sparsifier}"
    twin = next((twin.suffix.format(percent=percent) for twin in TWINS if twin.sparsifier == sparsifier), own)
    return f"{images}_{architecture}{suffix}{twin}"


def raw_model_id(zoo_folder: str, trial_folder: str) -> str:
    """The id of an imported model: a hash of the names of its folders alone, so that a folder, an archive and a
    twin's path to its parent agree."""
    return digest_of(["raw", zoo_folder, trial_folder])


def parent_of(path: object) -> tuple[str, str] | None:
    """Zoo folder and trial folder of a twin's `training::init_checkpoint_path`; None if it is not one."""
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
        for raw_key, column in COLUMN_OF_KEY.items():
            if equals and re.search(rf"(^|_){raw_key.replace('::', '__')}$", key):
                columns[column] = value
    return columns


def read_trial_name(name: str) -> dict[str, Any]:
    """The hyperparameters that a trial folder's name holds, by column; invalid values are omitted."""
    values = {column: _value(column, text) for column, text in trial_name_values(name).items()}
    return {column: value for column, value in values.items() if value is not None}


def _value(column: str, text: str) -> Any:
    if column in TEXT_COLUMNS:
        return text if re.fullmatch(r"\w+", text, re.ASCII) else None
    try:
        value = int(text) if column in WHOLE_COLUMNS else float(text)
        return value if math.isfinite(value) else None
    except (ValueError, OverflowError):
        return None


def _pattern(*names: str) -> str:
    return "|".join("[_-]?".join(map(re.escape, name.lower().split("_"))) for name in names)


def _longest(patterns: Mapping[str, str], text: str) -> str | None:
    """The name whose pattern takes most of a text: `f_mnist` holds `mnist` too; the first of those that take as much.
    None if none matches."""
    taken = {name: len(match[0]) for name, pattern in patterns.items() if (match := _found(pattern, text))}
    return max(taken, key=taken.__getitem__, default=None)


def _found(pattern: str, text: str) -> re.Match[str] | None:
    return re.search(_EDGE.format(f"(?:{pattern})"), text)
