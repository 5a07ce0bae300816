"""Archives as containers: zip and tar files that are read in place, and the table of all kinds of containers.

A name that climbs out of its folder, a link out of the archive or a device is listed as refused and never opened.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from zoo_datasets.builders.checkpoints.structure import Slices
from zoo_datasets.builders.checkpoints.zips import (
    BOMB_FLOOR,
    BOMB_RATIO,
    LONGEST_LOCAL,
    STORED,
    Member,
    Read,
    check_name,
    check_readable,
    data_start,
    extent,
    read_directory,
    read_member,
    repeated,
    slashed,
)
from zoo_datasets.builders.containers.folder import AtHand, Container, FileSlices, Folder, OneByOne
from zoo_datasets.builders.containers.links import MAX_LINK, follow
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import open_binary, read_at
from zoo_datasets.storage.instead import BEGINNING, instead

# Longer than any path. Older versions of tarfile take quadratic time for a hostile header.
MAX_TAR_HEADER = 1 << 14


class ZipFile(AtHand, OneByOne):
    """A zip archive, local or behind a function that reads ranges of it."""

    def __init__(self, name: str, read: Read, size: int, identity: Sequence[str | int], where: str) -> None:
        self.name = name
        self._read = read
        self._identity = [*identity]
        members, counted = read_directory(read, size, where)
        self.notes: Sequence[Note] = ()
        if counted != len(members):
            text = (
                f"the end record of {self.name}.zip counts {counted:,} members, and its directory lists "
                f"{len(members):,}: all of these were read"
            )
            self.notes = (Note("import-archive-count", text, whole=True),)
        members = [member._replace(name=slashed(member.name)) for member in members]
        twice = repeated(member.name for member in members)
        refused: dict[str, str] = {}
        links: dict[str, str] = {}
        self._members: dict[str, Member] = {}
        for member in members:
            reason = check_name(member.name)
            if reason is None and member.name in twice:
                reason = "the archive holds two members of this name"
            if reason is None and member.is_link:
                reason = self._add_link(member, links)
            elif reason is None:
                self._members[member.name] = member
            if reason is not None:
                refused[member.name] = reason
        _follow(self._members, links, refused)
        self.refused = refused
        self.entries: Sequence[str] = _listed(self._members, refused)

    def _add_link(self, member: Member, links: dict[str, str]) -> str | None:
        try:
            target = read_member(self._read, member, MAX_LINK)
        except CheckpointError as error:
            return f"it is a link: {error}"
        links[member.name] = os.fsdecode(target)
        return None

    def extents(self, paths: Iterable[str], limit: int) -> list[tuple[int, int]]:
        """Where members lie in the archive, without those that `read` would refuse."""
        places = []
        for path in paths:
            with contextlib.suppress(CheckpointError):
                if (member := self._members.get(path)) is not None:
                    check_readable(member, limit)
                    places.append(extent(member))
        return places

    def read(self, path: str, limit: int) -> bytes:
        """The content of a member; errors as in `Container.read`."""
        if path not in self._members:
            raise CheckpointError(self.refused.get(path, "there is no such file"))
        return read_member(self._read, self._members[path], limit)

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of a member, in parts where it is stored as it is; see `Container.opened`."""
        member = self._members.get(path)
        if member is None or member.method != STORED:
            yield self.read(path, limit)
            return
        check_readable(member, limit)
        begin, stop = extent(member)
        start = data_start(self._read(begin, min(stop - begin, LONGEST_LOCAL)), member)
        yield FileSlices(self._read, member.size, start)

    def fingerprint(self) -> str:
        """Digest of where the archive lies, its size and time."""
        return digest_of(self._identity)


