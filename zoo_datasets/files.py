"""Crash-safe files: everything is written beside its place and renamed, so what is there is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo_datasets.errors import DownloadError, StorageError
from zoo_datasets.text import json_text

TEMPORARY_SUFFIX = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it is synced and renamed to `path`.

    On any exception, Ctrl-C included, the temporary file is removed and `path` keeps its content.

    Raises:
        StorageError: where the file system refuses (full, read-only); names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make their files private; these are like any other
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, (StorageError, DownloadError)):
            raise
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; "
            "what was there before is unchanged. Free space or choose another folder, then run the command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_if_changed(path: Path, data: bytes) -> bool:
    """Write `data` beside `path` and rename it there, unless that is its content; gives whether it was written.

    For thousands of small files that can be made again: not synced one by one, because what a crash of the machine
    leaves is compared and written again.

    Raises:
        StorageError: where the file system refuses; names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; "
            "free space or choose another folder, then run the command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    write_bytes(path, f"{json_text(value, indent=2)}\n".encode())


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder` (not in its sub-folders).

    Raises:
        StorageError: where the folder cannot be written to.
    """
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            leftover.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{leftover} could not be removed: {error.strerror or error}; make its folder writable"
            ) from error


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: `$ZOO_CACHE`, or `~/.cache/zoo-datasets`."""
    return Path(os.environ.get("ZOO_CACHE") or "~/.cache/zoo-datasets").expanduser()


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
