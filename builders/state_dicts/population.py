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
from zoo_datasets.builders.state_dicts.files import StateFiles, described, find_files, read_layout_file
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
from zoo_datasets.builders.state_dicts.layouts import Filling, Kinds, filling_of, signature_of
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
from zoo_datasets.builders.state_dicts.table import Table, of_records, read_table
from zoo_datasets.builders.state_dicts.told import Choose, Told
from zoo_datasets.documents import MAX_JSON, parse_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError, SpecError
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import LAYOUT, MAX_FURTHER, STANDARD, WEIGHTS, Column, further_column
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.text import counted, printable

_SHOWN = 3
_LONGEST_TEXT = 1 << 16
_STANDARD = {name: column.type for name, column in STANDARD.items() if name not in (WEIGHTS, LAYOUT)}
_TYPE_NAMES = {pa.bool_(): "bool", pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
_IN_NAME, _IN_FILE = "names of files", "files of tensors"


@dataclass(frozen=True, slots=True)
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
        self.container.prepare([*files.needed(names), *self._beside(names)], MAX_STATE)
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
        self._count("state-no-file", len(lonely), "row", f"of the table without a file, as {', '.join(shown[:_SHOWN])}")
        some = ", ".join(names[place] for place in without[:_SHOWN])
        self._count("state-no-row", len(without), "file", f"without a row in the table, as {some}")
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

    def _count(self, code: str, count: int, noun: str, text: str) -> None:
        if count:
            self.notes.add_counted(Note(code, f"{counted(count, noun)} {text}", whole=True), count)

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
            sources.append(self._theirs(self._documents([state.name for state in states]), texts=False))
            self._tell(sources[-1], self.options.columns_from)
        sources.append(self._own(states))
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
        ids = []
        for state, own in zip(states, own_ids, strict=True):
            row = [] if state.row is None else [str(state.row)]
            ids.append("/".join([own or self.fallback_id, *row]))
        return pa.array(ids, pa.string())

    def _beside(self, names: Sequence[str]) -> list[str]:
        """The files that `columns_from` names, one beside each file of tensors."""
        wanted = self.options.columns_from
        return [] if wanted is None else sorted({f"{_folder(name)}{wanted}" for name in names})

    def _documents(self, names: Sequence[str]) -> list[Mapping[str, object]]:
        """For each state, the JSON object beside it; empty where there is none."""
        wanted = self.options.columns_from
        existing = set(self.container.entries)
        known: dict[str, Mapping[str, object]] = {}
        for name in names:
            path = f"{_folder(name)}{wanted}"
            if path in known:
                continue
            known[path] = {}
            if path in existing:
                try:
                    value = parse_json(self.container.read(path, MAX_JSON))
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
        self._count("state-no-document", missing, "folder", f"without {wanted}; its columns are null there")
        return [known[f"{_folder(name)}{wanted}"] for name in names]

    def _own(self, states: Sequence[StateFile]) -> dict[str, pa.Array]:
        """What the files themselves say beside their tensors."""
        if not any(kind.columns for state in states for kind in state.kinds):
            return {}
        said = [{name: value for kind in state.kinds for name, value in kind.columns.items()} for state in states]
        texts = all(isinstance(value, str) for values in said for value in values.values())
        return self._theirs(said, texts)

    def _theirs(self, records: Sequence[Mapping[str, object]], texts: bool) -> dict[str, pa.Array]:
        """Columns of documents that the user did not write: what cannot be a column is left out with a note."""
        short = [
            {name: value for name, value in record.items() if not isinstance(value, str) or len(value) <= _LONGEST_TEXT}
            for record in records
        ]
        try:
            pairs = of_records(short)
        except DocumentError as error:
            self.notes.add([Note("state-column-refused", f"what files say beside tensors: {error}", whole=True)])
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
                columns[plain] = as_type(typed, _STANDARD.get(plain, typed.type), plain)
            except SourceError:
                refused.append(name)
        some = ", ".join(f"{name[:80]!r}" for name in refused[:_SHOWN])
        self._count("state-column-refused", len(refused), "value", f"beside tensors that cannot be a column: {some}")
        return columns

    # rows

    def _assembled(
        self, reader: StateReader, names: str, files: Sequence[StateFile], columns: dict[str, pa.Array]
    ) -> Population:
        further: list[Column] = []
        for name, values in columns.items():
            kind = _STANDARD.get(name)
            if kind is not None:
                columns[name] = as_type(values, kind, name)
            else:
                try:
                    further.append(further_column(name, _TYPE_NAMES[values.type], self.origins.get(name, "")))
                except SpecError as error:
                    raise SourceError(f"{self.container.name}: {error}") from error
        if len(further) > MAX_FURTHER:
            raise SourceError(f"{len(further):,} further columns, at most {MAX_FURTHER:,} expected; leave some out")
        ids, epochs, steps = self._keys(columns, files)
        fillings = self._fillings(files, ids, epochs)
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

    def _keys(
        self, columns: dict[str, pa.Array], files: Sequence[StateFile]
    ) -> tuple[list[str], list[int], list[int | None]]:
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

    def _fillings(self, files: Sequence[StateFile], ids: Sequence[str], epochs: Sequence[int]) -> list[Filling | None]:
        """The layout of each state; None of those that are left out."""
        alike: dict[object, dict[Kinds, list[int]]] = {}
        signatures: dict[Kinds, object] = {}
        reasons: dict[int, str] = {}
        for place, file in enumerate(files):
            kinds = file.kinds
            try:
                if kinds not in signatures:
                    signatures[kinds] = signature_of(kinds)
                alike.setdefault(signatures[kinds], {}).setdefault(kinds, []).append(place)
            except CheckpointError as error:
                reasons[place] = str(error)
        result: list[Filling | None] = [None] * len(files)
        groups: list[tuple[Filling, list[int]]] = []
        for by_kinds in alike.values():
            places = sorted(place for here in by_kinds.values() for place in here)
            try:
                filling = filling_of(list(by_kinds), files[places[0]].shown, self.options.cast)
                groups.append((filling, places))
            except CheckpointError as error:
                reasons |= dict.fromkeys(places, str(error))
        for filling, places in self._kept_layouts(groups, reasons):
            self._remark(filling, [files[place] for place in places])
            for place in places:
                result[place] = filling
        for place, reason in sorted(reasons.items()):
            self._leave_out(files[place].shown, {EPOCH: str(epochs[place])}, reason)
        return result

    def _kept_layouts(
        self, groups: list[tuple[Filling, list[int]]], reasons: dict[int, str]
    ) -> list[tuple[Filling, list[int]]]:
        """The layouts that the rows may have; where others are left out, the one of most files."""
        if len(groups) < 2:
            return groups
        usual = max(groups, key=lambda group: len(group[1]))
        ordered = [usual, *(group for group in groups if group is not usual)]
        some = "; ".join(
            f"{len(places):,} × {filling.layout.size:,} weights as {filling.first[:80]!r}"
            for filling, places in ordered[:_SHOWN]
        )
        more = f"; and {len(groups) - _SHOWN:,} more" if len(groups) > _SHOWN else ""
        text = f"the files have {len(groups):,} layouts ({some}{more})"
        if self.options.on_other_layout == "fail":
            raise SourceError(f"{self.container.name}: {text}; --on-other-layout leave-out keeps those of the first")
        if self.options.on_other_layout == "ragged":
            self.notes.add([Note("state-layouts", f"{text}; rows are lists of any length", whole=True)])
            return groups
        reason = f"its tensors are not those of most files, as {usual[0].first[:80]!r}"
        for _, places in ordered[1:]:
            reasons |= dict.fromkeys(places, reason)
        self.notes.add([Note("state-layouts", f"{text}; all but those of the first are left out", whole=True)])
        return [usual]

    def _remark(self, filling: Filling, files: Sequence[StateFile]) -> None:
        """Count what the files of a layout are noted for."""
        counts = Counter(file.kinds for file in files)
        for kinds, count in counts.items():
            for remark in dict.fromkeys(remark for kind in kinds for remark in kind.remarks):
                self.notes.add_counted(remark, count)
        if filling.cast:
            text = f"tensors are converted to float32, as {min(filling.cast)[:80]!r}; values may be rounded"
            self.notes.add_counted(Note("state-cast", text), len(files))
        if not filling.layout.size:
            text = (
                "all tensors are such as float32 cannot hold, and lie in the column raw; --cast float32 makes weights"
            )
            self.notes.add_counted(Note("state-all-raw", text), len(files))


def _taken(columns: Mapping[str, pa.Array], places: Sequence[int]) -> dict[str, pa.Array]:
    rows = pa.array(places, pa.int64())
    return {name: values.take(rows) for name, values in columns.items()}


def _is_refused(name: str) -> bool:
    """Whether no column of documents of others may have a name; further ones and what describes a model may."""
    if name in _STANDARD and name not in ("zoo", "group"):
        return False
    try:
        further_column(name, "string")
    except SpecError:
        return True
    return False


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]
