"""Parts of one remote file, kept in a local file with holes, so that nothing is fetched twice."""

from __future__ import annotations

import bisect
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo_datasets.documents import whole_number
from zoo_datasets.errors import StorageError
from zoo_datasets.storage.downloads import only_one, storing
from zoo_datasets.storage.files import open_binary, read_at, write_at
from zoo_datasets.storage.remote import Halt, RemoteFile, in_parallel
from zoo_datasets.terminal import Fetched

Range = tuple[int, int]  # begin, end

# Two parts nearer than this are one request: a round trip costs more than these bytes.
GAP = 1 << 16
PART = 8 << 20
_NOTED = 64  # parts between two entries in the journal, each of which waits for the disk


class RangeCache:
    """A remote file of known size and version, as far as it was asked for.

    `data` has the file's bytes at their places; `ranges` is a journal of what is there, written after the bytes are on
    the disk, so that a killed process loses little and believes nothing wrong.
    """

    def __init__(self, remote: RemoteFile, folder: Path, fetched: Fetched | None = None) -> None:
        assert remote.size is not None
        self._remote = remote
        self._folder = folder
        self._fetched = fetched or (lambda what, done, total: None)
        self._lock = threading.Lock()
        self._journal = folder / "ranges"
        with storing(folder), only_one(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not remote.version:  # nothing tells whether it is still the same file
                self._journal.unlink(missing_ok=True)
            self._descriptor = open_binary(folder / "data", os.O_RDWR | os.O_CREAT)
            weakref.finalize(self, os.close, self._descriptor)
            os.ftruncate(self._descriptor, remote.size)
        self._have = self._journaled()

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start`, fetched where they are not there yet.

        Raises:
            DownloadError, StorageError: if they cannot be had.
        """
        stop = min(start + count, self._remote.size or 0)
        if without([(start, stop)], self._have):
            self.fetch([(start, stop)], "the directory")
        return read_at(self._descriptor, count, start)

    def fetch(self, wanted: Iterable[Range], what: str) -> None:
        """Make these parts be there, several requests at a time; what another process fetched is not asked for."""
        wanted = merged(wanted)
        if not without(wanted, self._have):
            return
        with only_one(self._folder):
            self._have = self._journaled()
            missing = merged(without(wanted, self._have), GAP)
            parts = [(at, min(at + PART, end)) for begin, end in missing for at in range(begin, end, PART)]
            total = sum(end - begin for begin, end in parts)
            done: list[Range] = []
            count = 0

            def fetch_part(part: Range, halt: Halt) -> None:
                nonlocal count
                position = part[0]
                for position, piece in self._remote.pieces(*part, halt):
                    with storing(self._folder):
                        write_at(self._descriptor, piece, position)
                    position += len(piece)
                    with self._lock:
                        count += len(piece)
                        self._fetched(what, count, total)
                with self._lock:
                    if position == part[1]:
                        done.append(part)
                    if len(done) >= _NOTED:
                        self._note(done)

            try:
                in_parallel(fetch_part, parts)
            finally:
                self._note(done)

    def _note(self, done: list[Range]) -> None:
        """Write finished parts into the journal; empties the list."""
        with storing(self._journal):
            os.fsync(self._descriptor)
            with self._journal.open("a", encoding="ascii") as file:
                file.writelines(f"{begin} {end}\n" for begin, end in done)
        self._have = merged([*self._have, *done])
        done.clear()

    def _journaled(self) -> list[Range]:
        try:
            lines = self._journal.read_text(encoding="ascii").split("\n")[:-1]
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{self._journal} could not be read: {error}; remove {self._folder}") from error
        size = self._remote.size or 0
        ranges = filter(None, map(_range, lines))
        return merged((begin, end) for begin, end in ranges if max(begin, end) <= size)


def _range(line: str) -> Range | None:
    """What a line of the journal says; None where it is cut short or something else."""
    begin, _, end = line.partition(" ")
    first, last = whole_number(begin), whole_number(end)
    return None if first is None or last is None else (first, last)


def merged(ranges: Iterable[Range], gap: int = 0) -> list[Range]:
    """Sorted, and one where they touch or are no more than `gap` apart; empty ones are dropped."""
    result: list[Range] = []
    for begin, end in sorted(ranges):
        if begin >= end:
            continue
        if result and begin <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((begin, end))
    return result


def without(wanted: Iterable[Range], have: Sequence[Range]) -> list[Range]:
    """What of the wanted ranges is not there; `have` is merged."""
    missing: list[Range] = []
    for begin, end in wanted:
        index = max(bisect.bisect_right(have, (begin, begin)) - 1, 0)
        while begin < end and index < len(have) and have[index][0] < end:
            first, last = have[index]
            if last > begin:
                if first > begin:
                    missing.append((begin, first))
                begin = last
            index += 1
        if begin < end:
            missing.append((begin, end))
    return missing
