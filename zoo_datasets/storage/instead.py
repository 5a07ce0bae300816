"""What lies in the place of a binary file: text of a few well-known kinds, that tools leave there."""

from __future__ import annotations

import re

BEGINNING = 1024  # bytes that tell what a file is

_POINTER = b"version https://git-lfs.github.com/spec/"
_TAG = rb"[\s\xef\xbb\xbf]*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:%s)\b"
_PAGE = re.compile(_TAG % rb"!doctype html|html|head|body", re.IGNORECASE | re.DOTALL)
_MESSAGE = re.compile(
    _TAG % rb"error" + rb'|\s*\{\s*"(?:code|detail|error|errors|message|status)"\s*:', re.IGNORECASE | re.DOTALL
)
_AGAIN = "and not the file itself; download the file again, and log in where the server asks for it"


def instead(beginning: bytes) -> str | None:
    """What a file is that begins with these bytes (up to `BEGINNING`), and the remedy; None where it is not known."""
    if beginning.startswith(_POINTER):
        return "is a Git LFS pointer and not the file itself; run `git lfs pull` in the repository"
    if _PAGE.match(beginning):
        return f"is a web page {_AGAIN}"
    if _MESSAGE.match(beginning):
        return f"is a server's error message {_AGAIN}"
    return None
