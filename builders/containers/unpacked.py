"""Compressed tar archives of a few large files, which cannot be read in place: unpacked once, into the cache."""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from zoo_datasets.builders.checkpoints.zips import BOMB_FLOOR, BOMB_RATIO
from zoo_datasets.builders.containers.archives import MAX_TAR_HEADER, opener_of, stem
from zoo_datasets.builders.containers.folder import Container, Folder
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.errors import SourceError, StorageError
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import cache_folder
from zoo_datasets.terminal import Fetched

_LOOKED_AT = 16  # members, of which one tells what an archive holds
_PIECE = 1 << 20
_BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, lzma.LZMAError, zlib.error, RecursionError)


def unpacked(path: Path, names: Sequence[str], fetched: Fetched | None = None) -> Container | None:
    """The files of these names in a compressed tar archive, in a folder of the cache that is filled once.

    Args:
        names: of files, in whatever folder of the archive; those of all others are not unpacked.
        fetched: called with the file that is being unpacked, the bytes done, and their number.

    Returns:
        None if it is not compressed, or none of its first files has one of the names.

    Raises:
        SourceError: if it is broken or a bomb, or two of its files have one of the names.
        StorageError: if the cache cannot be written.
    """
    try:
        opener, status = opener_of(path), path.stat()
    except OSError as error:
        raise SourceError(f"{path} could not be read: {error.strerror or error}; make it readable") from error
    if opener is None:
        return None
    key = digest_of(["unpacked", str(path.resolve()), status.st_size, status.st_mtime_ns])[:32]
    folder = cache_folder() / "unpacked" / key / stem(path)
    try:
        if not folder.is_dir() and not _unpack(path, opener, status.st_size, names, folder, fetched):
            return None
    except _BROKEN as error:
        raise SourceError(f"{path} could not be unpacked, it is cut short or broken: {error}") from error
    except OSError as error:
        raise StorageError(
            f"{path} could not be unpacked into {folder.parent}: {error.strerror or error}; free space there, or let "
            "ZOO_CACHE name another folder"
        ) from error
    container = Folder(folder)
    container.beside = path.resolve().parent
    text = f"{path.name} is compressed as a whole and cannot be read in place: it was unpacked into the cache"
    container.notes = (Note("archive-unpacked", text, whole=True),)
    return container


def _unpack(
    path: Path, opener: Any, size: int, names: Sequence[str], folder: Path, fetched: Fetched | None
) -> bool:  # fmt: skip
    """Fill the folder, which appears when it is complete; False if the archive is another one."""
    part = folder.with_name(f".{os.getpid()}.part")
    with opener(path) as packed, _removed(part):
        headers = _Headers(packed, max(BOMB_FLOOR, BOMB_RATIO * size), path)
        with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:") as archive:
            for number, member in enumerate(iter(archive.next, None)):
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all that it has read
                name = member.name.rpartition("/")[2]
                if member.isreg() and not member.issparse() and name in names:
                    part.mkdir(parents=True, exist_ok=True)
                    if (part / name).exists():
                        raise SourceError(
                            f"{path} holds two files {name}; unpack it, and build from one of its folders"
                        )
                    headers.copy(member, part / name, fetched)
                elif number >= _LOOKED_AT and not part.exists():
                    return False
        if not part.exists():
            return False
        with contextlib.suppress(FileExistsError):
            part.rename(folder)
        return folder.is_dir()


@contextlib.contextmanager
def _removed(part: Path) -> Iterator[None]:
    """What is unfinished goes when the block is left."""
    try:
        yield
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Headers:
    """An unpacked stream as `tarfile` reads its headers, forwards, none longer than a name needs; and its contents."""

    def __init__(self, packed: Any, limit: int, path: Path) -> None:
        self._packed, self._limit, self._path = packed, limit, path

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header claims a name of {count:,} bytes")
        return bytes(self._packed.read(count))

    def tell(self) -> int:
        return int(self._packed.tell())

    def seek(self, position: int) -> int:
        if position < self.tell():
            raise tarfile.ReadError("a header points back to an earlier one")
        if position > self._limit:
            self._refuse()
        return int(self._packed.seek(position))

    def copy(self, member: tarfile.TarInfo, target: Path, fetched: Fetched | None) -> None:
        """Write the content of a member to a file."""
        self.seek(member.offset_data)
        if member.offset_data + member.size > self._limit:
            self._refuse()
        with target.open("xb") as file:
            while (done := file.tell()) < member.size:
                piece = self._packed.read(min(_PIECE, member.size - done))
                if not piece:
                    raise EOFError("it ends too early")
                file.write(piece)
                if fetched is not None:
                    fetched(f"unpacking {target.name}", done + len(piece), member.size)

    def _refuse(self) -> None:
        raise SourceError(f"{self._path} unpacks to more than {self._limit:,} bytes: a bomb; it was refused")
