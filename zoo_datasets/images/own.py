"""Images of one's own: a folder of class subfolders, read into uint8 tensors, and the spec that follows from it.

    blood_cells/                       blood_cells/train/eosinophil/*.png
      eosinophil/*.png          or     blood_cells/val/…      (or validation, valid, dev; may be missing)
      lymphocyte/*.png                 blood_cells/test/…     (may be missing)

Classes are numbered in the order of their folders' names. What is missing is cut from the training images, as for the
datasets of the table: 15 % each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from zoo_datasets.errors import ImagesError
from zoo_datasets.images.split import VALIDATION_NAMES, Role, Split
from zoo_datasets.specs.images import ImageSpec, Pixels
from zoo_datasets.terminal import Fetched

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
CUT_SHARE = 0.15
MAX_CLASSES = 100_000
_EXPECTED = "expected a folder of images for each class, or train/, val/ and test/ with such folders"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """What a folder holds.

    Attributes:
        splits: by role, in the order of classes and files; `train` is always there.
        classes: names of the classes, by number.
        others: files that are no images by their names, relative to the folder.
    """

    splits: dict[Role, Split]
    classes: tuple[str, ...]
    others: Sequence[str]

    @property
    def notice(self) -> str:
        """A sentence about files that were not read; empty where there are none."""
        if not self.others:
            return ""
        return f"{len(self.others):,} files are no images by their names and were left out, as {self.others[0]!a}"


def own_spec(name: str, pixels: Pixels, counts: Mapping[Role, int], classes: int) -> ImageSpec:
    """The spec of images of one's own, of which there are so many of each split."""
    return ImageSpec(
        name=name,
        hub_id=None,
        val_split="val" if counts.get("val") else None,
        test_split="test",
        classes=classes,
        train=counts["train"],
        val=counts.get("val", 0),
        test=counts.get("test", 0),
        mode=pixels.mode,
        convert=True,
        grey=pixels.grey,
        fit=pixels.fit,
        mean=pixels.mean,
        std=pixels.std,
    )


def spec_before_cut(name: str, pixels: Pixels, folders: ClassFolders) -> ImageSpec:
    """The spec by which what is missing is cut from the training images."""
    counts = {role: len(split) for role, split in folders.splits.items()}
    wanted: list[Role] = ["test", *(["val"] if pixels.validation else [])]  # type: ignore[list-item]
    part = max(1, round(counts["train"] * CUT_SHARE))
    cut: dict[Role, int] = {role: part for role in wanted if role not in counts}
    counts["train"] = max(1, counts["train"] - sum(cut.values()))
    spec = own_spec(name, pixels, counts | cut, len(folders.classes))
    # A split that is cut has no name: nobody promised it.
    return replace(
        spec,
        val_split=None if "val" in cut else spec.val_split,
        test_split=None if "test" in cut else spec.test_split,
    )


