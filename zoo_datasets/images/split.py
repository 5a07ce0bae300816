"""Images and labels as tensors, and the digest of a folder of them; light, which `sources` is not."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from zoo_datasets.errors import ImagesError
from zoo_datasets.storage.files import sha256_of
from zoo_datasets.text import TensorsRepr

Role = Literal["train", "val", "test"]
# Folders of validation images; `datasets` calls a split by the first of these when it finds the others in file names.
VALIDATION_NAMES = ("validation", "valid", "val", "dev")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Split(TensorsRepr):
    """Images and labels of one split.

    Attributes:
        images: uint8 [N, C, H, W], before normalisation.
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def share(self, fraction: float | None) -> Split:
        """The first of them, so large a part, at least one; None: all."""
        if fraction is None:
            return self
        count = max(int(fraction * len(self)), 1)
        return Split(self.images[:count], self.labels[:count])


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative names and the contents of all files below `folder`, hidden ones left out.

    Raises:
        ImagesError: if `folder` is no folder, cannot be read or holds no file.
    """
    check_folder(folder)
    digest = hashlib.sha256()
    files = 0
    try:
        for path in _files_below(folder):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
            files += 1
    except OSError as error:
        raise ImagesError(f"{folder} could not be read: {error}") from error
    if not files:
        raise ImagesError(f"{folder} holds no files; expected Parquet files or images in train/<class>/")
    return digest.hexdigest()


def check_folder(folder: Path) -> None:
    """Raise ImagesError if there is no such folder."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ImagesError(
            f"{folder} {what}; --images expects a folder, in the layout of the Hub's dataset or train/<class>/*.png"
        )


def _files_below(folder: Path) -> list[Path]:
    """All files, sorted by relative name; symbolic links are followed, each folder is entered once."""
    entered: set[Path] = set()
    files: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        if here.resolve() in entered:
            folders.clear()
            continue
        entered.add(here.resolve())
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [here / name for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())
