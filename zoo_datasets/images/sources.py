"""Where images come from: the Hub, a local folder, scikit-learn's digits; read into uint8 tensors.

Stages, each owned by one function:

1. `read_source` opens the source and returns the splits it holds, by role (train, val, test);
2. `_load_folder` and `_load_hub` ask `datasets` for the rows;
3. `find_columns` chooses the image and the label column;
4. `prepare_image` makes one image fit: mode, then crop or resize.

Cutting validation images from the training images, and the cache, belong to `zoo_datasets.images`.
"""

from __future__ import annotations

import contextlib
import glob
import io
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import yaml
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo_datasets.errors import ImagesError
from zoo_datasets.images.split import VALIDATION_NAMES, Role, Split
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.specs.images import ImageSpec
from zoo_datasets.specs.zoos import list_zoos
from zoo_datasets.storage.files import cache_folder
from zoo_datasets.terminal import Fetched

BATCH = 1000
HUB_TIMEOUT = 10.0  # seconds until a Hub that does not answer counts as out of reach
# Raster formats that Pillow decodes by itself; others, such as EPS, would start another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 1 << 26  # of one image
# Eight bits a channel; others, such as I;16, would lose theirs in silence.
_CONVERTIBLE = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
)
# For errors: the first zoo of the table for images of a mode.
ZOO_OF_MODE: dict[str, str] = {
    get_image_spec(zoo.images, zoo.architecture).mode: zoo.name for zoo in reversed(list_zoos())
}

# HTTPError is that of httpx or of its successor, whichever the Hub's client uses.
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, DatasetsError, pa.ArrowException, HTTPError, yaml.YAMLError)
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_source(
    spec: ImageSpec, source: Path | None, size: int | None, progress: Fetched | None = None
) -> dict[Role, Split]:
    """The splits that a source holds, prepared to `size` × `size` pixels (None: as they are), in file order.

    Always with `train`; with `val` and `test` if the source has them.

    Args:
        source: a local folder; None means the Hub, or scikit-learn for the digits.
        progress: called with the split, the images done and the images in all.

    Raises:
        ImagesError: if the source cannot be read or is not what the spec expects.
    """
    if source is not None:
        with tempfile.TemporaryDirectory(prefix="zoo-images-") as scratch:
            return _read_splits(_load_folder(spec, source, Path(scratch)), spec, str(source), size, progress)
    if spec.hub_id is not None:
        return _read_splits(_load_hub(spec), spec, spec.hub_id, size, progress)
    return {"train": _read_digits(spec, size)}


def opened_source(spec: ImageSpec, source: Path | None, scratch: Path) -> dict[Role, datasets.Dataset]:
    """The splits that a source holds as they are, by role, of which `read_images` reads some; errors as `read_source`.

    Args:
        scratch: an empty folder for what is needed while they are read.
    """
    if source is None and spec.hub_id is None:
        raise ImagesError(f"{spec.name} has no files of its own: pass a folder with its images, --images PATH")
    loaded = _load_hub(spec) if source is None else _load_folder(spec, source, scratch)
    names = _split_names(list(loaded), spec, str(source or spec.hub_id))
    return {role: loaded[name] for role, name in names.items()}


def read_images(dataset: datasets.Dataset, spec: ImageSpec, where: str) -> Tensor:
    """The images of a data set in their own size: uint8 [n, C, H, W]; errors as `read_source`."""
    return _read_split(dataset, where, where, spec, None, None).images


