"""What lies in folders of this machine: listed once, however many kinds of source look for their files there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inside:
    """The names in a folder.

    Attributes:
        folders: links to folders among them.
        files: all others.
        links: of both, those that are links.
    """

    folders: list[str]
    files: list[str]
    links: frozenset[str]


_known: ContextVar[dict[Path, Inside] | None] = ContextVar("known", default=None)


@contextlib.contextmanager
def listed_once() -> Iterator[None]:
    """Within this, no folder is listed twice."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def inside(folder: Path) -> Inside:
    """What lies directly in a folder; files are told from folders without a look at each.

    Raises:
        OSError: if it cannot be listed.
    """
    known = _known.get()
    if known is not None and folder in known:
        return known[folder]
    folders: list[str] = []
    files: list[str] = []
    links: list[str] = []
    with os.scandir(folder) as listing:
        for entry in listing:
            (folders if _is_folder(entry) else files).append(entry.name)
            if entry.is_symlink():
                links.append(entry.name)
    names = Inside(folders, files, frozenset(links))
    if known is not None:
        known[folder] = names
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to where nobody may look
        return False


def folders_in(folder: Path) -> list[Path]:
    """The folders that lie directly in a folder; errors as of `inside`."""
    return [folder / name for name in inside(folder).folders]


def folders_near(folder: Path, levels: int, most: int = 100) -> Iterator[Path]:
    """The folders in a folder, down to so many levels, where no more than `most` of a level are looked into: the others
    of a zoo are like them. Those that may not be listed are taken for empty."""
    level = [folder]
    for _ in range(levels):
        above, level = level[:most], []
        for one in above:
            with contextlib.suppress(PermissionError):
                level += folders_in(one)
        yield from level


def files_below(folder: Path) -> Iterator[str]:
    """The files in a folder and in those below it, as paths relative to it; no links, and none below a link."""
    with contextlib.suppress(PermissionError):
        here = inside(folder)
        links = here.links
        yield from (name for name in here.files if name not in links)
        for name in here.folders:
            if name not in links:
                yield from (f"{name}/{path}" for path in files_below(folder / name))
