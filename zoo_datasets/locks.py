"""Who may write into a dataset repository: one process at a time into a zoo, and one into the card.

Whoever needs both takes the zoo's lock first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from zoo_datasets.errors import RepositoryError, StorageError

LOCK = ".lock"
_CARD_TIMEOUT = 120.0  # seconds; the card is locked for moments only


def locked_zoo(repo: Path, name: str) -> contextlib.AbstractContextManager[None]:
    """Hold a zoo of a repository: its shards, its light config, its manifest and its plots.

    Raises:
        RepositoryError: at once, where another process holds it.
        StorageError: where its folder cannot be written to.
    """
    folder = repo / name
    return _locked(
        folder / LOCK, f"another process is building or publishing {folder}; wait for it, then run the command again"
    )


def locked_card(repo: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the card of a repository.

    Raises:
        RepositoryError: where another process holds it for two minutes.
        StorageError: where the repository's folder cannot be written to.
    """
    return _locked(
        repo / LOCK, f"another process keeps the card of {repo} locked; run the command again", _CARD_TIMEOUT
    )


@contextlib.contextmanager
def _locked(path: Path, message: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock file; a process that dies lets go of it."""
    if path.is_symlink():  # opening it empties what it leads to
        raise RepositoryError(f"{path} is a link, expected a file; remove it, then run the command again")
    try:
        held = filelock.FileLock(path, timeout=timeout).acquire()
    except filelock.Timeout as error:
        raise RepositoryError(message) from error
    except OSError as error:
        raise StorageError(
            f"{path} could not be locked: {error.strerror or error}; make its folder writable, or copy the repository"
        ) from error
    with held:
        yield
