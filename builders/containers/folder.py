"""Where a raw zoo lies: a container, which lists its entries and reads files; and folders as containers.

Nothing is unpacked beside it, and a link or a device is listed as refused and never opened.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import MAX_CHECKPOINT, Slices
from zoo_datasets.builders.checkpoints.zips import Read
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


class Folder(AtHand):
    """A folder on disk. Links are followed nowhere."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.name = path.resolve().name
        self._path = path
        self._tree = list_tree(str(path), threads)
        self.entries: Sequence[str]
        self.refused: Mapping[str, str]
        if self._tree is None:
            self.entries, self.refused = _walk(path)
        else:
            unreadable = self._tree.refused.items()
            self.entries = self._tree.entries
            self.refused = {entry: _NO_FILE if number is None else _unlisted(number) for entry, number in unreadable}

    @functools.cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file; errors as in `Container.read`."""
        if path in self.refused:
            raise CheckpointError(self.refused[path])
        return read_file(f"{self._path}/{path}", limit)

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of a file; see `Container.opened`."""
        if path in self.refused:
            raise CheckpointError(self.refused[path])
        with opened_file(f"{self._path}/{path}", limit) as data:
            yield data

    def read_alike(
        self, paths: Sequence[str], template: Template, memory: NDArray[np.uint8]
    ) -> NDArray[np.bool_] | None:
        """Read many files of one structure into `memory`; see `Container.read_alike`."""
        if any(map(self.refused.__contains__, paths)):
            return None
        try:
            return read_alike(self._descriptor, paths, template, memory)
        except OSError:  # reading each file reports why
            return None

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes and times of files whose names begin with no dot."""
        if self._tree is not None:
            stamps = self._tree.stamps
        else:
            files = [entry for entry in self.entries if entry[-1] != "/" and entry.rpartition("/")[2][0] != "."]
            stamps = " ".join([_stamp(f"{self._path}/{entry}") for entry in files]).encode()
        return hashlib.sha256(os.fsencode("\0".join(self.entries)) + b"\0" + stamps).hexdigest()


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
