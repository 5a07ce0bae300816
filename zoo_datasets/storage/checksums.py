"""Checksums that the files of a run carry in themselves: file and checksum appear by one rename, or not at all.

A file holds one line of plain text, its record: `epoch 3, members 0123456789abcdef, crc32 89abcdef`. It stands in the
header of a safetensors file, in the footer of a Parquet file and in a JSON object, each under the key `record`. The
CRC-32 is that of the whole file with zeros in the place of its own eight digits, so that no byte is left unwatched.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from isal.isal_zlib import crc32

from zoo_datasets.errors import DamagedError
from zoo_datasets.storage.files import replacing

RECORD = "record"

_ZEROS = b"00000000"
_LINE = re.compile(rb"epoch (\d{1,9}), members ([0-9a-f]{16}), crc32 ([0-9a-f]{8})")
# What is left of a line in which a few bits are wrong.
_TRACES = re.compile(rb"epoch \d|, members |, crc32 |\"record\": \"|\"record\":\"")


@dataclass(frozen=True, slots=True)
class Record:
    """What a file says of itself: the epoch it was written after, and the digest of the models it is of."""

    epoch: int
    members: str

    def line(self) -> str:
        """The text to put into the file before `write_checked` fills in the checksum."""
        return f"epoch {self.epoch}, members {self.members}, crc32 {_ZEROS.decode()}"


def write_checked(path: Path, data: bytes) -> None:
    """Write a file that holds the line of a record to `path`, atomically, with its checksum filled in.

    Raises:
        StorageError: if the file system refuses; names the file.
    """
    match = _line_of(path, data)
    assert match is not None, f"{path} holds no record"
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        with temporary.open("rb+") as file:
            file.seek(match.start(3))
            file.write(f"{crc32(data):08x}".encode())


def read_record(path: Path) -> Record | None:
    """The record of a file whose bytes are those that were written; None where it carries none, as older ones.

    Raises:
        DamagedError: if the bytes are others.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise DamagedError(f"{path} is damaged: it is empty") from error
    with data, memoryview(data) as view:
        match = _line_of(path, data)
        if match is None:
            if _TRACES.search(_text_of(path, data)):
                raise DamagedError(f"{path} is damaged: the record in it is no record any more")
            return None
        epoch, members, digits = match[1], match[2], match[3]
        place = match.start(3)
        checksum = crc32(view[place + len(_ZEROS) :], crc32(_ZEROS, crc32(view[:place])))
        if checksum != int(digits, 16):
            raise DamagedError(
                f"{path} is damaged: its bytes have the CRC-32 {checksum:08x}, {digits.decode()} was written "
                f"after epoch {int(epoch)}"
            )
        return Record(int(epoch), members.decode())


def _line_of(path: Path, data: bytes | mmap.mmap) -> re.Match[bytes] | None:
    begin, end = _place_of(path, data)
    return _LINE.search(data, begin, end)


def _text_of(path: Path, data: mmap.mmap) -> bytes:
    begin, end = _place_of(path, data)
    return data[begin:end]


def _place_of(path: Path, data: bytes | mmap.mmap) -> tuple[int, int]:
    """Where the text of a file lies: never among the values, which may look like anything."""
    size = len(data)
    if path.suffix == ".safetensors":
        begin, end = 8, 8 + int.from_bytes(data[:8], "little")
    elif path.suffix == ".parquet":
        begin, end = size - 8 - int.from_bytes(data[-8:-4], "little"), size - 8
    else:
        begin, end = 0, size
    if not 0 <= begin <= end <= size:
        raise DamagedError(f"{path} is damaged: it holds {size:,} bytes, its header says more")
    return begin, end
