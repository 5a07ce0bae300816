"""The checksum of a shard, taken while it is written."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo_datasets.storage.cores import cores
from zoo_datasets.storage.files import sha256_of

_LOOK_AGAIN = 0.005  # seconds
_BUFFER = 1 << 20


def digest_of_growing(path: Path) -> Callable[[], str]:
    """A function to be called once a file is written from its beginning to its end: it returns its SHA-256, which a
    thread takes meanwhile where there is a core for it."""
    return functools.partial(sha256_of, path) if cores() < 2 else _Growing(path).close


class _Growing:
    def __init__(self, path: Path) -> None:
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._digest = self._pool.submit(self._follow, path)

    def close(self) -> str:
        self._ended.set()
        try:
            return self._digest.result()
        finally:
            self._pool.shutdown()

    def _follow(self, path: Path) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_BUFFER))
        with path.open("rb", buffering=0) as file:
            ended = False
            while not ended:
                ended = self._ended.wait(_LOOK_AGAIN)  # what was written before is read now
                while count := file.readinto(buffer):
                    digest.update(buffer[:count])
        return digest.hexdigest()
