"""The directory of a zip archive, read with suspicion, and single members by positioned reads.

`zipfile` opens a file object for each member; zoos have tens of thousands of small ones.
"""

from __future__ import annotations

import itertools
import re
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from isal import isal_zlib
from isal.isal_zlib import crc32

from zoo_datasets.errors import CheckpointError
from zoo_datasets.storage.instead import BEGINNING, instead

Read = Callable[[int, int], bytes]

STORED, DEFLATED = 0, 8
LOCAL_SIZE = 30
LONGEST_LOCAL = LOCAL_SIZE + 2 * 0xFFFF  # bytes of a local header, with its name and extra field
CENTRAL_SIZE = 46
CENTRAL_CRC = 16  # where the CRC stands in a central record
LOCAL_CRC = 14
# Float weights compress to a tenth at best, logs to a thirtieth.
BOMB_RATIO = 200
BOMB_FLOOR = 1 << 20

# Of five million members with long names; more is a sparse file's claim.
MAX_DIRECTORY = 1 << 30
_LARGE_DIRECTORY = 1 << 26

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5HL2L2H")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02"
ENCRYPTED = 0x1
_UTF8 = 0x800
_UNIX = (3, 19)  # systems whose archives have the modes of files: Unix, macOS


class Member(NamedTuple):
    """One entry of the directory.

    Attributes:
        is_link: whether its content is where a symbolic link leads.
        header: where its local header begins.
        record: where its central record begins.
        end: where the next member or the directory begins; the member may not reach further.
    """

    name: str
    raw_name: bytes
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    is_link: bool
    header: int
    record: int
    end: int


_Fields = tuple[str, bytes, int, int, int, int, int, bool, int, int]  # those of a member but the last


class Directory(NamedTuple):
    """The members of an archive in their order; `counted` is the number that its end record states."""

    members: list[Member]
    counted: int


def read_directory(read: Read, total: int, what: str = "the archive") -> Directory:
    """The directory of an archive of `total` bytes, read to its end whatever number of members it states.

    Bytes in front of the archive, of which its own places know nothing, are passed over.

    Raises:
        CheckpointError: if it is not a zip archive, is cut short, or its members overlap.
    """
    end = _end(read, total, what)
    if end.start < 0 or end.start + end.size > end.limit or end.size > MAX_DIRECTORY:
        raise CheckpointError(f"{what} is broken: its directory does not fit into it")
    if (gap := end.limit - end.start - end.size) > 0:
        raise CheckpointError(
            f"{what} is broken or is cut short: {gap:,} bytes stand between its directory and its end"
        )
    if end.size > _LARGE_DIRECTORY and read(end.start, 4) != _CENTRAL_SIGNATURE:
        raise CheckpointError(f"{what} is broken: there is no directory where it should begin")
    directory = read(end.start, end.size)
    records = list(_records(directory, end.start, end.before, what))
    headers = [fields[-2] for fields in records]
    ends = [end.start] * len(records)
    for index, following in itertools.pairwise(sorted(range(len(records)), key=headers.__getitem__)):
        ends[index] = headers[following]
    members = [Member(*fields, stop) for fields, stop in zip(records, ends, strict=True)]
    for member in members:
        if member.header + LOCAL_SIZE + len(member.raw_name) + member.compressed > member.end:
            raise CheckpointError(f"{what} is broken: member {member.name[:80]!r} overlaps what follows it")
    return Directory(members, end.counted)


class _End(NamedTuple):
    """Number of members, size and start of the directory, where it must end, and bytes in front of the archive."""

    counted: int
    size: int
    start: int
    limit: int
    before: int


