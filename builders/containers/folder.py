"""Where a raw zoo lies: a container, which lists its entries and reads files; and folders as containers.

Nothing is unpacked beside it. Links are followed inside the folder, and from a folder in a cache of the Hub into its
blobs; other links and devices are listed as refused and never opened.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import MAX_CHECKPOINT, Slices
from zoo_datasets.builders.checkpoints.zips import Read, check_name, slashed
from zoo_datasets.builders.containers.links import OUTSIDE, follow
from zoo_datasets.builders.containers.native_files import Template, check_alike, library, list_tree, read_alike
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.errors import CheckpointError
from zoo_datasets.storage.files import open_binary, read_at


class Container(Protocol):
    """A tree of files.

    Attributes:
        beside: of an archive, the folder of this machine in which it lies.
    """

    beside: Path | None

    @property
    def name(self) -> str:
        """Name of the folder, or of the archive without its ending."""

    @property
    def entries(self) -> Sequence[str]:
        """Relative paths in sorted order; those of folders end with a slash."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Paths that cannot be read, each with its reason; invalid names are listed here only."""

    @property
    def notes(self) -> Sequence[Note]:
        """Notes about the container as a whole."""

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file.

        Raises:
            CheckpointError: if it is larger than `limit` bytes, broken or cannot be read.
        """

    def opened(self, path: str, limit: int) -> contextlib.AbstractContextManager[Slices]:
        """The bytes of a file, read as they are sliced where this container can; errors as in `read`."""

    def prepare(self, paths: Iterable[str], limit: int) -> None:
        """Make files of up to `limit` bytes ready to be read: remote ones are fetched, several at a time.

        Raises:
            DownloadError: if fetching fails; a missing file raises only when it is read.
        """

    def read_alike(
        self, paths: Sequence[str], template: Template, memory: NDArray[np.uint8]
    ) -> NDArray[np.bool_] | None:
        """Read many files that should be of one structure; see `native_files.read_alike`. None if this container
        does not support it."""

    def fingerprint(self) -> str:
        """Changes when the files change; cheap."""


class AtHand:
    """A container whose files are local."""

    beside: Path | None = None
    notes: Sequence[Note] = ()

    def prepare(self, paths: Iterable[str], limit: int) -> None:
        """Do nothing: the files are local."""


class OneByOne:
    """A container that reads file by file, each as a whole."""

    beside: Path | None = None

    @contextlib.contextmanager
    def opened(self: Container, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of a file; see `Container.opened`."""
        yield self.read(path, limit)

    def read_alike(
        self: Container, paths: Sequence[str], template: Template, memory: NDArray[np.uint8]
    ) -> NDArray[np.bool_] | None:
        """Read many files of one structure into `memory`; see `Container.read_alike`."""
        if library() is None:
            return None
        here = np.zeros(len(paths), np.bool_)
        view, length = memory.data, template.length
        for row, path in enumerate(paths):
            with contextlib.suppress(CheckpointError):  # it is read again to learn why
                data = self.read(path, MAX_CHECKPOINT)
                if len(data) == length:
                    view[row * length : (row + 1) * length] = data
                    here[row] = True
        good = check_alike(memory, len(paths), template)
        return None if good is None else here & good


class FetchedFiles(OneByOne):
    """A container whose files are fetched, each as a whole, when they are asked for."""

    @abstractmethod
    def _at_hand(self, path: str, limit: int) -> str:
        """Where a file lies on this machine, fetched if necessary.

        Raises:
            CheckpointError: if there is no such file, or it has more than `limit` bytes.
        """

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file; errors as in `Container.read`."""
        return read_file(self._at_hand(path, limit), limit)

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of a file, fetched as a whole; see `Container.opened`."""
        with opened_file(self._at_hand(path, limit), limit) as data:
            yield data


