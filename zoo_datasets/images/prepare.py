"""The image datasets: their table, and loading one into tensors that all members of a zoo share.

`load_images` reads a source once, makes every image fit the architecture, cuts the splits and keeps the
result as one safetensors file, so that later runs and other processes map it into memory. Pixels stay
uint8 until `ImageData.normalise`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo_datasets.documents import StrPath, parse_json
from zoo_datasets.errors import ImagesError, SpecError, StorageError
from zoo_datasets.images.own import own_spec, read_class_folders, spec_before_cut
from zoo_datasets.images.split import Role, Split, folder_digest
from zoo_datasets.images.table import IMAGES, get_image_spec
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.specs.images import ImageSpec, Pixels
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.spec import OWN_FIELDS, ZooSpec, digest_of
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.storage.files import cache_folder, replacing
from zoo_datasets.storage.locks import hold
from zoo_datasets.storage.remembered import digest_as_expected
from zoo_datasets.terminal import Fetched
from zoo_datasets.text import one_line

__all__ = ["IMAGES", "ImageData", "Split", "cut", "get_image_spec", "load_images"]


SPLIT_SEED = 42


PREPARATION = 1  # raise it when the same source would be prepared differently


FEWEST = 3


_Read = tuple[dict[Role, Split], dict[str, Any]]
SpecOf = Callable[[Mapping[Role, Split], Mapping[str, Any]], ImageSpec]


ROLES: tuple[Role, ...] = ("train", "val", "test")


if len({(spec.name, spec.architectures) for spec in IMAGES}) != len(IMAGES):
    raise ValueError("the table of image datasets repeats an entry")


if any(len(values) != spec.channels for spec in IMAGES for values in (spec.mean, spec.std)):
    raise ValueError("the table of image datasets holds a mean or std that is not one number a channel")


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
    prepared = _find(spec.name, lambda splits, description: spec, fingerprint, cache_dir) if source is None else None
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
        return splits, {"fingerprint": _fingerprint(splits, spec), "notice": notice}

    file = _cache_file(spec.name, digest_of([PREPARATION, identity, recipe, size]), cache_dir)
    return _prepared(file, lambda splits, description: spec, read, origin)


def _load_own(
    name: str, pixels: Pixels, size: int | None, folder: Path, cache_dir: StrPath | None, progress: Fetched | None
) -> ImageData:
    def read() -> tuple[dict[Role, Split], dict[str, Any]]:
        folders = read_class_folders(name, pixels, folder, size, progress)
        spec = spec_before_cut(name, pixels, folders)
        splits, notice = cut(folders.splits, spec, str(folder))
        notices = "; ".join(filter(None, (folders.notice, notice)))
        return splits, {"fingerprint": _fingerprint(splits, spec), "notice": notices, "classes": list(folders.classes)}

    key = digest_of([PREPARATION, ["folder", folder_digest(folder)], dataclasses.asdict(pixels), size])
    return _prepared(_cache_file(name, key, cache_dir), partial(_own_spec, name, pixels), read, str(folder))


def _find(name: str, spec_of: SpecOf, fingerprint: str | None, cache_dir: StrPath | None) -> ImageData | None:
    """The images of a fingerprint that were prepared here before, whatever they were read from; None if none were."""
    if fingerprint is None:
        return None
    pattern = _cache_file(name, "*", cache_dir)
    for file in sorted(pattern.parent.glob(pattern.name)):
        if _recorded_fingerprint(file) == fingerprint and (cached := _read_cache(file, spec_of)) is not None:
            return cached[0]
    return None


def _find_own(zoo: ZooSpec, fingerprint: str | None, cache_dir: StrPath | None) -> ImageData:
    """Images of one's own that were prepared here before, whatever folder they were read from."""
    assert zoo.pixels is not None
    prepared = _find(zoo.images, partial(_own_spec, zoo.images, zoo.pixels), fingerprint, cache_dir)
    if prepared is not None:
        return prepared
    known = "" if fingerprint is None else f" (fingerprint {fingerprint[:16]}…) and not prepared on this machine"
    raise ImagesError(f"images {zoo.images!r} are those of a zoo of one's own{known}: pass their folder, --images PATH")


def _own_spec(name: str, pixels: Pixels, splits: Mapping[Role, Split], description: Mapping[str, Any]) -> ImageSpec:
    return own_spec(name, pixels, {role: len(split) for role, split in splits.items()}, len(description["classes"]))


def _cache_file(name: str, key: str, cache_dir: StrPath | None) -> Path:
    return Path(cache_dir or cache_folder()).expanduser() / "images" / f"{name}-{key}.safetensors"


