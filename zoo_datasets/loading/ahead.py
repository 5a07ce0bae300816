"""Threads that read while what was read before is in use."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Asked = TypeVar("_Asked")
_Read = TypeVar("_Read")


class Readers(ThreadPoolExecutor):
    """Threads of an iteration, which may be left in the middle, also by the end of the program."""

    # Bound here: names of modules are gone when the interpreter closes what was left open.
    _finalizing = staticmethod(sys.is_finalizing)

    def stop(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        if not self._finalizing():  # the interpreter has then ended the threads itself
            self.shutdown(cancel_futures=True)


def read_ahead(read: Callable[[_Asked], _Read], asked: Iterable[_Asked], depth: int) -> Generator[_Read]:
    """`map(read, asked)`, computed in one thread up to `depth` entries before they are wanted."""
    waiting: deque[Future[_Read]] = deque()
    reader = Readers(1, thread_name_prefix="zoo-batches")
    try:
        for entry in asked:
            waiting.append(reader.submit(read, entry))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.stop()


class Pace:
    """Reads ahead where that is faster, by the seconds from one entry to the next with a thread and without.

    A thread hides the reading behind what the caller does with an entry. But what it read lies in another core's
    cache: where the caller does little, fetching it from there costs more than reading it did.
    """

    _TRIED = 6  # entries in each way; the first of them does not count

    def __init__(self) -> None:
        self.ahead: bool | None = None

    def run(self, read: Callable[[_Asked], _Read], asked: Sequence[_Asked]) -> Generator[_Read]:
        """`map(read, asked)`, in the way that was faster; long iterations try both ways first."""
        start = 0
        if self.ahead is None and len(asked) >= 4 * self._TRIED:
            seconds: dict[bool, float] = {}
            for ahead in (False, True):
                part = asked[start : start + self._TRIED]
                taken: list[float] = []
                yield from self._timed(read_ahead(read, part, 1) if ahead else map(read, part), taken)
                seconds[ahead] = statistics.median(taken[1:])
                start += self._TRIED
            self.ahead = seconds[True] < seconds[False]
        rest = asked[start:]
        yield from map(read, rest) if self.ahead is False else read_ahead(read, rest, 1)

    @staticmethod
    def _timed(entries: Iterable[_Read], taken: list[float]) -> Generator[_Read]:
        """The entries; adds to `taken` the seconds of each, with what the caller does with it."""
        begun = time.perf_counter()
        for entry in entries:
            yield entry
            now = time.perf_counter()
            taken.append(now - begun)
            begun = now
