"""How much memory a piece of work takes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/statm")
_SECONDS = 0.05


@dataclass
class Memory:
    """Bytes that were in memory at most, less those at the start; 0 where the system does not tell."""

    bytes: int = 0


@contextlib.contextmanager
def measured(device: str) -> Iterator[Memory]:
    """Watch this process's memory, or that of a CUDA device, while the block runs."""
    memory = Memory()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield memory
        memory.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    start, done = _resident(), threading.Event()

    def watch() -> None:
        while not done.wait(_SECONDS):
            memory.bytes = max(memory.bytes, _resident() - start)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()
        memory.bytes = max(memory.bytes, _resident() - start, 0)


def _resident() -> int:
    try:
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