def _end(read: Read, total: int, what: str) -> _End:
    length = min(total, _END.size + 0xFFFF)
    tail = read(total - length, length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        if text := instead(read(0, min(total, BEGINNING))):
            raise CheckpointError(f"{what} {text}")
        raise CheckpointError(f"{what} is not a zip archive or is cut short: there is no directory at its end")
    position = total - length + at
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
    locator = position - _END64_LOCATOR.size
    large = None if locator < 0 else _large_end(read, locator)
    if large is not None:  # torch writes one always
        position, fields = large
        if 0xFFFF in (here, count) or 0xFFFFFFFF in (size, start):
            *_, disk, first_disk, here, count, size, start = fields
    elif 0xFFFFFFFF in (size, start):  # an archive of 65,535 members needs none
        raise CheckpointError(f"{what} is broken: its large directory is missing")
    if disk or first_disk or here != count:
        raise CheckpointError(f"{what} is one part of several; join them first")
    before = 0
    # A zip of checkpoints that is cut short may end in one of them, which is a zip too.
    if (
        at + _END.size + comment == len(tail)
        and read(0, 4) != _LOCAL_SIGNATURE
        and start + size < position
        and position >= size >= 4
        and read(start, 4) != _CENTRAL_SIGNATURE
        and read(position - size, 4) == _CENTRAL_SIGNATURE
    ):
        before = position - size - start
    return _End(counted=count, size=size, start=start + before, limit=position, before=before)


def _large_end(read: Read, locator: int) -> tuple[int, tuple[Any, ...]] | None:
    """Place and fields of the record that a locator leads to, also where bytes stand in front of the archive."""
    signature, _, place, _ = _END64_LOCATOR.unpack(read(locator, _END64_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    for position in (place, locator - _END64.size):
        if 0 <= position <= locator - _END64.size:
            fields = _END64.unpack(read(position, _END64.size))
            if fields[0] == b"PK\x06\x06":
                return position, fields
    return None


def _records(directory: bytes, start: int, before: int, what: str) -> Iterator[_Fields]:
    position = 0
    while position < len(directory):
        if position + CENTRAL_SIZE > len(directory):
            raise CheckpointError(f"{what} is broken: its directory is cut short")
        fields = _CENTRAL.unpack_from(directory, position)
        flags, method, crc, compressed, size = fields[5], fields[6], fields[9], fields[10], fields[11]
        name_length, extra_length, comment_length, header = fields[12], fields[13], fields[14], fields[18]
        is_link = fields[2] in _UNIX and stat.S_ISLNK(fields[17] >> 16)
        names = position + CENTRAL_SIZE
        extras = names + name_length
        following = extras + extra_length + comment_length
        if fields[0] != _CENTRAL_SIGNATURE or following > len(directory):
            raise CheckpointError(f"{what} is broken: its directory is cut short")
        raw = directory[names:extras]
        if 0xFFFFFFFF in (compressed, size, header):
            extra = directory[extras : extras + extra_length]
            size, compressed, header = _large(extra, size, compressed, header, what)
        yield (
            _decoded(raw, flags),
            raw,
            method,
            flags,
            crc,
            compressed,
            size,
            is_link,
            header + before,
            start + position,
        )
        position = following


def _decoded(raw: bytes, flags: int) -> str:
    """A member's name. Macs write UTF-8 without saying so; bytes that are none in spite of saying so are surrogates."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")


def _large(extra: bytes, size: int, compressed: int, header: int, what: str) -> tuple[int, int, int]:
    """The 64-bit values of an entry's extra field, where its own are saturated."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            values = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
            taken = iter(values)
            try:
                return tuple(  # type: ignore[return-value]
                    next(taken) if value == 0xFFFFFFFF else value for value in (size, compressed, header)
                )
            except (StopIteration, RuntimeError) as error:
                raise CheckpointError(f"{what} is broken: a large member's size is missing") from error
        position += 4 + length
    raise CheckpointError(f"{what} is broken: a large member's size is missing")


def data_start(header: bytes, member: Member) -> int:
    """Where a member's data begins, from its local header, which must agree with the directory.

    Raises:
        CheckpointError: if they differ.
    """
    if len(header) < LOCAL_SIZE + len(member.raw_name):
        raise CheckpointError(f"member {member.name[:80]!r} is cut short")
    fields = _LOCAL.unpack_from(header)
    name = header[LOCAL_SIZE : LOCAL_SIZE + fields[9]]
    if fields[0] != _LOCAL_SIGNATURE or fields[3] != member.method or name != member.raw_name:
        raise CheckpointError(f"member {member.name[:80]!r}: its header and the directory differ")
    start = int(member.header + LOCAL_SIZE + fields[9] + fields[10])
    if start + member.compressed > member.end:
        raise CheckpointError(f"member {member.name[:80]!r} overlaps what follows it")
    return start


def read_member(read: Read, member: Member, limit: int) -> bytes:
    """The content of a member, its size and CRC checked.

    Raises:
        CheckpointError: if it is encrypted, of another compression than deflate, larger than `limit` or than
            it says, compressed as no data is, or broken.
    """
    check_readable(member, limit)
    begin, stop = extent(member)
    head = read(begin, stop - begin)
    start = data_start(head, member) - member.header
    if start + member.compressed > len(head):
        head = read(member.header, start + member.compressed)
    data = head[start : start + member.compressed]
    if member.method == DEFLATED:
        data = _inflate(data, member)
    if len(data) != member.size or crc32(data) != member.crc:
        raise CheckpointError("its size or checksum is not what the archive says; it is cut short or broken")
    return data


def extent(member: Member) -> tuple[int, int]:
    """Where a member lies, header and data. A local extra field is rarely longer than 64 bytes; then one read of this
    is enough."""
    guess = member.header + LOCAL_SIZE + len(member.raw_name) + 64 + member.compressed
    return member.header, min(guess, member.end)


def check_readable(member: Member, limit: int) -> None:
    """Refuse a member by what the directory says of it, before anything is read."""
    if member.flags & ENCRYPTED:
        raise CheckpointError("it is encrypted")
    if member.method not in (STORED, DEFLATED):
        raise CheckpointError(f"it is compressed by method {member.method}, expected stored or deflate")
    if member.size > limit:
        raise CheckpointError(f"it has {member.size:,} bytes, at most {limit:,} expected")
    if member.size > BOMB_FLOOR and member.size > BOMB_RATIO * member.compressed:
        raise CheckpointError(
            f"{member.compressed:,} bytes claim to hold {member.size:,}: a zip bomb, which was not unpacked"
        )


def _inflate(data: bytes, member: Member) -> bytes:
    inflater = isal_zlib.decompressobj(-isal_zlib.MAX_WBITS)
    try:
        # One byte more than declared tells a bomb from an honest member.
        content = inflater.decompress(data, member.size + 1)
    except isal_zlib.error as error:  # type: ignore[misc]  # a class, whatever its stub says
        raise CheckpointError(f"it could not be unpacked: {error}") from error
    if len(content) > member.size:
        raise CheckpointError(f"it unpacks to more than the {member.size:,} bytes that it claims; it was refused")
    return content


def slashed(name: str) -> str:
    """A member's name with the separators that archives should have; tools of Windows write backslashes."""
    return name.replace("\\", "/")


# What any name has that is refused: an empty part or one of dots, or a character that no path holds.
_ODD_NAME = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\\\0]|^.:", re.DOTALL)


def check_name(name: str) -> str | None:
    """Why a member's name cannot be a path inside its archive; None where it can."""
    if not _ODD_NAME.search(name.rstrip("/")):
        return None
    if not name or name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":":
        return f"{name[:80]!r} is not a relative path"
    if any(part in ("", ".", "..") for part in name.rstrip("/").split("/")):
        return f"{name[:80]!r} climbs out of its folder or is not a plain path"
    return None


def repeated(names: Iterable[str]) -> set[str]:
    """Names that occur more than once."""
    seen: set[str] = set()
    twice: set[str] = set()
    for name in names:
        (twice if name in seen else seen).add(name)
    return twice
