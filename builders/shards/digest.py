"""The checksum of a file, taken while the file is written."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LOOK_AGAIN = 0.005  # seconds
_BUFFER = 1 << 20


class GrowingDigest:
    """SHA-256 of a file that is written from its beginning to its end, taken by a thread while it grows."""

    def __init__(self, path: Path) -> None:
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._digest = self._pool.submit(self._follow, path)

    def close(self) -> str:
        """Its hexadecimal digits; the file is written."""
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
