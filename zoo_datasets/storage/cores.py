"""How many threads are worth starting."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use: of the machine, where the system knows of no others."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
