"""Whether what `datasets` prepared in its cache is still what it wrote: such files carry no checksums themselves."""

from __future__ import annotations

import contextlib
import mmap
import shutil
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from zoo_datasets.documents import MAX_JSON, parse_json, read_text
from zoo_datasets.errors import StorageError
from zoo_datasets.storage.files import write_json
from zoo_datasets.storage.remembered import stamp_of

NOTE = "zoo_checksums.json"


def is_damaged(folder: Path) -> bool:
    """Whether files in a prepared folder differ from those of the note in it; false where there is none."""
    if not (folder / NOTE).is_file():
        return False
    try:
        note: dict[str, Any] = parse_json(read_text(folder / NOTE, MAX_JSON))
        same = {name: stamp_of(folder / name) == entry["stamp"] for name, entry in note.items()}
        if all(same.values()):
            return False
        if any(_checksum(folder / name) != note[name]["crc32"] for name in note if not same[name]):
            return True
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return True
    _write(folder)
    return False


def note_files(folder: Path) -> None:
    """Note the checksums of the files in a prepared folder, unless they are noted; where it cannot be written, not."""
    if not (folder / NOTE).exists():
        _write(folder)


def discard(folder: Path) -> None:
    """Delete a prepared folder, so that it is prepared again.

    Raises:
        StorageError: naming the folder to delete, where that is refused.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StorageError(
            f"{folder} holds prepared rows that are damaged and could not be deleted "
            f"({error.strerror or error}); delete the folder, and load again"
        ) from error


def _write(folder: Path) -> None:
    with contextlib.suppress(OSError):  # StorageError is one
        files = [*folder.glob("*.arrow"), folder / "dataset_info.json"]
        files = [file for file in files if not file.name.startswith("cache-")]  # of `map` and the like, made later
        write_json(folder / NOTE, {file.name: {"stamp": stamp_of(file), "crc32": _checksum(file)} for file in files})


def _checksum(file: Path) -> int:
    """CRC-32 of a file."""
    with file.open("rb") as opened:
        if not file.stat().st_size:
            return 0
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return int(crc32(data))
