"""Text of others, as names and notes in their files, made safe to show: as text it can mislead nobody.

What a reader would not see as it is — control characters, terminal escapes, marks that turn the direction of writing,
invisible characters, halves of surrogate pairs — is shown by the escapes of Python's string literals.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

# Printable for `str.isprintable`, but blank or invisible: the rest of Unicode's default ignorable characters.
_INVISIBLE = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0,
              *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)  # fmt: skip

# What Markdown and its dialects may read as more than text, wherever in a line it stands.
_MARKDOWN = re.compile(r"[^\w .,;:()+%'\"=/…×–−-]|\b_|_\b|:(?=\w)|://|www\.", re.IGNORECASE)


class _Escapes(dict[int, str]):
    """What `str.translate` puts in the place of each character."""

    def __init__(self, escape: Callable[[str], str], kept: str = "") -> None:
        super().__init__({ord(char): char for char in kept})
        self._escape = escape

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if char.isprintable() and char not in _INVISIBLE else self._escape(char)
        return self[code]


_PYTHON = _Escapes(lambda char: char.encode("unicode_escape").decode())
_JSON = _Escapes(lambda char: json.dumps(char)[1:-1], kept="\n")


def printable(text: object) -> str:
    r"""`text` on one line, with an escape as `\x1b` or `\u202e` for each character that cannot be seen as it is."""
    text = str(text)
    return text if text.isascii() and text.isprintable() else text.translate(_PYTHON)


def one_line(text: object) -> str:
    """`printable`, with a blank for each line break and what is around it: for messages of several lines."""
    return printable(" ".join(str(text).split()))


def counted(count: int, noun: str) -> str:
    """`1 cohort`, `2 cohorts`, `1,000 cohorts`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def json_text(value: Any, **options: Any) -> str:
    """`json.dumps`, in which letters stand as they are, and of other characters those that can be seen."""
    return json.dumps(value, ensure_ascii=False, **options).translate(_JSON)


def markdown(text: object) -> str:
    """`text` for a paragraph of Markdown: as code where it holds any character that might be more than text."""
    line = one_line(text)
    return markdown_code(line) if _MARKDOWN.search(line) else line


def markdown_code(text: object) -> str:
    """`text` as code of Markdown, which has no markup, links or HTML in it."""
    line = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    edge = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def markdown_cell(text: object) -> str:
    """`text` for a cell of a table of Markdown, which no bar in it ends."""
    # Dialects differ in what a bar behind backslashes is.
    return re.sub(r"(\\?)\|", lambda bar: r"\\x7c" if bar[1] else r"\|", markdown(text))


def plot_text(text: object) -> str:
    """`text` for matplotlib, which takes dollars for formulas and leaves labels that begin with `_` out of legends."""
    escaped = printable(text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def all_printable(value: Any) -> Any:
    """JSON values with `printable` texts and keys."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): all_printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_printable(item) for item in value]
    return value


class TensorsRepr:
    """A dataclass of tensors whose `repr` tells their dtypes and shapes, and none of their numbers."""

    __slots__ = ()

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_kind_of(value)}' for name, value in values.items())})"


def _kind_of(value: Any) -> str:
    """A tensor as `float32 [2, 3]`; anything else by its own `repr`."""
    if not hasattr(value, "shape"):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: 0, 1, 2, 5 as `0–2, 5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)
