"""The split in which the authors of a population had each model, as a file tells it."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Source, StateBlock, States
from zoo_datasets.builders.state_dicts.table import read_table
from zoo_datasets.documents import brief, read_json
from zoo_datasets.errors import DocumentError, SourceError
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.specs.spec import digest_of

SOURCE_SPLIT = "source_split"
_INDEX, _PATH, _ID = "index", "path", "id"
_KINDS = {"index": _INDEX, "path": _PATH, "file": _PATH, "id": _ID, "model_id": _ID}
_EXPECTED = "expected a table of split and index, path or id; or JSON with lists of these by split, or splits by name"
_LONGEST, _LISTED, _SHOWN = 200, 1000, 5
UNMATCHED, WITHOUT = "splits-unmatched", "splits-without"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of one state or model: its split, by its number, its path or its id."""

    kind: str | None  # None: path or id
    value: int | str
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What a state, or a model, may be called in such a file.

    Attributes:
        index: its number, from 0.
        path: of its file, as the source has it; None: it has none of its own.
        names: its id, and its name in the source.
    """

    index: int
    path: str | None
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The splits of some states, in their order, None where the file says nothing; and the entries of no state."""

    file: str
    entries: int
    splits: Sequence[str | None]
    unmatched: Sequence[str]

    def describe(self) -> dict[str, Any]:
        """What a manifest records, as JSON values."""
        counts = Counter(split for split in self.splits if split is not None)
        return {
            "file": self.file,
            "entries": self.entries,
            "splits": dict(sorted(counts.items())),
            "unmatched": {"entries": len(self.unmatched), "first": list(self.unmatched[:_LISTED])},
        }

    def notes(self) -> Iterator[Note]:
        """What is in only one of the file and the source."""
        if self.unmatched:
            first = ", ".join(map(brief, self.unmatched[:_SHOWN]))
            more = ", …" if len(self.unmatched) > _SHOWN else ""
            count = f"{len(self.unmatched):,} of {self.entries:,} entries"
            yield Note(UNMATCHED, f"{count} of {self.file} are of nothing here: {first}{more}", whole=True)
        without = sum(split is None for split in self.splits)
        if without:
            yield Note(WITHOUT, f"{self.file} names no split of {without:,} of {len(self.splits):,} here", whole=True)


def read_splits(path: Path) -> list[Entry]:
    """The entries of a file: CSV, TSV, JSON lines or Parquet, or JSON.

    Raises:
        SourceError: if it cannot be read, or is none of splits.
    """
    if path.suffix.lower() != ".json":
        entries = _of_table(path)
    else:
        try:
            entries = list(_of_json(read_json(path)))
        except OSError as error:
            raise SourceError(f"--splits {path} could not be read: {error.strerror or error}") from error
        except (DocumentError, SourceError) as error:
            raise SourceError(f"--splits {path}: {error}") from error
    for entry in entries:
        if not entry.split or not entry.split.isprintable() or len(entry.split) > _LONGEST:
            raise SourceError(f"--splits {path}: {brief(entry.split)} is no name of a split; expected a word")
    if not entries:
        raise SourceError(f"--splits {path}: it names no split; {_EXPECTED}")
    return entries


def _of_table(path: Path) -> list[Entry]:
    columns = read_table(path, "--splits").columns
    kinds = [name for name in _KINDS if name in columns]
    if len(kinds) != 1 or "split" not in columns:
        raise SourceError(f"--splits {path}: it has the columns {', '.join(columns)[:200]}; {_EXPECTED}")
    kind = _KINDS[kinds[0]]
    rows = zip(columns[kinds[0]].to_pylist(), columns["split"].to_pylist(), strict=True)
    try:
        return [_entry(kind, value, split) for value, split in rows if split is not None]
    except SourceError as error:
        raise SourceError(f"--splits {path}: {error}") from error


def _of_json(value: Any) -> Iterator[Entry]:
    """Lists by split, also as `{split: {"path": [...]}}`; splits by name; or objects with a split."""
    if isinstance(value, list) and all(isinstance(item, dict) and "split" in item for item in value):
        for item in value:
            name = next((name for name in _KINDS if name in item), None)
            if name is None:
                raise SourceError(f"found {brief(item)}; {_EXPECTED}")
            yield _entry(_KINDS[name], item[name], item["split"])
        return
    if not isinstance(value, dict):
        raise SourceError(f"found {brief(value)}; {_EXPECTED}")
    for key, held in value.items():
        if isinstance(held, str):
            yield _entry(None, key, held)
            continue
        name = next((name for name in _KINDS if isinstance(held, dict) and name in held), None)
        kind, values = (None, held) if name is None else (_KINDS[name], held[name])
        if not isinstance(values, list):
            raise SourceError(f"{brief(key)} holds {brief(held)}; {_EXPECTED}")
        for one in values:
            yield _entry(kind, one, key)


def _entry(kind: str | None, value: Any, split: Any) -> Entry:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or (kind == _INDEX and not isinstance(value, int)):
        raise SourceError(f"{brief(value)} is no {kind or 'path, id or index'}; {_EXPECTED}")
    if kind in (_PATH, _ID):
        value = str(value)
    return Entry(_INDEX if isinstance(value, int) else kind, value, str(split))