class TarFile(AtHand, OneByOne):
    """A tar archive; a compressed one is unpacked once as a whole into a temporary file without a name."""

    def __init__(self, path: Path) -> None:
        self.name = stem(path)
        status = path.stat()
        self._identity = ["tar", status.st_size, status.st_mtime_ns]
        self._descriptor = _plain_tar(path, status.st_size)
        weakref.finalize(self, os.close, self._descriptor)
        self._members: dict[str, tuple[int, int]] = {}
        refused: dict[str, str] = {}
        self._links: dict[str, str] = {}
        total = os.fstat(self._descriptor).st_size
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _TarHeaders(self._descriptor)), mode="r:") as opened:
                last = -1
                while (member := opened.next()) is not None:
                    if member.offset <= last:
                        raise tarfile.ReadError("a header points back to an earlier one")
                    last = member.offset
                    opened.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all that it has read
                    name = slashed(member.name).removeprefix("./") or "."
                    if name != ".":
                        self._add(name, member, refused, total)
                self._check_end(opened.offset)
        # RecursionError: long names of long names.
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError, RecursionError) as error:
            raise SourceError(f"{path} is not a tar archive, or is cut short or broken: {error}") from error
        _follow(self._members, self._links, refused)
        self.refused = refused
        self.entries: Sequence[str] = _listed(self._members, refused)

    def _check_end(self, position: int) -> None:
        """`tarfile` takes a broken header for the end, and would lose all that follows it without a word."""
        end = read_at(self._descriptor, 2 * tarfile.BLOCKSIZE, position)
        if len(end) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the mark of its end is missing")
        if end.strip(b"\0"):
            raise tarfile.ReadError(f"the header at byte {position:,} is damaged")

    def _add(self, name: str, member: tarfile.TarInfo, refused: dict[str, str], total: int) -> None:
        reason = check_name(name)
        if reason is None and member.isdir():
            self._members[f"{name}/"] = (0, 0)
            return
        if reason is None and (member.issym() or member.islnk()):
            up = "" if member.issym() else "../" * name.count("/")
            self._links[name] = f"{up}{slashed(member.linkname)}"
            self._members.pop(name, None)
            return
        if reason is None and (not member.isreg() or member.issparse()):
            reason = "it is a device or a sparse file, which are not read"
        if reason is None and member.size < 0:
            reason = "it claims a size below 0"
        if reason is None and member.offset_data + member.size > total:
            reason = "the archive is cut short before its end"
        if reason is None:
            self._members[name] = (member.offset_data, member.size)  # as tar has it, the last of a name counts
            self._links.pop(name, None)
        else:
            refused[name] = reason

    def read(self, path: str, limit: int) -> bytes:
        """The content of a member; errors as in `Container.read`."""
        data = self._slices(path, limit)
        content = data[: len(data)]
        if len(content) != len(data):
            raise CheckpointError("the archive is cut short before its end")
        return content

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of a member; see `Container.opened`."""
        yield self._slices(path, limit)

    def _slices(self, path: str, limit: int) -> FileSlices:
        if path not in self._members:
            raise CheckpointError(self.refused.get(path, "there is no such file"))
        start, size = self._members[path]
        if size > limit:
            raise CheckpointError(f"it has {size:,} bytes, at most {limit:,} expected")
        return FileSlices(lambda begin, count: read_at(self._descriptor, count, begin), size, start)

    def fingerprint(self) -> str:
        """Digest of the archive's size and time."""
        return digest_of(self._identity)


