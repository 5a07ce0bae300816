"""JSON and YAML of anybody: read within bounds, or refused on one line that says what was there.

The bounds leave room for what this package writes itself, and keep what a few bytes can claim (a number of a million
digits, lists within lists, aliases of aliases) from costing minutes or gigabytes.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_datasets.errors import DocumentError

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_JSON = 1 << 26  # bytes
MAX_YAML = 1 << 23
MAX_DEPTH = 64  # lists and mappings within each other
MAX_VALUES = 1 << 22  # of a JSON text
MAX_NODES = 100_000  # of a YAML text, those that aliases repeat included
MAX_NUMBER = 64  # characters of a number in YAML
MAX_DIGITS = 18  # of a whole number that is told as text
MAX_COUNT = 10**15  # of rows, bytes and the like

_PROBLEMS = 5  # that a message names
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_LONG_NUMBER = re.compile(r"\d{19}")
_YAML_NUMBER = re.compile(r"[-+0-9a-fA-FxXob_:.]*")
_YAML_TAGS = frozenset({None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))})

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80
_brief.maxlong = 40
_brief.maxlevel = 3


# Wherever a path of this machine is asked for.
StrPath = str | os.PathLike[str]


def brief(value: Any) -> str:
    """What a document holds as a short text for a message: escaped, and cut where it is long or deep."""
    return _brief.repr(value)


# Opening a pipe without this would wait for somebody to write into it. Windows has no such pipes, and a text mode.
_UNWAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: if it cannot be read.
        DocumentError: if it is none, or has more than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | _UNWAITING)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DocumentError("it is no regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DocumentError(f"it has more than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        OSError: if it cannot be read.
        DocumentError: if it is no such file, or has more than `limit` bytes.
    """
    return _decoded(read_bytes(path, limit), "utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file; see `parse_json`.

    Raises:
        OSError: if it cannot be read.
        DocumentError: if it is no JSON within the bounds.
    """
    return parse_json(read_bytes(path, MAX_JSON))


def parse_json(data: bytes | bytearray | str, depth: int = MAX_DEPTH, *, long_numbers: bool = False) -> Any:
    """The value of a JSON text; halves of surrogate pairs, which no file can hold, become U+FFFD.

    Args:
        depth: the most lists and objects within each other that are taken.
        long_numbers: whether whole numbers beyond 64 bits are taken too, as text.

    Raises:
        DocumentError: if it is no JSON, or one beyond the bounds: of size, depth, values, or 64 bits a number.
    """
    if len(data) > MAX_JSON:
        raise DocumentError(f"it has {len(data):,} bytes, at most {MAX_JSON:,} expected")
    text = data if isinstance(data, str) else _decoded(data, json.detect_encoding(data))
    opened = text.count("[") + text.count("{")
    if opened + text.count(",") > MAX_VALUES:
        raise DocumentError(f"it holds more than {MAX_VALUES:,} values")
    try:
        whole_number_of = _whole_or_text if long_numbers else _whole
        value = json.loads(text, parse_int=whole_number_of if _LONG_NUMBER.search(text) else None)
    except RecursionError:
        raise _too_deep("JSON") from None
    except ValueError as error:
        raise error if isinstance(error, DocumentError) else DocumentError(f"it is not valid JSON: {error}") from None
    if opened > depth and _depth_exceeds(value, depth):
        raise _too_deep("JSON")
    if _HALF_PAIR.search(text):
        whole = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        value = json.loads(whole)
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text of plain data; a key that stands twice is an error.

    Raises:
        DocumentError: if it is no YAML, or one beyond the bounds; see `check_yaml`.
    """
    check_yaml(text)
    import yaml

    loader = _loader()(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise error if isinstance(error, DocumentError) else _not_yaml(error) from None
    finally:
        loader.dispose()


def check_yaml(text: str) -> None:
    """See that a YAML text is small and flat enough for any reader, before one makes values of it.

    Raises:
        DocumentError: if it is no YAML, or holds too much, too deep, a tag, a too long number or an alias of what
            it stands in.
    """
    import yaml

    if len(text) > MAX_YAML:
        raise DocumentError(f"it has {len(text):,} characters, at most {MAX_YAML:,} expected")
    counter = _Nodes()
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            counter.take(event)
    except yaml.YAMLError as error:
        raise _not_yaml(error) from None


class _Nodes:
    """Counts the nodes of a YAML text as if each alias were what it stands for."""

    def __init__(self) -> None:
        self._open: list[tuple[str | None, int]] = []  # anchor, and the count before it
        self._count = 0
        self._sizes: dict[str, int | None] = {}  # by anchor; None while it is open

    def take(self, event: Any) -> None:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(event.anchor or "", 0)
            if size is None:
                raise DocumentError(f"its alias {brief(event.anchor)} stands within what it names")
            self._add(size)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor is not None:
                self._sizes[anchor] = self._count - before
        elif isinstance(event, yaml.NodeEvent):
            self._check(event)
            self._add(1)
            if isinstance(event, yaml.CollectionStartEvent):
                self._open.append((event.anchor, self._count - 1))
                if len(self._open) > MAX_DEPTH:
                    raise _too_deep("YAML")
            if event.anchor is not None:
                self._sizes[event.anchor] = None if isinstance(event, yaml.CollectionStartEvent) else 1

    def _add(self, nodes: int) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise DocumentError(f"it holds more than {MAX_NODES:,} values, those that its aliases repeat included")

    def _check(self, event: Any) -> None:
        if event.tag not in _YAML_TAGS:
            raise DocumentError(
                f"it holds a tag, {brief(event.tag)}; plain lists, mappings, texts and numbers expected"
            )
        value = getattr(event, "value", "")
        if len(value) > MAX_NUMBER and event.implicit[0] and _YAML_NUMBER.fullmatch(value):
            raise DocumentError(f"it holds a number of {len(value):,} characters, at most {MAX_NUMBER} expected")


def _loader() -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                identity = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if identity in seen:
                    raise DocumentError(f"its key {brief(key.value)} stands twice in one mapping")
                seen |= {identity} - {None}
            return super().construct_mapping(node, deep)

    return Loader


def whole_number(text: str) -> int | None:
    """The number that a text of decimal digits tells; None where it is something else, or has more than 18."""
    return int(text) if len(text) <= MAX_DIGITS and text.isascii() and text.isdecimal() else None


def finite_number(value: Any) -> float | None:
    """A number of a document as a float; None where it is something else, or not finite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def problems_of(error: ValidationError, where: str = "") -> str:
    """What pydantic found, on one line: each place, what was expected and what was there."""
    problems = error.errors(include_url=False)
    lines = []
    for problem in problems[:_PROBLEMS]:
        place = ".".join(part for part in (where, *map(str, problem["loc"])) if part)
        # An input as a whole would hide which part is missing.
        input_text = "" if problem["type"] in ("missing", "missing_argument") else f", found {brief(problem['input'])}"
        lines.append(f"{place[:80]}: {problem['msg'][:200]}{input_text}")
    more = [f"and {len(problems) - _PROBLEMS:,} more"] if len(problems) > _PROBLEMS else []
    return "; ".join(lines + more)


def _decoded(data: bytes | bytearray, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is no text in UTF-8: {error.reason} at byte {error.start:,}") from None


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else math.inf
    if not -(1 << 63) <= number < 1 << 64:
        raise DocumentError(f"it holds a whole number of {len(digits.lstrip('-')):,} digits, at most 64 bits expected")
    return int(number)


def _whole_or_text(digits: str) -> int | str:
    try:
        return _whole(digits)
    except DocumentError:
        return digits


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inside = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in inside if isinstance(child, (list, dict))]
        if not level:
            return False
    return True


def _too_deep(what: str) -> DocumentError:
    return DocumentError(f"its {what} is nested too deeply, at most {MAX_DEPTH} levels expected")


def _not_yaml(error: Exception) -> DocumentError:
    return DocumentError(f"it is not valid YAML: {' '.join(str(error).split())[:300]}")
