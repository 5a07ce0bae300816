"""What a message must not show: tokens, and what signs an address."""

from __future__ import annotations

import re

from huggingface_hub import get_token

_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_USER = re.compile(r"(https?://)[^/@\s]+@")
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9_]+|(?<=Bearer )[^\s'\"]+")


def without_secrets(text: str) -> str:
    """A text on one line, without tokens, users in addresses, and queries of addresses, which carry signatures."""
    token = get_token()
    if token:
        text = text.replace(token, "[token]")
    text = _TOKEN.sub("[token]", _USER.sub(r"\1", _QUERY.sub(r"\1", text)))
    return " ".join(text.split())
