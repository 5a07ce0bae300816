"""Locks between processes, which let go when their process dies.

Into a dataset repository one process at a time may write a zoo, and one the card; whoever needs both takes the zoo's
lock first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import filelock

from zoo_datasets.errors import RepositoryError, StorageError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Whether files and folders themselves can be locked, without a lock file beside them.
HAS_FLOCK = fcntl is not None
LOCK = ".lock"
_CARD_TIMEOUT = 120.0  # seconds; the card is locked for moments only


def locked_zoo(repo: Path, name: str) -> contextlib.AbstractContextManager[None]:
    """Hold a zoo of a repository: its shards, its light config, its manifest and its plots.

    Raises:
        RepositoryError: at once, if another process holds it.
        StorageError: if its folder cannot be written to.
    """
    folder = repo / name
    return _locked(
        folder / LOCK, f"another process is building or publishing {folder}; wait for it, then run the command again"
    )


def locked_card(repo: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the card of a repository.

    Raises:
        RepositoryError: if another process holds it for two minutes.
        StorageError: if the repository's folder cannot be written to.
    """
    return _locked(
        repo / LOCK, f"another process keeps the card of {repo} locked; run the command again", _CARD_TIMEOUT
    )


@contextlib.contextmanager
def _locked(path: Path, message: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock file of a repository."""
    if path.is_symlink():  # opening it empties what it leads to
        raise RepositoryError(f"{path} is a link, expected a file; remove it, then run the command again")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(path, timeout))
        except TimeoutError as error:
            raise RepositoryError(message) from error
        except OSError as error:
            raise StorageError(
                f"{path} could not be locked: {error.strerror or error}; make its folder writable, or copy the "
                "repository"
            ) from error
        yield


@contextlib.contextmanager
def hold(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which is made where there is none.

    Args:
        timeout: how long to wait for another process that holds it, in seconds; below 0, as long as it takes.

    Raises:
        TimeoutError: if another process holds it.
        OSError: if the file cannot be made or locked.
    """
    with filelock.FileLock(path, timeout=timeout):
        yield


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a folder at once. Its own lock needs no file in it; where there is none, a lock file is made.

    Raises:
        TimeoutError: if another process holds it.
        OSError: if it cannot be locked.
    """
    if not HAS_FLOCK:
        with hold(folder / LOCK, timeout=0):
            yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not flock(descriptor):
            raise TimeoutError(f"{folder} is locked")
        yield
    finally:
        os.close(descriptor)


def flock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed; false where somebody else has locked it.

    Raises:
        OSError: if the file system has no locks.
    """
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
