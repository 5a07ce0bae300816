"""Whether what `datasets` prepared in its cache is still what it wrote: such files carry no checksums themselves."""

from __future__ import annotations

import contextlib
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import DatasetBuilder
from isal.isal_zlib import crc32

from zoo_datasets.documents import MAX_JSON, parse_json, read_text
from zoo_datasets.errors import StorageError
from zoo_datasets.storage.files import write_json
from zoo_datasets.storage.locks import hold
from zoo_datasets.storage.remembered import stamp_of

_NOTE = "zoo_checksums.json"


def renew(folder: Path, *, need_note: bool) -> bool:
    """Delete a prepared folder that cannot be relied on, so that it is prepared again; returns whether it was deleted.

    Args:
        need_note: whether one without a note is such a one too: `datasets` itself prepares what it finds.

    Raises:
        StorageError: naming the folder to delete, if that is refused.
    """
    if _is_sound(folder, need_note):
        return False
    _delete(folder, unless=lambda: _is_sound(folder, need_note))
    return True


def opened(make: Callable[..., DatasetBuilder], root: Path, **options: Any) -> DatasetBuilder:
    """A builder; if the description in its prepared folder is broken, that folder is deleted first.

    Args:
        make: returns the builder, given the options and a `cache_dir`.
        root: the folder of the cache, if the options name none.

    Raises:
        StorageError: naming the folder to delete, if that is refused.
    """
    try:
        return make(**options)
    except Exception:
        with tempfile.TemporaryDirectory() as empty:  # a cache in which nothing stands in the way
            try:
                place = Path(make(**options | {"cache_dir": empty}).cache_dir).relative_to(empty)
            except Exception:  # noqa: BLE001 - it is not the cache, and the first error says what it is
                place = None
        if place is None or not (root / place).is_dir():
            raise
        _delete(root / place, unless=lambda: _is_sound(root / place, need_note=True))
    return make(**options)


def _delete(folder: Path, unless: Callable[[], bool]) -> None:
    try:
        with hold(Path(f"{folder}_builder.lock")):  # the lock under which `datasets` writes such folders
            if not unless():
                shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"{folder} holds prepared rows that cannot be relied on, and could not be deleted "
            f"({error.strerror or error}); delete the folder, and load again"
        ) from error


@contextlib.contextmanager
def noting(builder: DatasetBuilder) -> Iterator[None]:
    """While a builder prepares: the folder comes with a note of its files' checksums."""

    def save() -> None:
        save_info()
        write_note(Path(builder._output_dir))

    save_info = builder._save_info
    builder._save_info = save
    try:
        yield
    finally:
        del builder._save_info


def _is_sound(folder: Path, need_note: bool) -> bool:
    """Whether the files in a prepared folder are those of the note in it; true if the folder does not exist."""
    if not folder.is_dir():
        return True
    if not (folder / _NOTE).is_file():
        return not need_note
    try:
        note: dict[str, Any] = parse_json(read_text(folder / _NOTE, MAX_JSON))
        if "dataset_info.json" not in note:
            return False
        changed = [name for name, entry in note.items() if stamp_of(folder / name) != entry["stamp"]]
        return all(_checksum(folder / name) == note[name]["crc32"] for name in changed)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def write_note(folder: Path) -> None:
    """Write the checksums of the files that were prepared into their folder."""
    files = [*folder.glob("*.arrow"), folder / "dataset_info.json"]
    note = {file.name: {"stamp": stamp_of(file), "crc32": _checksum(file)} for file in files}
    write_json(folder / _NOTE, note)


def _checksum(file: Path) -> int:
    """CRC-32 of a file."""
    with file.open("rb") as opened:
        if not file.stat().st_size:
            return 0
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return int(crc32(data))