def _prepared(file: Path, spec_of: SpecOf, read: Callable[[], _Read], origin: str) -> ImageData:
    """What the cache holds, which is read and written first where there is nothing."""
    cached = _read_cache(file, spec_of)
    if cached is None:
        with _locked(file):
            cached = _read_cache(file, spec_of)  # another process may have written it meanwhile
            if cached is None:
                _write_cache(file, *read())
                cached = _read_cache(file, spec_of)
    if cached is None:
        raise StorageError(f"{file} was written but cannot be read back; check the disk, or set ZOO_CACHE to another")
    data, notice = cached
    if notice:
        warnings.warn(one_line(f"{origin}: {notice}"), UserWarning, stacklevel=4)
    return data


def cut(source_splits: dict[Role, Split], spec: ImageSpec, origin: str) -> tuple[dict[Role, Split], str]:
    """All splits, those that are missing cut from the training images; and what differs from the published ones.

    The cut is that of `torch.utils.data.random_split` in file order with a generator seeded 42. If the
    number of images is the published one, so are the lengths; else they keep the published proportions.

    Returns:
        the splits, and a sentence with the numbers found and expected, empty if they agree.

    Raises:
        ImagesError: if there are fewer than three training images.
    """
    official = {"train": spec.train, "val": spec.val, "test": spec.test}
    train = source_splits["train"]
    if len(train) < FEWEST:
        raise ImagesError(
            f"{origin}: {len(train)} training images found, at least {FEWEST} expected; "
            f"{spec.name} has {sum(official.values()):,} in all"
        )
    roles: list[Role] = [role for role in ROLES if role == "train" or (role not in source_splits and official[role])]
    lengths = _lengths(len(train), [official[role] for role in roles])
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    splits = dict(source_splits)
    if len(roles) > 1:
        for role, indices in zip(roles, torch.split(order, lengths), strict=True):
            splits[role] = Split(train.images[indices], train.labels[indices])
    splits = {role: splits[role] for role in ROLES if role in splits}
    counts = {role: len(splits[role]) if role in splits else 0 for role in ROLES}
    published: dict[Role, str | None] = {"val": spec.val_split, "test": spec.test_split}
    missing = [name for role, name in published.items() if name is not None and role in roles]
    if counts == official and not missing:
        return splits, ""
    notice = f"{_numbers(counts)} images found, {_numbers(official)} expected of {spec.name}"
    if missing:
        notice += f"; without a split named {' and '.join(missing)}, images were cut from the training images"
    return splits, f"{notice}. Models trained on these cannot be compared with the published zoos"


def _lengths(count: int, parts: list[int]) -> list[int]:
    """`count` cut in the proportions of `parts`, at least one each; `parts` itself if it adds up."""
    if count == sum(parts):
        return parts
    rest = [max(1, round(count * part / sum(parts))) for part in parts[1:]]
    while sum(rest) >= count:
        rest[rest.index(max(rest))] -= 1
    return [count - sum(rest), *rest]


def _numbers(counts: dict[Any, int]) -> str:
    return " / ".join(f"{count:,}" for count in counts.values()) + f" ({' / '.join(counts)})"


def _fingerprint(splits: dict[Role, Split], spec: ImageSpec) -> str:
    digest = hashlib.sha256(json.dumps([spec.mean, spec.std, spec.classes]).encode())
    for role, split in splits.items():
        digest.update(json.dumps([role, list(split.images.shape)]).encode())
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time prepare a dataset."""
    with contextlib.ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(file.with_suffix(".lock")))
        except OSError as error:
            raise StorageError(
                f"prepared images cannot be kept in {file.parent}: {error}; set ZOO_CACHE to a folder to write to"
            ) from error
        yield


def _write_cache(file: Path, splits: dict[Role, Split], description: dict[str, Any]) -> None:
    tensors = {f"{role}.images": split.images.contiguous() for role, split in splits.items()}
    tensors |= {f"{role}.labels": split.labels.contiguous() for role, split in splits.items()}
    with replacing(file) as temporary:
        # One metadata key only: safetensors writes several in random order.
        save_file(tensors, temporary, metadata={"description": json.dumps(description)})


def _recorded_fingerprint(file: Path) -> str | None:
    """What the header of a file of the cache says; None if it cannot be read."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return str(parse_json(opened.metadata()["description"])["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None


def _read_cache(file: Path, spec_of: SpecOf) -> tuple[ImageData, str] | None:
    """What `_write_cache` wrote, mapped into memory; None where there is no file, or other bytes than were written."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            description = parse_json(opened.metadata()["description"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        splits = {
            role: Split(tensors[f"{role}.images"], tensors[f"{role}.labels"])
            for role in ROLES
            if role != "val" or "val.images" in tensors
        }
        if any((part.images.dtype, part.labels.dtype) != (torch.uint8, torch.int64) for part in splits.values()):
            return None
        spec = spec_of(splits, description)
        fingerprint = description["fingerprint"]
        if digest_as_expected(file, fingerprint, lambda _: _fingerprint(splits, spec)) != fingerprint:
            return None
        data = ImageData(
            spec=spec,
            size=splits["train"].images.shape[-1],
            fingerprint=fingerprint,
            train=splits["train"],
            val=splits.get("val"),
            test=splits["test"],
        )
        return data, str(description["notice"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