def read_class_folders(
    name: str, pixels: Pixels, folder: Path, size: int | None, progress: Fetched | None = None
) -> ClassFolders:
    """The images below a folder, prepared to `size` × `size` pixels (None: as they are).

    Args:
        progress: called with the split, the images done and the images there are.

    Raises:
        ImagesError: naming the folder or the file that is not as expected.
    """
    roots = _roots(folder, pixels)
    classes = tuple(path.name for path in _folders(roots["train"]))
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ImagesError(f"{roots['train']}: folders of {len(classes):,} classes found; {_EXPECTED}, 2 at least")
    others: list[str] = []
    splits: dict[Role, Split] = {}
    spec = own_spec(name, pixels, {"train": 1}, len(classes))
    for role, root in roots.items():
        files = _files(root, classes, others, folder)
        splits[role] = _read(files, spec, folder, size, role, progress)
    shapes = {role: tuple(split.images.shape[1:]) for role, split in splits.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{shape[2]}×{shape[1]} in {role}" for role, shape in shapes.items())
        raise ImagesError(f"{folder}: images of different sizes found: {sizes}; give a size")
    return ClassFolders(splits, classes, others)


def _roots(folder: Path, pixels: Pixels) -> dict[Role, Path]:
    """The folder of class folders of each split."""
    held = {path.name: path for path in _folders(folder)}
    if "train" not in held or not _folders(held["train"]):
        return {"train": folder}
    validation = [name for name in VALIDATION_NAMES if name in held]
    unknown = sorted(held.keys() - {"train", "test", *validation})
    if unknown or len(validation) > 1:
        odd = ", ".join(f"{name}/"[:80] for name in (unknown or validation)[:_SHOWN])
        raise ImagesError(f"{folder}: beside train/ there is {odd!a}; expected val/ and test/ alone")
    if validation and not pixels.validation:
        raise ImagesError(f"{folder}: validation is false, but there is {validation[0]}/; expected one or the other")
    roots: dict[Role, Path] = {"train": held["train"]}
    if validation:
        roots["val"] = held[validation[0]]
    if "test" in held:
        roots["test"] = held["test"]
    return roots


def _folders(folder: Path) -> list[Path]:
    return sorted((path for path in _visible(folder) if path.is_dir()), key=lambda path: path.name)


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ImagesError(f"{folder} could not be read: {error.strerror or error}") from error


def _files(root: Path, classes: Sequence[str], others: list[str], folder: Path) -> list[tuple[Path, int]]:
    """The images of a split, each with its class; files that are none are added to `others`."""
    numbers = {name: number for number, name in enumerate(classes)}
    files: list[tuple[Path, int]] = []
    for path in sorted(_visible(root), key=lambda path: path.name):
        if not path.is_dir():
            if _is_image(path):
                raise ImagesError(f"{path} lies in no folder of a class; {_EXPECTED}")
            others.append(path.relative_to(folder).as_posix())
            continue
        if path.name not in numbers:
            raise ImagesError(f"{path}: a class that the training images do not have; expected {_EXPECTED}")
        below = [file for file in _below(path) if not file.is_dir()]
        images = [file for file in below if _is_image(file)]
        if not images:
            raise ImagesError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}); add some, or remove the folder")
        files += [(file, numbers[path.name]) for file in images]
        others += [file.relative_to(folder).as_posix() for file in below if not _is_image(file)]
    if not files:
        raise ImagesError(f"{root}: no images found; {_EXPECTED}")
    return files


def _below(folder: Path) -> list[Path]:
    """All files below a folder, hidden ones and what lies behind links to folders left out."""
    files: list[Path] = []
    for path in _visible(folder):
        files += _below(path) if path.is_dir() and not path.is_symlink() else [path]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _read(
    files: Sequence[tuple[Path, int]], spec: ImageSpec, folder: Path, size: int | None, role: str,
    progress: Fetched | None,
) -> Split:  # fmt: skip
    from zoo_datasets.images.sources import decode_image, prepare_image

    pixels: Tensor | None = None
    for number, (file, _) in enumerate(files):
        try:
            prepared = torch.from_numpy(prepare_image(decode_image(None, str(file)), spec, size).copy())
            if pixels is None:
                pixels = torch.empty((len(files), *prepared.shape), dtype=torch.uint8)
            elif prepared.shape != pixels.shape[1:]:
                current, before = (f"{shape[-1]}×{shape[-2]} pixels" for shape in (prepared.shape, pixels.shape))
                raise ImagesError(f"{current} found, {before} before; give a size, or resize the images")
        except ImagesError as error:
            raise ImagesError(f"{file.relative_to(folder)}: {error}") from error
        pixels[number] = prepared
        if progress is not None and ((number + 1) % 1000 == 0 or number + 1 == len(files)):
            progress(role, number + 1, len(files))
    assert pixels is not None
    return Split(pixels, torch.tensor([label for _, label in files], dtype=torch.int64))