def _load_folder(spec: ImageSpec, folder: Path, scratch: Path) -> Mapping[str, Any]:
    """All splits of a local folder. `scratch` holds the Arrow files: the usual cache of `datasets` takes a
    folder for unchanged when files in it change under the same names."""
    location = str(folder.resolve())  # absolute, so that it is never taken for an id on the Hub
    if glob.has_magic(location):
        raise ImagesError(f"{location}: `datasets` takes *, ? and [ in a path for a pattern; rename the folder")
    try:
        with _without_progress_bars():
            configs = datasets.get_dataset_config_names(location)
            config = next((name for name in (spec.hub_config, spec.name) if name in configs), None)
            if config is None and len(configs) > 1:
                config = datasets.get_dataset_default_config_name(location)
                if config is None:
                    raise ImagesError(
                        f"{folder} holds the configs {', '.join(configs)}; expected one, or one named {spec.name}. "
                        "Pass a folder with one config, or mark one as default in its README.md"
                    )
            loaded: Mapping[str, Any] = datasets.load_dataset(location, config, cache_dir=str(scratch))
            return loaded
    except ImagesError:
        raise
    except _LOAD_ERRORS as error:
        raise ImagesError(
            f"{folder} could not be loaded as images: {_reason(error)}. Expected a folder in the layout of "
            f"{spec.hub_id or 'a dataset on the Hub'}, or an image folder train/<class>/*.png"
        ) from error


def _load_hub(spec: ImageSpec) -> Mapping[str, Any]:
    """The splits of the Hub's dataset that have a role; if the Hub is out of reach, those that are in a cache."""
    unreachable = _hub_is_unreachable(spec)
    try:
        if unreachable:
            with _offline():
                return _load_cached(spec)
        return _load_needed(spec)
    except ImagesError:
        raise
    except _LOAD_ERRORS as error:
        raise ImagesError(
            f"{spec.name} could not be fetched from the Hub ({spec.hub_id}: {unreachable or _reason(error)}): "
            "connect to the network, or download it elsewhere and pass its folder: "
            f"--images PATH (a folder in the layout of {spec.hub_id}, or an image folder)"
        ) from error


def _load_needed(spec: ImageSpec) -> Mapping[str, Any]:
    """The splits that have a role; no file of another split, as the 531,131 images of SVHN's `extra`, is fetched."""
    builder = datasets.load_dataset_builder(spec.hub_id, spec.hub_config)
    files = builder.config.data_files
    needed = _split_names(list(files), spec, str(spec.hub_id)).values() if files else ()
    if set(needed) == set(files or ()):
        loaded: Mapping[str, Any] = datasets.load_dataset(spec.hub_id, spec.hub_config)
        return loaded
    # In a cache of our own: a later `load_dataset` would take the splits in its cache for all that there are.
    builder = datasets.load_dataset_builder(spec.hub_id, spec.hub_config, cache_dir=str(_some_splits()))
    builder.config.data_files = type(files)({name: files[name] for name in files if name in needed})
    for name in set(builder.info.splits or ()).difference(needed):
        builder.info.splits.pop(name)  # its rows are not expected
    builder.download_and_prepare()
    return cast(Mapping[str, Any], builder.as_dataset())


def _load_cached(spec: ImageSpec) -> Mapping[str, Any]:
    """What an earlier `_load_needed` has prepared, or else anybody's `load_dataset`."""
    with contextlib.suppress(*_LOAD_ERRORS):
        return cast(
            Mapping[str, Any], datasets.load_dataset(spec.hub_id, spec.hub_config, cache_dir=str(_some_splits()))
        )
    return cast(Mapping[str, Any], datasets.load_dataset(spec.hub_id, spec.hub_config))


def _some_splits() -> Path:
    return cache_folder() / "some-splits"


def _hub_is_unreachable(spec: ImageSpec) -> str | None:
    """Why the Hub cannot be reached, asked once, because `datasets` alone asks for 23 seconds; None if it can."""
    try:
        HfApi(endpoint=datasets.config.HF_ENDPOINT).dataset_info(str(spec.hub_id), timeout=HUB_TIMEOUT)
    except HfHubHTTPError:
        return None  # it answers; `datasets` will say what is wrong
    except (OSError, HTTPError) as error:
        return _reason(error)
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    disabled = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def _reason(error: BaseException) -> str:
    """One line; `datasets` wraps what went wrong in an error that only says that something did."""
    if isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return (text or type(error).__name__).rstrip(".")


