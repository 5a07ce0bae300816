"""The states in a container with their columns and layouts: all that is known before any weights are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.state_dicts.columns import as_type, column_name, merged, of_texts
from zoo_datasets.builders.state_dicts.documents import STANDARD_TYPES, Documents
from zoo_datasets.builders.state_dicts.files import StateFiles, described, find_files, read_layout_file
from zoo_datasets.builders.state_dicts.grouping import fillings_of
from zoo_datasets.builders.state_dicts.joining import (
    FILE,
    NO_ROW,
    ROW,
    check_columns,
    rows_in_order,
    rows_of_fields,
    rows_of_files,
)
from zoo_datasets.builders.state_dicts.kinds import MAX_STATE
from zoo_datasets.builders.state_dicts.layouts import Filling
from zoo_datasets.builders.state_dicts.names import (
    EPOCH,
    MODEL_ID,
    STEP,
    Names,
    Pattern,
    common_folder,
    guess,
    is_unicode,
    values_of,
)
from zoo_datasets.builders.state_dicts.options import StateDictOptions
from zoo_datasets.builders.state_dicts.reader import StateFile, StateReader
from zoo_datasets.builders.state_dicts.table import Table, read_table
from zoo_datasets.builders.state_dicts.told import Choose, Told
from zoo_datasets.documents import MAX_JSON
from zoo_datasets.errors import SourceError, SpecError
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import MAX_FURTHER, Column, further_column
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.text import printable

_SHOWN = 3
_LONGEST_TEXT = 1 << 16
_TYPE_NAMES = {pa.bool_(): "bool", pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
_IN_NAME, _IN_FILE = "names of files", "files of tensors"


@dataclass(slots=True)  # not frozen: there is one for each file
class State:
    """One state: its file, its layout, and its key."""

    file: StateFile
    filling: Filling
    model_id: str
    epoch: int
    step: int | None


@dataclass(kw_only=True)
class Population:
    """All states of a container that can be rows.

    Attributes:
        states: in the order of their names.
        columns: arrays of their length, but for what makes up the key.
        further: of these, the ones that no other zoo has.
        origins: by column where it comes from.
        left_out: what cannot be a row, each with its reason.
        names: what the names of files were taken to say.
    """

    states: list[State]
    columns: dict[str, pa.Array]
    further: tuple[Column, ...]
    origins: dict[str, str]
    left_out: list[LeftOut]
    notes: Notes
    names: str
    reader: StateReader

    @cached_property
    def fillings(self) -> list[Filling]:
        """The layouts, the one of most states first."""
        return [filling for filling, _ in Counter(state.filling for state in self.states).most_common()]

    def select(self, positions: Sequence[int]) -> None:
        """Keep some states only."""
        taken = pa.array(positions, pa.int64())
        self.states = [self.states[position] for position in positions]
        self.columns = {name: values.take(taken) for name, values in self.columns.items()}
        self.__dict__.pop("fillings", None)


def population_of(
    container: Container,
    options: StateDictOptions,
    fallback_id: str,
    epochs: frozenset[int] | None = None,
    told: Told | None = None,
    choose: Choose | None = None,
) -> Population:
    """Find the states of a container, join them with the table, and see what they hold.

    Args:
        fallback_id: of the only model, where nothing tells one.
        epochs: those that are wanted, if not all.
        told: what is known of a published population.
        choose: of these states, which are read, by what is known of them before.

    Raises:
        SourceError: if it holds no such files, or what is told of them contradicts itself.
    """
    return _Finder(container, options, fallback_id, epochs, told, choose).population()


@dataclass
class _Finder:
    container: Container
    options: StateDictOptions
    fallback_id: str
    epochs: frozenset[int] | None
    told: Told | None = None
    choose: Choose | None = None
    notes: Notes = field(default_factory=Notes)
    left_out: list[LeftOut] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _documents(self) -> Documents:
        return Documents(self.container, self.options.columns_from, self.notes)

    def population(self) -> Population:
        options = self.options
        layout = None if options.layout is None else read_layout_file(options.layout)
        table = None if options.table is None else read_table(options.table)
        if table is not None:
            check_columns(table)
            self._note_table(table)
        files = find_files(self.container)
        if not files.names:
            raise SourceError(f"{self.container.name} holds no files of state dicts")
        reading, names, values = self._named(files)
        rows = np.full(len(names), NO_ROW, np.int64)
        arrays_alone = bool(files.rows) and not files.single and not files.shards
        if table is not None and not arrays_alone:
            names, values, rows = self._joined(table, reading, names, values)
        known, chosen = self._known(names, values)
        if chosen is not None:
            names, values, rows = [names[n] for n in chosen], [values[n] for n in chosen], rows[chosen]
        self.container.prepare([*files.needed(names), *self._documents.paths(names)], MAX_STATE)
        reader = StateReader(self.container)
        states, reasons = described(reader, self.container, files, names, layout)
        number = {name: place for place, name in enumerate(names)}
        for name, reason in reasons.items():
            self._leave_out(name, values[number[name]], reason)
        origin = np.array([number[state.name] for state in states], np.int64)
        row_of = self._joined_arrays(table, states) if table is not None and arrays_alone else rows[origin]
        known = _taken(known, origin.tolist())
        columns = self._columns(table, states, [values[place] for place in origin.tolist()], row_of, known)
        if options.pattern is None and self.told is None:
            no_epoch = "" if {EPOCH, STEP} & columns.keys() else ", all at epoch 0"
            text = f"file names are read as {reading.text}{no_epoch}; --pattern tells otherwise"
            self.notes.add([Note("state-names-guessed", text, whole=True)])
        return self._assembled(reader, reading.text, states, columns)

    # names

    def _named(self, files: StateFiles) -> tuple[Names, list[str], list[Mapping[str, str]]]:
        """What reads names, the names of all states that it can read, and what they say."""
        all_names = files.names
        names = all_names if is_unicode("".join(all_names)) else [name for name in all_names if is_unicode(name)]
        for name in {*all_names} - {*names} if len(names) < len(all_names) else ():
            self._leave_out(printable(name), {}, "its name is no text in UTF-8")
        reading: Names
        if self.told is not None:
            reading = self.told.names
        else:
            reading = guess(names) if self.options.pattern is None else Pattern(self.options.pattern)
        folder = common_folder(names)
        kept, values, other = [], [], []
        for name, value in zip(names, values_of(reading, names), strict=True):
            if value is None and self.options.pattern is not None:
                value = reading.values(name.removeprefix(folder))
            if value is None:
                other.append(name)
            else:
                kept.append(name)
                values.append(value)
        if not kept:
            if not names:
                raise SourceError(f"{self.container.name}: the name of no file is text in UTF-8; rename them")
            raise SourceError(
                f"{self.container.name}: none of its {len(names):,} files of tensors is named as --pattern "
                f"{reading.text[:200]!r} says; the first is {names[0][:200]!r}"
            )
        for name in other:
            self._leave_out(name, {}, f"its name is not of the form {reading.text[:80]}")
        return reading, kept, values

    def _leave_out(self, name: str, values: Mapping[str, str], reason: str) -> None:
        epoch = values.get(EPOCH, "0")
        number = int(epoch) if int(epoch) <= MAX_EPOCH else 0
        if self.epochs is None or number in self.epochs:
            self.left_out.append(LeftOut(model=name, epochs=(number,), reason=reason))

    # a published population

    def _known(
        self, names: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> tuple[dict[str, pa.Array], Sequence[int] | None]:
        """What is known of states before their files are read; and the numbers of those that are wanted, if not all."""
        if self.told is None:
            return {}, None
        self.container.prepare(self.told.beside(self.container), MAX_JSON)
        known = dict(self.told.columns(self.container, names))
        for note in self.told.notes():
            self.notes.add([note])
        if self.choose is None or self.options.table is not None:
            return known, None
        chosen = self.choose({MODEL_ID: pa.array([value.get(MODEL_ID) for value in values], pa.string())} | known)
        return _taken(known, chosen), chosen

    # the table

    def _note_table(self, table: Table) -> None:
        for plain, written in table.renamed.items():
            text = f"column {written[:80]!r} of the table is called {plain}"
            self.notes.add([Note("state-column-renamed", text, whole=True)])
        for name in table.empty:
            text = f"column {name[:80]!r} of the table has no value or no name and is left out"
            self.notes.add([Note("state-column-empty", text, whole=True)])

    def _joined(
        self, table: Table, reading: Names, names: list[str], values: list[Mapping[str, str]]
    ) -> tuple[list[str], list[Mapping[str, str]], np.ndarray]:
        """The names of which the table has a row, what they say, and the numbers of the rows."""
        if FILE in table.columns:
            rows, lonely = rows_of_files(table, names, self.options.on_missing == "leave-out")
            shown = [str(name) for name in table.columns[FILE].take(pa.array(lonely, pa.int64())).to_pylist()]
            reason = "the table names this file, which is not there"
        else:
            rows, lonely = rows_of_fields(table, reading.fields, values, names)
            shown = [f"row {row + 1:,} of the table" for row in lonely]
            reason = "no file is named as this row of the table says"
        for name in shown:
            self._leave_out(name, {}, reason)
        without = [place for place, row in enumerate(rows.tolist()) if row == NO_ROW]
        for place in without:
            self._leave_out(names[place], values[place], "the table has no row of it")
        self.notes.add_count(
            "state-no-file", len(lonely), "row", f"of the table without a file, as {', '.join(shown[:_SHOWN])}"
        )
        some = ", ".join(names[place] for place in without[:_SHOWN])
        self.notes.add_count("state-no-row", len(without), "file", f"without a row in the table, as {some}")
        kept = [place for place, row in enumerate(rows.tolist()) if row != NO_ROW]
        if not kept:
            raise SourceError(f"--table {table.path}: none of its rows is of a file; there is {names[0][:200]!r}")
        return [names[place] for place in kept], [values[place] for place in kept], rows[kept]

    def _joined_arrays(self, table: Table, states: Sequence[StateFile]) -> np.ndarray:
        counts = Counter(state.name for state in states)
        places = [(state.name, state.row or 0) for state in states]
        if ROW not in table.columns:
            text = "the rows of the table are taken in the order of the array"
            self.notes.add([Note("state-row-order", text, whole=True)])
        return rows_in_order(table, counts, places)

    # columns

    def _columns(
        self,
        table: Table | None,
        states: Sequence[StateFile],
        values: Sequence[Mapping[str, str]],
        row_of: np.ndarray,
        known: Mapping[str, pa.Array],
    ) -> dict[str, pa.Array]:
        sources: list[dict[str, pa.Array]] = []
        if table is not None:
            taken = pa.array(row_of, pa.int64(), mask=row_of == NO_ROW)
            own = {name: column.take(taken) for name, column in table.columns.items() if name not in (FILE, ROW)}
            sources.append(self._with_roles(own))
            self._tell(sources[-1], table.path.name)
        fields = dict.fromkeys(name for value in values for name in value)
        texts = {name: pa.array([value.get(name) for value in values], pa.string()) for name in fields}
        ids = {MODEL_ID: self._ids(states, texts.pop(MODEL_ID, None))}
        sources.append(ids | {name: of_texts(text) for name, text in texts.items()})
        self._tell(sources[-1], _IN_NAME)
        if self.told is not None:
            sources.append(dict(known))
            self.origins = {name: self.told.docs[name] for name in known if name in self.told.docs} | self.origins
            self._tell(known, "what is published of the population")
        if self.options.columns_from is not None:
            sources.append(self._documents.columns_beside([state.name for state in states]))
            self._tell(sources[-1], self.options.columns_from)
        sources.append(self._documents.columns_inside(states))
        self._tell(sources[-1], _IN_FILE)
        columns = merged(sources)
        if self.options.task is not None and "task" not in columns:
            columns["task"] = pa.array([self.options.task] * len(states), pa.string())
        return columns

    def _tell(self, columns: Mapping[str, pa.Array], origin: str) -> None:
        for name in columns:
            self.origins.setdefault(name, origin)

    def _with_roles(self, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """The columns of a table, those that the user names for a purpose under its name too."""
        options = self.options
        roles = (
            ("--split-column", options.split_column, "source_split"),
            ("--parent-column", options.parent_column, "parent_id"),
            ("--group-column", options.group_column, "group"),
        )
        result = dict(columns)
        for flag, name, role in roles:
            if name is None:
                continue
            plain = column_name(name)
            if plain not in columns:
                raise SourceError(f"{flag} {name[:80]!r}: the table has no such column, but {', '.join(columns)[:300]}")
            if role != "group":
                result.pop(plain, None)
            result[role] = columns[plain]
        return result

    def _ids(self, states: Sequence[StateFile], texts: pa.Array | None) -> pa.Array:
        """The ids that names tell, with the number of its row for a row of an array."""
        own_ids = [None] * len(states) if texts is None else texts.to_pylist()
        ids = [
            own or self.fallback_id if state.row is None else f"{own or self.fallback_id}/{state.row}"
            for state, own in zip(states, own_ids, strict=True)
        ]
        return pa.array(ids, pa.string())

    # rows

    def _assembled(
        self, reader: StateReader, names: str, files: Sequence[StateFile], columns: dict[str, pa.Array]
    ) -> Population:
        further: list[Column] = []
        for name, values in columns.items():
            kind = STANDARD_TYPES.get(name)
            if kind is not None:
                columns[name] = as_type(values, kind, name)
            else:
                try:
                    further.append(further_column(name, _TYPE_NAMES[values.type], self.origins.get(name, "")))
                except SpecError as error:
                    raise SourceError(f"{self.container.name}: {error}") from error
        if len(further) > MAX_FURTHER:
            raise SourceError(f"{len(further):,} further columns, at most {MAX_FURTHER:,} expected; leave some out")
        ids, epochs, steps = _keys(columns, files)
        fillings, reasons = fillings_of(files, self.options, self.container.name, self.notes)
        for place, reason in sorted(reasons.items()):
            self._leave_out(files[place].shown, {EPOCH: str(epochs[place])}, reason)
        states = [
            State(file, filling, model_id, epoch, step)
            for file, filling, model_id, epoch, step in zip(files, fillings, ids, epochs, steps, strict=True)
            if filling is not None
        ]
        kept = [place for place, filling in enumerate(fillings) if filling is not None]
        population = Population(
            states=states,
            columns=columns if len(kept) == len(files) else _taken(columns, kept),
            further=tuple(further),
            origins={name: self.origins[name] for name in columns if name in self.origins},
            left_out=self.left_out,
            notes=self.notes,
            names=names,
            reader=reader,
        )
        if self.epochs is not None:
            population.select([p for p, state in enumerate(states) if state.epoch in self.epochs])
        return population


def _taken(columns: Mapping[str, pa.Array], places: Sequence[int]) -> dict[str, pa.Array]:
    rows = pa.array(places, pa.int64())
    return {name: values.take(rows) for name, values in columns.items()}


def _keys(columns: dict[str, pa.Array], files: Sequence[StateFile]) -> tuple[list[str], list[int], list[int | None]]:
    """Id, epoch and step of each state, which are no columns any more."""
    ids = columns.pop(MODEL_ID).to_pylist()
    epochs = [0] * len(files) if EPOCH not in columns else [e or 0 for e in columns.pop(EPOCH).to_pylist()]
    steps = columns[STEP].to_pylist() if STEP in columns else [None] * len(files)
    first: dict[tuple[str, int, int | None], int] = {}
    for place, key in enumerate(zip(ids, epochs, steps, strict=True)):
        model_id, epoch, step = key
        if not model_id:
            raise SourceError(f"{files[place].shown[:200]!r} has no model_id in the table; fill it")
        if not 0 <= epoch <= MAX_EPOCH or (step is not None and step < 0):
            raise SourceError(f"{files[place].shown[:200]!r} is of epoch {epoch}, step {step}; 0 and more expected")
        if (other := first.setdefault(key, place)) != place:
            at = f"epoch {epoch}" if step is None else f"epoch {epoch}, step {step}"
            raise SourceError(
                f"{files[other].shown[:200]!r} and {files[place].shown[:200]!r} are both model {model_id[:80]!r} "
                f"at {at}; tell them apart by --pattern, or by model_id, epoch and step in the table"
            )
    return ids, epochs, steps
