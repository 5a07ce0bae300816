"""Beside the thread that writes: one that reads what comes next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from zoo_datasets.builders.shards.plan import ShardPart
from zoo_datasets.builders.sources.base import Source, States
from zoo_datasets.repository.records import LeftOut

Item = States | LeftOut
# Of weights that were read and wait to be written: a row group. Pieces that are larger are read when they are wanted.
HELD_BYTES = 100_000_000


class ReadAhead:
    """The states of parts, one part after another, read by a thread while others are written."""

    def __init__(self, source: Source, parts: Sequence[ShardPart]) -> None:
        self._source, self._parts = source, parts
        self._held: deque[tuple[ShardPart, Item | None]] = deque()
        self._bytes = self._usual = 0  # held, and of the last piece
        self._changed = threading.Condition()
        self._stopped = self._wanted = False
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> ReadAhead:
        self._reading = self._pool.submit(self._run)
        self._reading.add_done_callback(lambda _: self._tell())
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the piece at hand; nothing more is read."""
        self._stopped = True
        self._tell()
        self._pool.shutdown()

    def read(self, part: ShardPart) -> Iterator[Item]:
        """What `Source.read` yields of a part, which is the next one; raises what that raises."""
        while True:
            with self._changed:
                if not self._held:
                    self._wanted = True
                    self._changed.notify_all()
                self._changed.wait_for(lambda: self._held or self._reading.done())
                if not self._held:
                    self._reading.result()
                of, item = self._held.popleft()
                self._bytes -= _size(item)
                self._changed.notify_all()
            if of is part and item is None:
                return
            if of is part and item is not None:
                yield item

    def _run(self) -> None:
        for part in self._parts:
            items = self._source.read(part.block)
            while self._has_room():
                item = next(items, None)
                self._hold(part, item)
                if item is None:
                    break
            else:
                return

    def _has_room(self) -> bool:
        """Wait for room; false where nothing more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._wanted or self._bytes + self._usual <= HELD_BYTES)
            self._wanted = False
            return not self._stopped

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _hold(self, part: ShardPart, item: Item | None) -> None:
        with self._changed:
            self._held.append((part, item))
            self._bytes += _size(item)
            self._usual = _size(item) or self._usual
            self._changed.notify_all()


def _size(item: Item | None) -> int:
    if not isinstance(item, States):
        return 0
    return sum(tensor.nbytes for tensor in (item.weights, *item.extras.values())) + sum(map(len, item.raw or ()))
