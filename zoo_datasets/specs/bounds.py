"""Bounds of what a zoo may be: its name, and its numbers."""

from __future__ import annotations

import re

SEED_LIMIT = 1_000_000
MAX_EPOCH = 1_000_000
MAX_MODELS = 500_000
MAX_BATCH = 1_000_000
MAX_SIDE = 4096  # pixels of an image
MAX_SIZES = (99_999, 99)  # width and depth
# Names folders and configs of repositories.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
