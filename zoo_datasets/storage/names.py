"""Names of files: made of any text, portable, and of a length that file systems take."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

# The longest name of a file that usual file systems take, in bytes.
LONGEST_NAME = 255
# Leaves room for an ending and for the temporary name in the 255 bytes of a file's name.
NAME_LENGTH = 180
_UNSAFE = re.compile(rb"[^A-Za-z0-9_.-]|^\.|\.$")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
_SHORTENED = "%-"  # quoting alone never gives this


def beside(path: Path, ending: str) -> Path:
    """`.NAME` and an ending beside `path`, of a length that file systems take."""
    return path.with_name(fitting(f".{path.name}", ending))


def fitting(name: str, ending: str) -> str:
    """A name with an ending; where that is too long, the beginning of the name and its hash stand for it."""
    whole = os.fsencode(f"{name}{ending}")
    if len(whole) <= LONGEST_NAME:
        return f"{name}{ending}"
    mark = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{ending}"
    return whole[: LONGEST_NAME - len(os.fsencode(mark))].decode(errors="ignore") + mark


def file_name(text: str, limit: int = NAME_LENGTH) -> str:
    """A name for a file or folder made of any text: one part of a path, never hidden, ASCII, different for each text.

    Letters, digits, `-`, `_` and `.` stay; every other byte of UTF-8 is `%` and two hexadecimal digits, and so are a
    dot at either end and the first letter of a device's name of Windows. What is longer than `limit` ends in a hash.
    """
    quoted = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "surrogatepass")).decode()
    if _DEVICE.match(quoted):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return shortened(quoted or "%", limit, text)


def shortened(name: str, limit: int, text: str | None = None) -> str:
    """The name, or where it is longer than `limit` its beginning and a hash of `text`, or of itself."""
    return name if len(name) <= limit else hashed(name, limit, text)


def hashed(name: str, limit: int, text: str | None = None) -> str:
    """A name with a hash of `text`, or of itself, at its end: at most `limit` characters."""
    whole = (name if text is None else text).encode("utf-8", "surrogatepass")
    ending = f"{_SHORTENED}{hashlib.blake2b(whole, digest_size=16).hexdigest()}"
    return f"{name[: limit - len(ending)]}{ending}"


def distinct_names(names: Mapping[str, str], limit: int) -> dict[str, str]:
    """Names by text, so that no two are the same where upper and lower case are; those that are get a hash."""
    counts = Counter(name.lower() for name in names.values())
    return {text: name if counts[name.lower()] == 1 else hashed(name, limit, text) for text, name in names.items()}