def _read_splits(
    loaded: Mapping[str, Any], spec: ImageSpec, origin: str, size: int | None, progress: Fetched | None
) -> dict[Role, Split]:
    names = _split_names(list(loaded), spec, origin)
    splits = {role: _read_split(loaded[name], f"{origin}, split {name!r}", name, spec, size, progress)
              for role, name in names.items()}  # fmt: skip
    shapes = {names[role]: tuple(split.images.shape[1:]) for role, split in splits.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{shape[2]}×{shape[1]} in {name}" for name, shape in shapes.items())
        raise ImagesError(f"{origin}: images of different sizes found: {sizes}; resize them to one size")
    return splits


def _split_names(available: list[str], spec: ImageSpec, origin: str) -> dict[Role, str]:
    """The source's name of each role's split; a role that is missing is cut from the training images.

    A validation split in a user's own folder is used even where the published one is cut.
    """

    def match(name: str | None) -> str | None:
        candidates = (name, *VALIDATION_NAMES) if name in VALIDATION_NAMES else (name,)
        return next((candidate for candidate in candidates if candidate in available), None)

    train = match(spec.train_split)
    if train is None:
        raise ImagesError(
            f"{origin}: split {spec.train_split!r} expected, found {', '.join(available) or 'none'}; "
            f"rename the folder or file of the training images to {spec.train_split}"
        )
    roles: dict[Role, str | None] = {
        "train": train,
        "val": match(spec.val_split or "validation") if spec.val else None,
        "test": match(spec.test_split) or match("test"),
    }
    return {role: name for role, name in roles.items() if name is not None}


def _read_split(
    dataset: Any, where: str, name: str, spec: ImageSpec, size: int | None, progress: Fetched | None
) -> Split:
    total = len(dataset)
    if not total:
        raise ImagesError(f"{where}: no images found")
    image_column, label_column = find_columns(dataset.features, spec, where)
    labels = _labels(dataset.select_columns([label_column]), label_column, spec, where)
    rows = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    pixels: NDArray[np.uint8] | None = None
    done = 0
    for batch in rows.with_format("arrow").iter(batch_size=BATCH):
        column = batch[image_column]
        contents, paths = (pc.struct_field(column, part).to_pylist() for part in ("bytes", "path"))
        for content, path in zip(contents, paths, strict=True):
            try:
                prepared = prepare_image(decode_image(content, path), spec, size)
                if pixels is None:
                    pixels = np.empty((total, *prepared.shape), np.uint8)
                elif prepared.shape != pixels.shape[1:]:
                    raise ImagesError(f"{_size(prepared)} found, {_size(pixels)} expected as before; resize the images")
            except ImagesError as error:
                raise ImagesError(f"{where}, image {done}{f' ({path})' if path else ''}: {error}") from error
            pixels[done] = prepared
            done += 1
        if progress is not None:
            progress(name, done, total)
    assert pixels is not None
    return Split(torch.from_numpy(pixels), labels)


def find_columns(features: Mapping[str, Any], spec: ImageSpec, where: str) -> tuple[str, str]:
    """The names of the image and the label column: the spec's, else the only ones of their kind.

    Raises:
        ImagesError: listing the available columns and those expected.
    """
    images = [name for name, feature in features.items() if _holds_images(feature)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    integers = [name for name, feature in features.items() if _holds_integers(feature)]
    image = spec.image_column if spec.image_column in images else images[0] if len(images) == 1 else None
    label = spec.label_column if spec.label_column in (*labels, *integers) else labels[0] if len(labels) == 1 else None
    if image is not None and label is not None:
        return image, label
    columns = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    problem = (
        f"{where}: columns found: {columns}; expected {spec.image_column} (Image) and {spec.label_column} "
        f"(ClassLabel or integers 0 to {spec.classes - 1})"
    )
    named = features.get(spec.label_column)
    if isinstance(named, datasets.Value) and "string" in named.dtype:
        raise ImagesError(
            f"{problem}. Labels are strings: turn them into integers, "
            f"for instance with Dataset.class_encode_column({spec.label_column!r})"
        )
    raise ImagesError(f"{problem}. Rename or add the missing column, or use an image folder train/<class>/*.png")


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, dict):  # an Image written without the features' metadata
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image)


