"""Threads that read while what was read before is in use."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
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
