"""Sources that know all their states, with every column, before any weights are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.shards.notes import Notes
from zoo_datasets.builders.sources.base import SMALL_PIECE_BYTES, OpenColumns, Reading, Source, StateBlock, States
from zoo_datasets.errors import SourceError
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import LAYOUT, STANDARD, Column, further_column
from zoo_datasets.repository.where import parse_where
from zoo_datasets.runs.rows import Model, NarrowRows
from zoo_datasets.specs.spec import digest_of

_OF_MODEL = ("parent_id", "group")
_KEY = ("model_id", "epoch", LAYOUT)


def table_of(columns: Mapping[str, Sequence[Any]], further: Sequence[Column]) -> pa.Table:
    """Columns by name, standard ones and further ones, in their types; those of nothing but null are left out."""
    types = {column.name: column.type for column in (*STANDARD.values(), *further)}
    arrays = {name: pa.array(values, types[name]) for name, values in columns.items()}
    return pa.table(
        {name: values for name, values in arrays.items() if name in _KEY or values.null_count < len(values)}
    )


def further(**types: str) -> tuple[Column, ...]:
    """Further columns by their names: `int64`, `float64`, `string` or `bool`."""
    return tuple(further_column(name, kind) for name, kind in types.items())


@dataclass(kw_only=True)
class Listing:
    """All states of a population that can be rows, as far as can be told without reading weights.

    Attributes:
        table: a row for each state: `model_id`, `epoch`, `layout` (the hash of its record), and any other columns, all
            but the further ones of the standard kind.
        records: the networks, by hash.
        further: the further columns of the table.
        left_out: what cannot be a row, each with its reason.
        described: what the manifest records of the source.
    """

    table: pa.Table
    records: Mapping[str, NetworkRecord]
    further: tuple[Column, ...] = ()
    left_out: list[LeftOut] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    described: dict[str, Any] = field(default_factory=dict)


class ListedSource(Source):
    """States of a listing, selected before weights are read. Its only block holds its models by layout, then by id.

    A kind of population writes `read_rows`.

    Args:
        stamp: of the files; changes when they do.
    """

    def __init__(self, name: str, listing: Listing, reading: Reading, stamp: str) -> None:
        self.name = name
        self._reading = reading
        self._listing = listing
        self._stamp = stamp
        # Which row of the listing each row of the table is.
        self._numbers = np.arange(len(listing.table))
        self._table = listing.table
        self._refused = listing.left_out
        remember(listing.records.values())
        self._select()
        used = set(pc.unique(self._table[LAYOUT]).to_pylist())
        records = {name: record for name, record in sorted(listing.records.items()) if name in used}
        sizes = [listing.records[name].layout.size for name in self._table[LAYOUT].to_pylist()]
        names = set(self._table.column_names)
        self.open_columns = OpenColumns(
            records=records,
            further=tuple(column for column in listing.further if column.name in names),
            weights=sum(sizes) / max(len(sizes), 1),
        )
        self.models = len({*self._models, *(entry.model for entry in self._refused)})
        self.states = len(self._table) + sum(len(entry.epochs) for entry in self._refused)

    @abstractmethod
    def read_rows(self, numbers: Sequence[int], record: NetworkRecord) -> tuple[NDArray[np.float32], dict[int, str]]:
        """The weights of some rows of the listing, all of one record, by their numbers: float32 [good rows, D], and by
        position why the others cannot be read."""

    def label(self, number: int) -> str:
        """What to call a row of the listing in a list of what was left out."""
        return str(self._listing.table["model_id"][number].as_py())

    def _select(self) -> None:
        """Keep what the user selected.

        Raises:
            SourceError: if that is nothing.
        """
        reading = self._reading
        if reading.epochs is not None:
            wanted = pa.array(sorted(reading.epochs), pa.int64())
            self._keep(pc.is_in(self._table["epoch"].cast(pa.int64()), value_set=wanted).to_numpy().nonzero()[0])
            self._refused = [entry for entry in self._refused if reading.epochs.intersection(entry.epochs)]
        where = reading.where
        if reading.state_dicts.where is not None:
            where = parse_where(reading.state_dicts.where, {one.name: one.type for one in self._listing.further})
        if where is not None:
            self._keep(where.kept(self._narrow()))
        if reading.models is not None:
            ids = sorted(pc.unique(self._table["model_id"]).to_pylist())[: reading.models]
            self._keep(pc.is_in(self._table["model_id"], value_set=pa.array(ids, pa.string())).to_numpy().nonzero()[0])
        if not len(self._table) and not self._refused:
            raise SourceError(f"{self.name}: no state of it fits the selection")

    def _keep(self, rows: NDArray[np.int64]) -> None:
        self._table = self._table.take(pa.array(rows, pa.int64()))
        self._numbers = self._numbers[rows]

    def _narrow(self) -> pa.Table:
        """The rows as they will be stored, without weights."""
        columns = OpenColumns(records=self._listing.records, further=self._listing.further)
        rows = NarrowRows(columns.rows.light_schema(), self._reading.name or self.name)
        ids = self._table["model_id"].to_pylist()
        models = {model_id: Model(model_id=model_id, columns={}) for model_id in ids}
        figures = {name: self._table[name].combine_chunks() for name in self._table.column_names if name not in _KEY}
        return rows.table([models[one] for one in ids], self._table["epoch"].to_pylist(), figures)

    @property
    def source_id(self) -> str:
        """Digest of the name and of what decides which rows it can have."""
        where = self._reading.where.text if self._reading.where is not None else self._reading.state_dicts.where
        return digest_of([self.kind, self.name, where])

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        selection = self._reading.selection()
        if self._reading.state_dicts.where is not None:
            selection["where"] = self._reading.state_dicts.where
        return {**self._listing.described, "selection": selection, **self._listing.notes.describe()}

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        return self._listing.notes

    def refused(self) -> Sequence[LeftOut]:
        return self._refused

    def fingerprint(self) -> str:
        return digest_of([self._stamp, self.source_id])

    @cached_property
    def _models(self) -> dict[str, Model]:
        """The models by id, those of the layout of most states first."""
        counts = pc.value_counts(self._table[LAYOUT]).to_pylist()
        rank = {item["values"]: (-item["counts"], item["values"]) for item in counts}
        lasting = [name for name in _OF_MODEL if name in self._table.column_names]
        distinct = self._table.group_by(["model_id", LAYOUT, *lasting], use_threads=False).aggregate([])
        layouts: dict[str, list[str]] = {}
        columns: dict[str, dict[str, Any]] = {}
        for row in distinct.to_pylist():
            model_id, own = row["model_id"], {name: row[name] for name in lasting}
            if columns.setdefault(model_id, own) != own:
                raise SourceError(f"{self.name}: the states of model {model_id!a} are of several groups, expected one")
            layouts.setdefault(model_id, []).append(row[LAYOUT])
        order = sorted(layouts, key=lambda model_id: (min(map(rank.__getitem__, layouts[model_id])), model_id))
        return {
            model_id: Model(model_id=model_id, columns=columns[model_id], layouts=tuple(layouts[model_id]))
            for model_id in order
        }

    @cached_property
    def _places(self) -> dict[tuple[str, int], list[int]]:
        """The rows of each model at each epoch, by step."""
        places: dict[tuple[str, int], list[int]] = {}
        steps = self._table["step"].to_pylist() if "step" in self._table.column_names else None
        keys = zip(self._table["model_id"].to_pylist(), self._table["epoch"].to_pylist(), strict=True)
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        for (model_id, epoch), here in places.items():
            here.sort(key=lambda place: 0 if steps is None else steps[place] or 0)
            if len(here) > len({None if steps is None else steps[place] for place in here}):
                raise SourceError(f"{self.name}: model {model_id!a} has two states at epoch {epoch} of one step")
        return places

    @cached_property
    def _layouts(self) -> list[str]:
        return self._table[LAYOUT].to_pylist()  # type: ignore[no-any-return]

    def blocks(self) -> Sequence[StateBlock]:
        epochs = sorted({epoch for _, epoch in self._places})
        return [StateBlock(models=tuple(self._models.values()), epochs=tuple(epochs))] if epochs else []

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, several small ones of one layout in a piece; see `Source.read`."""
        held: list[int] = []
        for epoch in block.epochs:
            for model in block.models:
                for place in self._places.get((model.model_id, epoch), ()):
                    if held and (self._layouts[place] != self._layouts[held[0]] or len(held) >= self._most(place)):
                        yield from self._read_piece(held)
                        held = []
                    held.append(place)
        if held:
            yield from self._read_piece(held)

    def _most(self, place: int) -> int:
        return max(SMALL_PIECE_BYTES // max(4 * self._listing.records[self._layouts[place]].layout.size, 1), 1)

    def _read_piece(self, places: Sequence[int]) -> Iterator[States | LeftOut]:
        layout = self._layouts[places[0]]
        numbers = self._numbers[list(places)].tolist()
        rows = self._table.take(pa.array(places, pa.int64()))
        epochs = rows["epoch"].to_pylist()
        weights, reasons = self.read_rows(numbers, self._listing.records[layout])
        for position, reason in sorted(reasons.items()):
            yield LeftOut(model=self.label(numbers[position]), epochs=(epochs[position],), reason=reason)
        good = [position for position in range(len(places)) if position not in reasons]
        if not good:
            return
        ids = rows["model_id"].to_pylist()
        taken = pa.array(good, pa.int64())
        yield States(
            epochs=[epochs[position] for position in good],
            models=[self._models[ids[position]] for position in good],
            weights=torch.from_numpy(weights),
            figures={
                name: rows[name].combine_chunks().take(taken)
                for name in rows.column_names
                if name not in (*_KEY, *_OF_MODEL)
            },
            layout=layout,
        )