def _holds_integers(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint"))


def _kind(feature: Any) -> str:
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__


def _labels(dataset: Any, column: str, spec: ImageSpec, where: str) -> Tensor:
    """The labels, int64 [N], each in [0, classes)."""
    values = dataset.with_format("arrow")[:][column]
    bad = pc.invert(pc.fill_null(pc.and_(pc.greater_equal(values, 0), pc.less(values, spec.classes)), False))
    if pc.any(bad).as_py():
        index = pc.index(bad, True).as_py()
        label = values[index].as_py()
        raise ImagesError(
            f"{where}, image {index}: {'no label' if label is None else f'label {label}'} found, "
            f"0 to {spec.classes - 1} expected; {spec.name} has {spec.classes} classes: "
            "number them from 0 and leave out unlabelled images"
        )
    return torch.from_numpy(values.cast(pa.int64()).to_numpy().copy())


def decode_image(content: bytes | None, path: str | None) -> Image.Image:
    """The decoded image, turned upright as `datasets` does.

    Raises:
        ImagesError: if it is missing, truncated or of an unknown format.
    """
    if content is None and path is None:
        raise ImagesError("no image found; leave out the row")
    try:
        # The path of an image that comes with its content is a bare name.
        with Image.open(io.BytesIO(content) if content is not None else str(path), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImagesError(
                    f"{image.width:,}×{image.height:,} pixels found, at most {MAX_PIXELS:,} in all expected"
                )
            image.load()
            return _upright(image)
    except ImagesError:
        raise
    except _DECODE_ERRORS as error:
        raise ImagesError(
            f"could not be decoded: {_reason(error)}; replace it or leave it out ({', '.join(FORMATS)} are read)"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ExifTags, ImageOps

    if "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) is not None:
        return ImageOps.exif_transpose(image)
    return image


def prepare_image(image: Image.Image, spec: ImageSpec, size: int | None) -> NDArray[np.uint8]:
    """One image as the networks see it before normalisation: uint8 [C, H, W].

    The mode first (grey as the spec says: ITU-R 601-2 luma, as PIL does it, or the mean of the channels), then a centre
    crop or a bilinear, antialiased resize of the uint8 image to `size` × `size`; None keeps a square image's own size.

    Raises:
        ImagesError: if the image is of another mode and may not be converted, or cannot be made to fit.
    """
    if image.mode != spec.mode:
        # One bit to eight loses nothing.
        if not spec.convert and (image.mode, spec.mode) != ("1", "L"):
            other = ZOO_OF_MODE.get(image.mode)
            raise ImagesError(
                f"mode {image.mode} found, {spec.mode} ({spec.channels} channel{'s' * (spec.channels > 1)}) expected "
                f"by {spec.name}; convert the images to {spec.mode}"
                + (f", or choose a zoo for images of mode {image.mode}, such as {other}" if other else "")
            )
        if image.mode not in _CONVERTIBLE:
            raise ImagesError(f"mode {image.mode} found, 8 bits a channel expected; convert the images first")
        image = _mean_of_channels(image) if (spec.mode, spec.grey) == ("L", "mean") else image.convert(spec.mode)
    width, height = image.size
    if size is None and width != height:
        raise ImagesError(f"{width}×{height} pixels found, a square image expected; crop or resize the images")
    if size is not None and (width, height) != (size, size):
        if spec.fit == "resize":
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        elif min(width, height) >= size:
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        else:
            raise ImagesError(f"{width}×{height} pixels found, at least {size}×{size} expected; enlarge the images")
    pixels: NDArray[np.uint8] = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _mean_of_channels(image: Image.Image) -> Image.Image:
    """Grey as the mean of red, green and blue, rounded to even."""
    colours = np.asarray(image.convert("RGB"), np.float64)
    return Image.fromarray(np.rint(colours.mean(axis=2)).astype(np.uint8))


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[-1]}×{pixels.shape[-2]} pixels"


def _read_digits(spec: ImageSpec, size: int | None) -> Split:
    """All 1,797 digits of scikit-learn, their 17 grey levels spread over 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([prepare_image(Image.fromarray(level), spec, size) for level in levels])
    return Split(torch.from_numpy(images), torch.from_numpy(digits.target.astype(np.int64)))
