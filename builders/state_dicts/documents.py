"""Columns of what others wrote beside tensors: JSON files beside theirs, and what files of tensors say themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.state_dicts.columns import as_type, column_name, of_texts
from zoo_datasets.builders.state_dicts.reader import StateFile
from zoo_datasets.builders.state_dicts.table import of_records
from zoo_datasets.documents import MAX_JSON, parse_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError, SpecError
from zoo_datasets.repository.row import LAYOUT, STANDARD, WEIGHTS, further_column

_SHOWN = 3
_LONGEST_TEXT = 1 << 16
# Types of the standard columns that names, tables and documents may give.
STANDARD_TYPES = {name: column.type for name, column in STANDARD.items() if name not in (WEIGHTS, LAYOUT)}


class Documents:
    """What the files of a container say besides tensors.

    Args:
        name: of the JSON files beside files of tensors whose values are columns; None: there are none.
        notes: takes what cannot be a column.
    """

    def __init__(self, container: Container, name: str | None, notes: Notes) -> None:
        self._container, self._name, self._notes = container, name, notes

    def paths(self, names: Sequence[str]) -> list[str]:
        """The JSON files, one beside each file of tensors."""
        return [] if self._name is None else sorted({f"{_folder(name)}{self._name}" for name in names})

    def columns_beside(self, names: Sequence[str]) -> dict[str, pa.Array]:
        """Columns of the JSON files beside some files of tensors, in their order.

        Raises:
            SourceError: if one cannot be read, or there is none.
        """
        return self._columns(self._read(names), texts=False)

    def columns_inside(self, states: Sequence[StateFile]) -> dict[str, pa.Array]:
        """What the files themselves say beside their tensors."""
        if not any(kind.columns for state in states for kind in state.kinds):
            return {}
        said = [{name: value for kind in state.kinds for name, value in kind.columns.items()} for state in states]
        texts = all(isinstance(value, str) for values in said for value in values.values())
        return self._columns(said, texts)

    def _read(self, names: Sequence[str]) -> list[Mapping[str, object]]:
        """For each state, the JSON object beside it; empty where there is none."""
        wanted = self._name
        existing = set(self._container.entries)
        known: dict[str, Mapping[str, object]] = {}
        for name in names:
            path = f"{_folder(name)}{wanted}"
            if path in known:
                continue
            known[path] = {}
            if path in existing:
                try:
                    value = parse_json(self._container.read(path, MAX_JSON))
                    if not isinstance(value, dict):
                        raise DocumentError(f"it holds a {type(value).__name__}, expected an object")
                    known[path] = value
                except (CheckpointError, DocumentError) as error:
                    raise SourceError(f"{path[:200]}: {error}") from error
        missing = sum(path not in existing for path in known)
        if missing == len(known):
            raise SourceError(
                f"--columns-from {str(wanted)[:80]!r}: no file of this name lies beside a file of tensors"
            )
        self._notes.add_count("state-no-document", missing, "folder", f"without {wanted}; its columns are null there")
        return [known[f"{_folder(name)}{wanted}"] for name in names]

    def _columns(self, records: Sequence[Mapping[str, object]], texts: bool) -> dict[str, pa.Array]:
        """Columns of documents that the user did not write: what cannot be a column is left out with a note."""
        short = [
            {name: value for name, value in record.items() if not isinstance(value, str) or len(value) <= _LONGEST_TEXT}
            for record in records
        ]
        try:
            pairs = of_records(short)
        except DocumentError as error:
            self._notes.add([Note("state-column-refused", f"what files say beside tensors: {error}", whole=True)])
            return {}
        columns: dict[str, pa.Array] = {}
        refused: list[str] = []
        for name, values in pairs:
            plain = column_name(name)
            if values.null_count == len(values):
                continue
            try:
                if plain in columns or _is_refused(plain):
                    raise SourceError("no column can have this name")
                typed = of_texts(values) if texts else values
                columns[plain] = as_type(typed, STANDARD_TYPES.get(plain, typed.type), plain)
            except SourceError:
                refused.append(name)
        some = ", ".join(f"{name[:80]!r}" for name in refused[:_SHOWN])
        self._notes.add_count(
            "state-column-refused", len(refused), "value", f"beside tensors that cannot be a column: {some}"
        )
        return columns


def _is_refused(name: str) -> bool:
    """Whether no column of documents of others may have a name; further ones and what describes a model may."""
    if name in STANDARD_TYPES and name not in ("zoo", "group"):
        return False
    try:
        further_column(name, "string")
    except SpecError:
        return True
    return False


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]