class Folder(AtHand):
    """A folder on disk."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.name = path.resolve().name
        self._path = path
        self._tree = list_tree(str(path), threads)
        entries: list[str]
        refused: dict[str, str]
        if self._tree is None:
            entries, refused = _walk(path)
        else:
            unreadable = self._tree.refused.items()
            entries = self._tree.entries
            refused = {entry: _NO_FILE if number is None else _unlisted(number) for entry, number in unreadable}
        self._places: Mapping[str, str] = {}
        if links := _links(path, refused):
            entries = self._follow(entries, links, refused)
        if flat := {path: slashed(path) for path in entries if "\\" in path and path not in refused}:
            entries = self._unflatten(entries, flat)
        self.entries: Sequence[str] = entries
        self.refused: Mapping[str, str] = refused

    def _follow(self, entries: list[str], links: Mapping[str, str], refused: dict[str, str]) -> list[str]:
        """Follow links; returns the entries with what these lead to, and updates what is refused."""
        cache = _hub_cache(self._path.resolve())
        root = "" if cache is None else self._path.resolve().relative_to(cache).as_posix()
        followed = follow([entry for entry in entries if entry not in links], links, root)
        outside = {path for path, place in followed.places.items() if place.startswith("../")}
        blobs = "../" * len(Path(root).parts) + "blobs/"
        lost = {path for path in outside if not self._is_blob(followed.places[path], blobs)}
        self._places = {path: place for path, place in followed.places.items() if path not in lost}
        for link in links:
            refused.pop(link)
        refused |= {**followed.refused, **dict.fromkeys(lost, OUTSIDE)}
        gone = {link for link in links if f"{link}/" in self._places}
        return sorted({*(entry for entry in entries if entry not in gone), *self._places, *refused})

    def _unflatten(self, entries: list[str], flat: Mapping[str, str]) -> list[str]:
        """Take files with backslashes in their names for what an archive of Windows meant by them."""
        existing = set(entries)
        meant = {path: name for path, name in flat.items() if name not in existing and check_name(name) is None}
        self._places = {**self._places, **{name: self._places.get(path, path) for path, name in meant.items()}}
        return sorted({meant.get(path, path) for path in entries})

    def _is_blob(self, place: str, blobs: str) -> bool:
        """Whether a path outside of the folder is that of a file of the Hub's cache."""
        name = place.removeprefix(blobs)
        if name == place or "/" in name:
            return False
        try:
            return stat.S_ISREG(os.lstat(f"{self._path}/{place}").st_mode)
        except OSError:
            return False

    @functools.cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file; errors as in `Container.read`."""
        if path in self.refused:
            raise CheckpointError(self.refused[path])
        return read_file(f"{self._path}/{self._places.get(path, path)}", limit)

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of a file; see `Container.opened`."""
        if path in self.refused:
            raise CheckpointError(self.refused[path])
        with opened_file(f"{self._path}/{self._places.get(path, path)}", limit) as data:
            yield data

    def read_alike(
        self, paths: Sequence[str], template: Template, memory: NDArray[np.uint8]
    ) -> NDArray[np.bool_] | None:
        """Read many files of one structure into `memory`; see `Container.read_alike`."""
        if any(map(self.refused.__contains__, paths)):
            return None
        try:
            return read_alike(self._descriptor, [self._places.get(path, path) for path in paths], template, memory)
        except OSError:  # reading each file reports why
            return None

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes and times of files whose names begin with no dot."""
        if self._tree is not None:
            stamps = self._tree.stamps
        else:
            files = [entry for entry in self.entries if entry[-1] != "/" and entry.rpartition("/")[2][0] != "."]
            stamps = " ".join([_stamp(f"{self._path}/{entry}") for entry in files]).encode()
        for path, place in sorted(self._places.items()):
            stamps += os.fsencode(f"\0{path}\0{place} {_stamp(f'{self._path}/{place}')}")
        return hashlib.sha256(os.fsencode("\0".join(self.entries)) + b"\0" + stamps).hexdigest()


def _links(root: Path, refused: Mapping[str, str]) -> dict[str, str]:
    """What the links among refused entries say; absolute ones that lead into the folder as relative ones."""
    links = {}
    for path, reason in refused.items():
        if reason == _NO_FILE:
            with contextlib.suppress(OSError):
                target = (root / path).readlink()
                inside = target.is_absolute() and target.is_relative_to(root.resolve())
                up = "../" * path.count("/")
                links[path] = f"{up}{target.relative_to(root.resolve())}" if inside else str(target)
    return links


def _hub_cache(path: Path) -> Path | None:
    """The folder of the Hub's cache that a path lies in: it holds files as blobs, to which those of snapshots link."""
    for folder in path.parents:
        if _HUB_CACHE.fullmatch(folder.name) and (folder / "blobs").is_dir() and (folder / "snapshots").is_dir():
            return folder
    return None


class OneFile(AtHand, OneByOne):
    """A single file as a container that holds nothing else."""

    refused: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().stem
        self.entries: Sequence[str] = [path.name]
        self._path = path

    def read(self, path: str, limit: int) -> bytes:
        """The content of the file; errors as in `Container.read`."""
        return read_file(str(self._path), limit)

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of the file; see `Container.opened`."""
        with opened_file(str(self._path), limit) as data:
            yield data

    def fingerprint(self) -> str:
        """Changes with the size of the file and the time at which it was written."""
        return f"file {_stamp(str(self._path))}"


class FileSlices:
    """`size` bytes from `start` on of what `read` reads (start, count), read as they are sliced."""

    def __init__(self, read: Read, size: int, start: int = 0) -> None:
        self._read, self._size, self._start = read, size, start

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice, /) -> bytes:
        start, stop, _ = place.indices(self._size)
        return self._read(self._start + start, max(stop - start, 0))


@contextlib.contextmanager
def opened_file(path: str, limit: int) -> Iterator[FileSlices]:
    """A regular file on disk, not a link; errors as in `Container.read`."""
    descriptor = -1
    try:
        if not _UNFOLLOWED and not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError(_NO_FILE)
        descriptor = open_binary(Path(path), os.O_RDONLY | _UNFOLLOWED)
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise CheckpointError(f"it has {size:,} bytes, at most {limit:,} expected")
        yield FileSlices(lambda start, count: read_at(descriptor, count, start), size)
    except OSError as error:
        raise CheckpointError(f"it could not be read: {error.strerror or error}") from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file on disk, not a link; errors as in `Container.read`."""
    with opened_file(path, limit) as data:
        return data[: len(data)]


def _stamp(path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError:  # it vanished
        return "-1 -1"
    return f"{status.st_size} {status.st_mtime_ns}"


# Opens no link and waits for no device. Windows has neither flag: there the kind of file is asked first.
_UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_FILE = "it is a link or a device, which are not followed"
_HUB_CACHE = re.compile(r"(?:datasets|models|spaces)--.+")


def _unlisted(number: int) -> str:
    return f"it could not be listed: {os.strerror(number)}"


def _walk(root: Path) -> tuple[list[str], dict[str, str]]:
    entries: list[str] = []
    refused: dict[str, str] = {}
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(f"{root}/{prefix}") as listing:
                for entry in listing:
                    path = f"{prefix}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        entries.append(f"{path}/")
                        folders.append(f"{path}/")
                    else:
                        entries.append(path)
                        if not entry.is_file(follow_symlinks=False):
                            refused[path] = _NO_FILE
        except OSError as error:
            refused[prefix] = _unlisted(error.errno or 0)
    entries.sort()
    return entries, refused