class _TarHeaders:
    """An archive as `tarfile` reads its headers: no read is longer than any name needs, whatever a header claims."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header claims a name of {count:,} bytes")
        data = read_at(self._descriptor, count, self._position)
        self._position += len(data)
        return data

    def seek(self, position: int) -> int:
        if not position >= 0:
            raise tarfile.ReadError("a header points before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerKind:
    """A kind of container: its file name endings, and how to open one."""

    endings: tuple[str, ...]
    open: Callable[[Path], Container]


def _open_zip(path: Path) -> ZipFile:
    descriptor = open_binary(path, os.O_RDONLY)
    status = os.fstat(descriptor)
    try:
        archive = ZipFile(
            stem(path),
            lambda start, count: read_at(descriptor, count, start),
            status.st_size,
            ["zip", status.st_size, status.st_mtime_ns],
            str(path),
        )
    except CheckpointError:
        os.close(descriptor)
        raise
    weakref.finalize(archive, os.close, descriptor)
    return archive


ARCHIVES: tuple[ContainerKind, ...] = (
    ContainerKind(endings=(".zip",), open=_open_zip),
    ContainerKind(endings=(".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"), open=TarFile),
)


def is_archive(path: Path) -> bool:
    """Whether a path has the ending of an archive that can be read in place."""
    return any(path.name.lower().endswith(kind.endings) for kind in ARCHIVES)


def open_container(path: Path, threads: int = 1) -> Container:
    """The container at a path; a folder is listed by `threads` threads.

    Raises:
        SourceError: if the path is neither a folder nor an archive, or the archive is broken.
    """
    try:
        if path.is_dir():
            return Folder(path, threads)
        for kind in ARCHIVES:
            if path.name.lower().endswith(kind.endings):
                archive = kind.open(path)
                archive.beside = path.resolve().parent
                return archive
    except OSError as error:
        raise SourceError(f"{path} could not be read: {error.strerror or error}") from error
    raise SourceError(
        f"{path} is neither a folder nor an archive ({', '.join(e for k in ARCHIVES for e in k.endings)})"
    )


def _follow(members: dict[str, Any], links: dict[str, str], refused: dict[str, str]) -> None:
    """Add to an archive's members those that its links lead to, under the names of the links."""
    if not links:
        return
    folders = {f"{name[:end]}/" for name in members for end in _slashes(name)}
    followed = follow(sorted(folders.union(members)), links)
    members |= {path: members[place] for path, place in followed.places.items() if place in members}
    refused |= followed.refused


def _slashes(name: str) -> Iterator[int]:
    return (index for index, char in enumerate(name) if char == "/")


def _listed(members: Iterable[str], refused: Iterable[str]) -> list[str]:
    return sorted({*members, *(name for name in refused if check_name(name) is None)})


def stem(path: Path) -> str:
    """The name of an archive without its ending."""
    name = path.name
    for ending in sorted((e for kind in ARCHIVES for e in kind.endings), key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def opener_of(path: Path) -> Callable[[Path], Any] | None:
    """What unpacks a compressed archive as it is read; None of one that is not compressed."""
    with path.open("rb") as file:
        magic = file.read(BEGINNING)
    if text := instead(magic):
        raise SourceError(f"{path} {text}")
    return next((opener for start, opener in _COMPRESSIONS if magic.startswith(start)), None)


def _plain_tar(path: Path, size: int) -> int:
    """A descriptor of the archive as an uncompressed file; a bomb is refused while it is unpacked."""
    opener = opener_of(path)
    if opener is None:
        return open_binary(path, os.O_RDONLY)
    limit = max(BOMB_FLOOR, BOMB_RATIO * size)
    with tempfile.TemporaryFile() as plain:
        try:
            with opener(path) as packed:
                while piece := packed.read(1 << 20):
                    plain.write(piece)
                    if plain.tell() > limit:
                        raise SourceError(
                            f"{path}: {size:,} bytes unpack to more than {limit:,}: a bomb; it was refused"
                        )
            plain.flush()
            plain.seek(0)
        except (OSError, EOFError, MemoryError, lzma.LZMAError, zlib.error) as error:
            free = shutil.disk_usage(tempfile.gettempdir()).free
            raise SourceError(
                f"{path} could not be unpacked: {error} ({free:,} bytes are free in {tempfile.gettempdir()})"
            ) from error
        return os.dup(plain.fileno())


_COMPRESSIONS: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"\xfd7zXZ", lzma.open),
    (b"BZh", bz2.open),
)
