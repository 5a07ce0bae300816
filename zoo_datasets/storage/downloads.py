"""Whole files from afar: into a partial file beside their place, resumed, checked, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo_datasets.documents import read_json
from zoo_datasets.errors import DownloadError, StorageError
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import cache_folder, write_json
from zoo_datasets.storage.locks import hold
from zoo_datasets.storage.names import beside
from zoo_datasets.storage.remote import RemoteFile
from zoo_datasets.terminal import Fetched

_PARTIAL = ".partial"


def download(remote: RemoteFile, target: Path, *, md5: str | None = None, fetched: Fetched | None = None) -> Path:
    """Fetch a file to `target`, going on from what an earlier call left of the same version.

    Args:
        md5: its known checksum, as hexadecimal digits.
        fetched: called with what is under way, the bytes done and the bytes in all.

    Raises:
        DownloadError: if it cannot be fetched, or is not what the checksum says; names both.
        StorageError: if there is no space, or another file has that name.
    """
    report = fetched or (lambda what, done, total: None)
    with only_one(target):
        if target.exists():
            _check_existing(remote, target, md5)
            return target
        partial, note = beside(target, _PARTIAL), beside(target, f"{_PARTIAL}.json")
        with storing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            start = _resumable(remote, partial, note, md5)
            _check_space(remote, target, start)
            _fetch(remote, partial, start, lambda done: report(target.name, done, remote.size or 0))
            wrong = _difference(remote, partial, md5)
            if wrong is not None:
                partial.unlink()
            else:
                partial.replace(target)
            note.unlink(missing_ok=True)
        if wrong is not None:
            raise DownloadError(
                f"{remote.shown}: {wrong}; what was fetched is removed. Run the command again; "
                "if it happens twice, the file on the server is not the published one"
            )
    return target


@contextlib.contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Let one process at a time fetch to a place; others wait for it.

    Raises:
        StorageError: if the cache folder cannot be written to.
    """
    locks = cache_folder() / "locks"
    with contextlib.ExitStack() as stack:
        with storing(locks):
            locks.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(locks / f"{digest_of(['fetch', str(target.resolve())])}.lock"))
        yield


@contextlib.contextmanager
def storing(target: Path) -> Iterator[None]:
    """Say where and why something could not be stored.

    Raises:
        StorageError: if the block raises an OSError that is none of ours.
    """
    try:
        yield
    except (StorageError, DownloadError):
        raise
    except OSError as error:
        raise StorageError(
            f"{target} could not be written: {error.strerror or error}; what was fetched is kept. Free space or choose "
            "another folder (ZOO_CACHE, or --out), then run the command again"
        ) from error


def md5_of(path: Path) -> str:
    """MD5 of a file's content, as hexadecimal digits: the checksum that Zenodo publishes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_existing(remote: RemoteFile, target: Path, md5: str | None) -> None:
    wrong = _difference(remote, target, md5)
    if wrong is not None:
        raise StorageError(
            f"{target} exists already and is not {remote.shown}: {wrong}; move it away, or choose another folder"
        )


def _difference(remote: RemoteFile, file: Path, md5: str | None) -> str | None:
    """What tells a local file from the remote one; None where nothing does."""
    size = file.stat().st_size
    if remote.size not in (None, size):
        return f"{size:,} bytes found, {remote.size:,} expected"
    if md5 is not None and (digits := md5_of(file)) != md5:
        return f"md5 {digits} found, {md5} expected"
    return None


def _resumable(remote: RemoteFile, partial: Path, note: Path, md5: str | None) -> int:
    """Bytes of a partial file that are of this version; a partial file of another one is removed."""
    origin = {"from": remote.shown, "size": remote.size, "version": remote.version, "md5": md5}
    try:
        same = read_json(note) == origin and bool(remote.version or md5)
    except (OSError, ValueError):
        same = False
    size = partial.stat().st_size if partial.exists() else 0
    if same and size <= (size if remote.size is None else remote.size):
        return size
    partial.unlink(missing_ok=True)
    write_json(note, origin)
    return 0


def _check_space(remote: RemoteFile, target: Path, start: int) -> None:
    free = shutil.disk_usage(target.parent).free
    needed = (remote.size or 0) - start
    if needed > free:
        raise StorageError(
            f"{target} needs {needed:,} more bytes, {free:,} are free in {target.parent}; "
            "free space, or choose another folder (ZOO_CACHE, or --out)"
        )


def _fetch(remote: RemoteFile, partial: Path, start: int, report: Callable[[int], None]) -> None:
    partial.touch()
    end = start
    with partial.open("r+b") as file:
        report(start)
        if start != remote.size:
            for position, piece in remote.pieces(start):
                file.seek(position)
                file.write(piece)
                end = position + len(piece)
                report(end)
            file.truncate(end)
        file.flush()
        os.fsync(file.fileno())
