"""Crash-safe files: everything is written beside its place and renamed, so what is there is whole.

What is being written has a name of its own in each call, whichever machine or container its process runs in, and is
locked, so that whoever cleans up sees that it is no leftover.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zoo_datasets.errors import DownloadError, OutsideError, StorageError
from zoo_datasets.storage.folders import check_output
from zoo_datasets.storage.locks import HAS_FLOCK, flock
from zoo_datasets.storage.names import beside
from zoo_datasets.text import json_text

TEMPORARY_SUFFIX = ".tmp"
# Where files cannot be locked, one that is being written was changed later than so many seconds ago.
_ABANDONED = 3600.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone has another mode
_seeking = threading.Lock()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it is synced and renamed to `path`.

    On any exception, Ctrl-C included, the temporary file is removed and `path` keeps its content.

    Raises:
        StorageError: if the file system refuses (full, read-only); names the file.
    """
    try:
        with temporary_beside(path) as temporary:
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
            "its former content is unchanged. Free space or choose another folder, then run the command again"
        ) from error


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` that nobody else writes to and `remove_temporaries` leaves alone.

    At the end it is removed, unless it was renamed.

    Raises:
        OSError: if the file system refuses, or the path is no text.
    """
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _new_temporary(path)
    try:
        yield temporary
    finally:
        if descriptor is not None:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _new_temporary(path: Path) -> tuple[Path, int | None]:
    """A new file, and the open file that locks it; None where there are no locks, as no file may stay open there."""
    while True:
        temporary = beside(path, f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if not HAS_FLOCK:
            os.close(descriptor)
            return temporary, None
        with contextlib.suppress(OSError):  # a file system without locks
            flock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # somebody cleaned up before it was locked


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_if_changed(path: Path, data: bytes) -> bool:
    """Write `data` beside `path` and rename it there, unless that is its content; gives whether it was written.

    For thousands of small files that can be made again: not synced one by one, because what a crash of the machine
    leaves is compared and written again.

    Raises:
        StorageError: if the file system refuses; names the file.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return False
        with temporary_beside(path) as temporary:
            temporary.write_bytes(data)
            temporary.replace(path)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; "
            "free space or choose another folder, then run the command again"
        ) from error
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    write_bytes(path, f"{json_text(value, indent=2)}\n".encode())


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder` (not in its sub-folders).

    What a living process is writing stays: its lock says so or, where files cannot be locked, the time of its last
    change.

    Raises:
        StorageError: if the folder cannot be written to.
    """
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            with _unless_written(leftover) as abandoned:
                if abandoned:
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{leftover} could not be removed: {error.strerror or error}; make its folder writable"
            ) from error


@contextlib.contextmanager
def _unless_written(temporary: Path) -> Iterator[bool]:
    """Whether nobody writes a temporary file, which holds meanwhile."""
    with contextlib.ExitStack() as stack:
        free: bool | None = None
        with contextlib.suppress(OSError):  # it cannot be opened, or not locked
            if HAS_FLOCK and not temporary.is_symlink():
                descriptor = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK)
                stack.callback(os.close, descriptor)
                free = flock(descriptor)
        if free is None:
            try:
                status = temporary.lstat()
                free = temporary.is_symlink() or time.time() - status.st_mtime > _ABANDONED
            except FileNotFoundError:
                free = True
        yield free


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


def check_files(root: Path, paths: Iterable[str], *, links: bool = True) -> None:
    """See that relative paths, where anything is there, are files or folders that lie in `root`.

    Args:
        links: whether links are followed that do not lead out of the folder.

    Raises:
        OutsideError: if a path leads elsewhere, or is a pipe or a device; names the first one.
    """
    top = root.resolve()
    homes = [top]
    if top.parent.name == "snapshots":  # of the Hub's cache, whose files are links to blobs
        homes.append(top.parent.parent / "blobs")
    resolve = functools.cache(Path.resolve)  # of the folders, which are few
    for path in paths:
        file = root / path
        try:
            real = resolve(file.parent) / file.name
            mode = _mode(real)
            if stat.S_ISLNK(mode):
                real = real.resolve()
                mode = _mode(real)
        except (OSError, RuntimeError) as error:  # one of links in a circle
            raise OutsideError(f"{file} could not be read: {error}") from error
        if not any(real.is_relative_to(home) for home in homes):
            raise OutsideError(f"{file} is a link that leads out of {root}; put the file itself there")
        if not links and real != top / path:
            raise OutsideError(f"{file} is a link, or lies behind one; put the file itself there")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OutsideError(f"{file} is neither a file nor a folder; remove it")


def _mode(path: Path) -> int:
    """What lies at a path, links not followed; a file where nothing does."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return stat.S_IFREG


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_binary(path: Path, flags: int) -> int:
    """The descriptor of an open file whose bytes stay as they are, on Windows too."""
    return os.open(path, flags | _BINARY, 0o644)


def read_at(descriptor: int, count: int, position: int) -> bytes:
    """Up to `count` bytes from a position of an open file, which threads may share."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, position)
    with _seeking:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, count)


def write_at(descriptor: int, data: bytes, position: int) -> None:
    """Write all bytes at a position of an open file, which threads may share."""
    view = memoryview(data)
    while view:
        if hasattr(os, "pwrite"):
            written = os.pwrite(descriptor, view, position)
        else:
            with _seeking:
                os.lseek(descriptor, position, os.SEEK_SET)
                written = os.write(descriptor, view)
        view, position = view[written:], position + written


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
