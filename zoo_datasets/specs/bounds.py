"""Bounds of what a zoo may be: its names, and its numbers."""

from __future__ import annotations

import re
from typing import Any

SEED_LIMIT = 1_000_000
MAX_EPOCH = 1_000_000
MAX_MODELS = 500_000
MAX_BATCH = 1_000_000
MAX_SIDE = 4096  # pixels of an image
MAX_SIZES = (99_999, 99)  # width and depth
# Names folders and configs of repositories.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# A function of a user's own code that makes networks.
FACTORY = r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"
MAX_FACTORY = 120


def is_factory(name: Any) -> bool:
    """Whether a value is a name as `my_package.models:make_model`."""
    return isinstance(name, str) and len(name) <= MAX_FACTORY and re.fullmatch(FACTORY, name) is not None
