"""Digests of files that are remembered: a large file is hashed once, and again only when it has changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo_datasets.documents import MAX_JSON, parse_json, read_text
from zoo_datasets.errors import StorageError
from zoo_datasets.storage.files import cache_folder, sha256_of, write_json

_FOLDER = "checked"


def stamp_of(path: Path) -> list[int]:
    """What changes when a file is written to: its size in bytes, the times of its last changes in ns, its inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def digest_as_expected(path: Path, expected: str, digest_of: Callable[[Path], str] = sha256_of) -> str:
    """A file's digest; computed, unless the file had the expected one before and was not written to since.

    Raises:
        OSError: where the file cannot be read.
    """
    stamp = stamp_of(path)
    note = _note(path)
    if _read(note) == {"stamp": stamp, "digest": expected}:
        return expected
    digest = digest_of(path)
    if digest == expected:
        # Where nothing can be kept, the file is hashed again.
        with contextlib.suppress(StorageError):
            write_json(note, {"stamp": stamp, "digest": digest})
    return digest


def is_remembered(path: Path, value: str) -> bool:
    """Whether `remember` was last called with this value for a path."""
    return bool(_read(_note(path)) == {"value": value})


def remember(path: Path, value: str) -> None:
    """Keep a value for a path, if it can be kept."""
    with contextlib.suppress(StorageError):
        write_json(_note(path), {"value": value})


def _note(path: Path) -> Path:
    return cache_folder() / _FOLDER / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def _read(note: Path) -> Any:
    try:
        return parse_json(read_text(note, MAX_JSON))
    except (OSError, ValueError):
        return None