def assign(path: Path, entries: Sequence[Entry], named: Sequence[Named]) -> Assignment:
    """The split of each of some states or models.

    A path may begin elsewhere than the source's: `/home/me/zoo/train/0.pt` is `train/0.pt`, and so the other way round.

    Raises:
        SourceError: if a name is that of several files, one state has two splits, or no entry is of any state.
    """
    places = _Places(named)
    splits: list[str | None] = [None] * len(named)
    unmatched: list[str] = []
    for entry in entries:
        matching = places.of(entry, path)
        if not matching:
            unmatched.append(str(entry.value))
        for place in matching:
            if splits[place] not in (None, entry.split):
                raise SourceError(
                    f"--splits {path}: {brief(named[place].path or named[place].names[0])} is in the splits "
                    f"{brief(splits[place])} and {brief(entry.split)}; expected one"
                )
            splits[place] = entry.split
    if len(unmatched) == len(entries):
        example = named[0].path or named[0].names[0] if named else "none"
        raise SourceError(
            f"--splits {path}: none of its {len(entries):,} entries is of anything here: it has {brief(unmatched[0])}, "
            f"and here are names as {brief(example)}"
        )
    return Assignment(file=path.name, entries=len(entries), splits=splits, unmatched=unmatched)


class _Places:
    """States by what they may be called."""

    def __init__(self, named: Sequence[Named]) -> None:
        self._by_index: dict[int, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        self._by_path: dict[str, list[int]] = {}
        self._by_ending: dict[str, set[str]] = {}
        for place, one in enumerate(named):
            self._by_index.setdefault(one.index, []).append(place)
            for name in set(one.names):
                self._by_name.setdefault(name, []).append(place)
            if one.path is not None:
                path = "/".join(_parts(one.path))
                self._by_path.setdefault(path, []).append(place)
                for ending in _endings(path):
                    self._by_ending.setdefault(ending, set()).add(path)

    def of(self, entry: Entry, file: Path) -> Sequence[int]:
        """The places that an entry is of.

        Raises:
            SourceError: if it may be one of several files.
        """
        if isinstance(entry.value, int):
            return self._by_index.get(entry.value, ())
        if entry.kind != _PATH and entry.value in self._by_name:
            return self._by_name[entry.value]
        if entry.kind == _ID:
            return ()
        path = "/".join(_parts(entry.value))
        if path in self._by_path:
            return self._by_path[path]
        longer = self._by_ending.get(path, ())
        if len(longer) > 1:
            raise SourceError(
                f"--splits {file}: {brief(entry.value)} may be {' or '.join(map(brief, sorted(longer)[:2]))}; expected "
                "paths that tell them apart"
            )
        candidates = [*longer, *(ending for ending in _endings(path) if ending in self._by_path)]
        if candidates:
            return self._by_path[candidates[0]]
        # Of sources whose models are folders.
        return next((self._by_name[part] for part in reversed(_parts(entry.value)) if part in self._by_name), ())


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def _endings(path: str) -> Iterable[str]:
    """`b/c` and `c` of `a/b/c`, the longest first."""
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(1, len(parts)))


class SplitSource(Source):
    """A source with the splits that a file tells of its models."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path
        self.name, self.kind, self.credit = source.name, source.kind, source.credit
        self.network, self.open_columns, self.extras = source.network, source.open_columns, source.extras
        self.models, self.states = source.models, source.states
        self._entries = read_splits(path)
        models = {model.model_id: model for block in source.blocks() for model in block.models}
        ordered = sorted(models.values(), key=lambda model: model.name)
        self._assignment = assign(
            path,
            self._entries,
            [Named(index=index, path=None, names=(model.model_id, model.name)) for index, model in enumerate(ordered)],
        )
        self._split_of = {model.model_id: split for model, split in zip(ordered, self._assignment.splits, strict=True)}

    @property
    def source_id(self) -> str:
        return self._source.source_id

    @property
    def layout(self) -> Any:
        return self._source.layout

    @property
    def zoo(self) -> Mapping[str, Any]:
        return self._source.zoo

    @property
    def unknown(self) -> Sequence[str]:
        return self._source.unknown

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        return {**self._source.describe(tallies), "splits": self._assignment.describe()}

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        own = Notes()
        own.add(self._assignment.notes())
        return self._source.notes(tallies).joined(own)

    def refused(self) -> Sequence[LeftOut]:
        return self._source.refused()

    def fingerprint(self) -> str:
        return digest_of([self._source.fingerprint(), [[one.value, one.split] for one in self._entries]])

    @functools.cached_property
    def _blocks(self) -> Sequence[StateBlock]:
        return self._source.blocks()

    def blocks(self) -> Sequence[StateBlock]:
        return self._blocks

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        for item in self._source.read(block):
            if isinstance(item, States):
                splits = pa.array([self._split_of[model.model_id] for model in item.models], pa.string())
                yield dataclasses.replace(item, figures={**item.figures, SOURCE_SPLIT: splits})
            else:
                yield item
