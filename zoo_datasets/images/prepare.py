"""Loading an image dataset into tensors that all members of a zoo share.

`load_images` reads a source once, makes every image fit the architecture, cuts the splits and keeps the
result as one safetensors file, so that later runs and other processes map it into memory. Pixels stay
uint8 until `ImageData.normalise`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zoo_datasets.documents import StrPath
from zoo_datasets.errors import ImagesError, SpecError
from zoo_datasets.images.cache import cache_file, find_prepared, fingerprint_of, prepared_images
from zoo_datasets.images.cutting import cut
from zoo_datasets.images.data import ImageData
from zoo_datasets.images.own import own_spec, read_class_folders, spec_before_cut
from zoo_datasets.images.split import Role, Split, folder_digest
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.specs.images import ImageSpec, Pixels
from zoo_datasets.specs.spec import OWN_FIELDS, ZooSpec, digest_of
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.terminal import Fetched

__all__ = ["ImageData", "Split", "cut", "images_of", "images_of_record", "load_images"]

PREPARATION = 1  # raise it when the same source would be prepared differently


def load_images(
    images: str,
    architecture: str,
    source: StrPath | None = None,
    cache_dir: StrPath | None = None,
    progress: Fetched | None = None,
) -> ImageData:
    """An image dataset, prepared for an architecture; read from its source once and then from the cache.

    Args:
        images: name in `IMAGES`.
        architecture: name of the architecture, which decides the size.
        source: a local folder in the layout of the Hub's dataset, or an image folder train/<class>/*.png;
            None means the Hub.
        cache_dir: folder for prepared images; None means the environment's ZOO_CACHE, else
            ~/.cache/zoo-datasets.
        progress: called while images are prepared, with the split, the images done and the images in all.

    Raises:
        UnknownNameError: if the dataset or the architecture is unknown.
        ImagesError: if the source cannot be reached or read, or is not what the spec expects.
        StorageError: if the cache cannot be written.

    Warns:
        UserWarning: if the source holds other numbers of images than the published dataset.
    """
    spec = get_image_spec(images, architecture)
    return _load(spec, get_architecture(architecture).input_size, source, cache_dir, progress)


def images_of(
    zoo: ZooSpec,
    source: StrPath | None = None,
    cache_dir: StrPath | None = None,
    progress: Fetched | None = None,
    fingerprint: str | None = None,
) -> ImageData:
    """The images of a zoo, of one's own too.

    Args:
        zoo: the zoo.
        source, cache_dir, progress: as of `load_images`; images of one's own have no other source than a folder.
        fingerprint: of the images that are wanted; without a source, those that were prepared on this machine before
            are looked for first.

    Raises:
        SpecError: where the images have another size than the architecture takes.
        ImagesError: where images of one's own are nowhere to be found; else as `load_images`.
        StorageError: as `load_images`.
    """
    size = get_architecture(zoo.architecture).input_size if zoo.layers is None else zoo.input_size
    if zoo.pixels is None:
        return _of_table(get_image_spec(zoo.images, zoo.architecture), size, source, cache_dir, progress, fingerprint)
    if zoo.pixels.size is not None and size not in (None, zoo.pixels.size):
        raise SpecError(
            f"{zoo.name}: {zoo.architecture} takes {size} × {size} images, images.size is {zoo.pixels.size}"
        )
    if source is None:
        return _find_own(zoo, fingerprint, cache_dir)
    return _load_own(zoo.images, zoo.pixels, zoo.pixels.size or size, Path(source).expanduser(), cache_dir, progress)


def images_of_record(
    zoo: Mapping[str, Any],
    architecture: str,
    source: StrPath | None = None,
    fingerprint: str | None = None,
    pixels: Pixels | None = None,
) -> ImageData:
    """The images of a zoo of which a manifest tells fields: all of them of a zoo of one's own.

    Args:
        pixels: what a population of others makes of the images of the table, where that is something else; it has no
            validation images but official ones.

    Raises:
        SpecError: where the fields of a zoo of one's own are no zoo's.
        UnknownNameError, ImagesError, StorageError: as `load_images`.
    """
    if pixels is not None:
        spec = _with_pixels(get_image_spec(zoo.get("images", ""), architecture), pixels)
        size = pixels.size or get_architecture(architecture).input_size
        return _load(spec, size, source, None, None)
    if any(zoo.get(name) is not None for name in OWN_FIELDS):
        return images_of(zoo_from_dict(dict(zoo), "manifest.json"), source, fingerprint=fingerprint)
    spec, size = get_image_spec(zoo.get("images", ""), architecture), get_architecture(architecture).input_size
    return _of_table(spec, size, source, None, None, fingerprint)


def _with_pixels(spec: ImageSpec, pixels: Pixels) -> ImageSpec:
    """The images of the table made into other pixels; validation images that were cut stay among the training ones."""
    own: dict[str, Any] = {name: getattr(pixels, name) for name in ("mode", "grey", "fit", "mean", "std")}
    counts: dict[str, Any] = {} if spec.val_split is not None else {"train": spec.train + spec.val, "val": 0}
    return dataclasses.replace(spec, convert=True, **own, **counts)


def _of_table(
    spec: ImageSpec,
    size: int | None,
    source: StrPath | None,
    cache_dir: StrPath | None,
    progress: Fetched | None,
    fingerprint: str | None,
) -> ImageData:
    """Images of the table; without a source those of the fingerprint that were prepared here, whatever they came of."""
    prepared = (
        find_prepared(spec.name, lambda splits, description: spec, fingerprint, cache_dir) if source is None else None
    )
    return _load(spec, size, source, cache_dir, progress) if prepared is None else prepared


def _load(
    spec: ImageSpec, size: int | None, source: StrPath | None, cache_dir: StrPath | None, progress: Fetched | None
) -> ImageData:
    source = None if source is None else Path(source).expanduser()
    origin = str(source or spec.hub_id or spec.name)
    identity = ["folder", folder_digest(source)] if source is not None else ["hub", spec.hub_id, spec.hub_config]
    left_out = {"raw_names"} | ({"grey"} if spec.grey == "luma" else set())  # as before there was a choice
    recipe = {name: value for name, value in dataclasses.asdict(spec).items() if name not in left_out}

    def read() -> tuple[dict[Role, Split], dict[str, Any]]:
        from zoo_datasets.images.sources import read_source

        splits, notice = cut(read_source(spec, source, size, progress), spec, origin)
        return splits, {"fingerprint": fingerprint_of(splits, spec), "notice": notice}

    file = cache_file(spec.name, digest_of([PREPARATION, identity, recipe, size]), cache_dir)
    return prepared_images(file, lambda splits, description: spec, read, origin)


def _load_own(
    name: str, pixels: Pixels, size: int | None, folder: Path, cache_dir: StrPath | None, progress: Fetched | None
) -> ImageData:
    def read() -> tuple[dict[Role, Split], dict[str, Any]]:
        folders = read_class_folders(name, pixels, folder, size, progress)
        spec = spec_before_cut(name, pixels, folders)
        splits, notice = cut(folders.splits, spec, str(folder))
        notices = "; ".join(filter(None, (folders.notice, notice)))
        return splits, {
            "fingerprint": fingerprint_of(splits, spec),
            "notice": notices,
            "classes": list(folders.classes),
        }

    key = digest_of([PREPARATION, ["folder", folder_digest(folder)], dataclasses.asdict(pixels), size])
    return prepared_images(cache_file(name, key, cache_dir), partial(_own_spec, name, pixels), read, str(folder))


def _find_own(zoo: ZooSpec, fingerprint: str | None, cache_dir: StrPath | None) -> ImageData:
    """Images of one's own that were prepared here before, whatever folder they were read from."""
    assert zoo.pixels is not None
    prepared = find_prepared(zoo.images, partial(_own_spec, zoo.images, zoo.pixels), fingerprint, cache_dir)
    if prepared is not None:
        return prepared
    known = "" if fingerprint is None else f" (fingerprint {fingerprint[:16]}…) and not prepared on this machine"
    raise ImagesError(f"images {zoo.images!r} are those of a zoo of one's own{known}: pass their folder, --images PATH")


def _own_spec(name: str, pixels: Pixels, splits: Mapping[Role, Split], description: Mapping[str, Any]) -> ImageSpec:
    return own_spec(name, pixels, {role: len(split) for role, split in splits.items()}, len(description["classes"]))
