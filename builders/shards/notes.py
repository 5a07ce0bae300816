"""Irregularities of a source that excluded nothing: each note has a code and the number of models affected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zoo_datasets.text import counted, json_text

_TEXTS = 20  # different texts of one code that are kept
_SHOWN = 3  # of them in a warning
_VALUE = 60  # characters of a stranger's value


@dataclass(frozen=True, slots=True)
class Note:
    """One remark on a model, or on a source as a `whole`; `code` identifies its kind and never changes."""

    code: str
    text: str
    whole: bool = False


@dataclass(slots=True)
class Notes:
    """Notes by code. `counts` are numbers of models (or of files, states or archives, if a text says so)."""

    counts: Counter[str] = field(default_factory=Counter)
    _texts: dict[str, Counter[Note]] = field(default_factory=dict)

    def add(self, notes: Iterable[Note]) -> None:
        """Add all notes of one model, which counts once for each code."""
        distinct = set(notes)
        self.counts.update({note.code for note in distinct})
        for note in sorted(distinct, key=lambda note: note.text):
            self.add_text(note, 1)

    def add_text(self, note: Note, count: int) -> None:
        """Count a text without its code; the first few different ones are kept."""
        texts = self._texts.setdefault(note.code, Counter())
        if note in texts or len(texts) < _TEXTS:
            texts[note] += count

    def add_counted(self, note: Note, count: int) -> None:
        """Add a note that applies to `count` models, files or states."""
        if count:
            self.counts[note.code] += count
            self.add_text(note, count)

    def add_count(self, code: str, count: int, noun: str, text: str) -> None:
        """Add that `count` things, of a noun, are as a text says: `3 files without a row`; nothing of none."""
        self.add_counted(Note(code, f"{counted(count, noun)} {text}", whole=True), count)

    def joined(self, other: Notes) -> Notes:
        """The notes of both, as a new object."""
        result = Notes(self.counts + other.counts)
        for notes in (self, other):
            for texts in notes._texts.values():
                for note, count in texts.items():
                    result.add_text(note, count)
        return result

    def describe(self) -> dict[str, Any]:
        """For a manifest: `notes`, counts by text, and `note_codes`, counts by code."""
        texts = {note.text: count for counts in self._texts.values() for note, count in counts.items()}
        return {"notes": dict(sorted(texts.items())), "note_codes": dict(sorted(self.counts.items()))}

    def lines(self) -> dict[str, str]:
        """Lines for display, the most frequent first, each with its code."""
        lines: dict[str, str] = {}
        for code, total in self.counts.most_common():
            texts = self._texts[code].most_common()
            lines |= {note.text if note.whole else f"{count:,} × {note.text}": code for note, count in texts[:_SHOWN]}
            if len(texts) > _SHOWN:
                lines[f"… and others of the kind {code}, {total:,} in all; manifest.json has more of them"] = code
        return lines


def shown(value: Any) -> str:
    """A stranger's value as a few characters of JSON, all of them visible."""
    try:
        text = json_text(value)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"
