"""Crash-safe files: everything is written beside its place and renamed, so what is there is whole."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_datasets.errors import DownloadError, OutsideError, StorageError

TEMPORARY_SUFFIX = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Leaves room for an ending and for the temporary name in the 255 bytes of a file's name.
NAME_LENGTH = 180
_UNSAFE = re.compile(rb"[^A-Za-z0-9_.-]|^\.|\.$")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
_SHORTENED = "%-"  # quoting alone never gives this


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
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


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


def file_name(text: str, limit: int = NAME_LENGTH) -> str:
    """A name for a file or folder made of any text: one part of a path, never hidden, ASCII, different for each text.

    Letters, digits, `-`, `_` and `.` stay; every other byte of UTF-8 is `%` and two hexadecimal digits, and so are a
    dot at either end and the first letter of a device's name of Windows. What is longer than `limit` ends in a hash.
    """
    quoted = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "surrogatepass")).decode()
    if _DEVICE.match(quoted):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return shortened(quoted or "%", limit, text)


def shortened(name: str, limit: int, text: str | None = None) -> str:
    """The name, or where it is longer than `limit` its beginning and a hash of `text`, or of itself."""
    return name if len(name) <= limit else hashed(name, limit, text)


def hashed(name: str, limit: int, text: str | None = None) -> str:
    """A name with a hash of `text`, or of itself, at its end: at most `limit` characters."""
    whole = (name if text is None else text).encode("utf-8", "surrogatepass")
    ending = f"{_SHORTENED}{hashlib.blake2b(whole, digest_size=16).hexdigest()}"
    return f"{name[: limit - len(ending)]}{ending}"


def distinct_names(names: Mapping[str, str], limit: int) -> dict[str, str]:
    """Names by text, so that no two are the same where upper and lower case are; those that are get a hash."""
    counts = Counter(name.lower() for name in names.values())
    return {text: name if counts[name.lower()] == 1 else hashed(name, limit, text) for text, name in names.items()}


def check_files(root: Path, paths: Iterable[str], *, links: bool = True) -> None:
    """See that relative paths, where anything is there, are files or folders that lie in `root`.

    Args:
        links: whether links are followed that do not lead out of the folder.

    Raises:
        OutsideError: naming the first path that leads elsewhere, or is a pipe or a device.
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
