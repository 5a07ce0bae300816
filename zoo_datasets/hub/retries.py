"""Trying again what the Hub did not accept, where that helps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

_Value = TypeVar("_Value")

_CONFLICTS = 8
_FAILURES = 3
_LONGEST_WAIT = 300.0


def retried(attempt: Callable[[], _Value], tell: Callable[[str], None], repeatable: Callable[[], bool]) -> _Value:
    """What an attempt returns that reads the newest state of a repository and commits on top of it.

    Args:
        tell: called with the reason for each other try, a line of text.
        repeatable: whether an attempt may be made again of which nobody knows whether it succeeded.

    Raises:
        The Hub's client's errors, if trying again does not help.
    """
    number = 0
    while True:
        number += 1
        try:
            return attempt()
        except HTTPError as error:
            wait = _wait(error, number, repeatable())
            if wait is None:
                raise
            if status_of(error) in (409, 412):
                tell("somebody else pushed meanwhile; merging with its present state")
            else:
                tell(f"the Hub does not answer as it should; trying again in {wait:.0f} s")
            time.sleep(wait)


def status_of(error: Exception) -> int | None:
    """The status of an answer of the Hub; None if there was no answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _wait(error: HTTPError, number: int, repeatable: bool) -> float | None:
    """Seconds until another try; None if that would not help."""
    status = status_of(error)
    if status in (409, 412):
        return 0.1 * number if number < _CONFLICTS else None
    unanswered = (status is None or status >= 500) and repeatable
    if number >= _FAILURES or not (status == 429 or unanswered):
        return None
    retry_after = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    wait = float(retry_after) if retry_after.isdecimal() else 2.0**number
    return wait if wait <= _LONGEST_WAIT else None
