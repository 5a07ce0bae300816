"""Anybody's state dicts as a source: a folder of files of tensors, and a table of what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from zoo_datasets.builders.containers.archives import is_archive, open_container
from zoo_datasets.builders.containers.folder import Container, OneFile
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Notes
from zoo_datasets.builders.sources.base import SMALL_PIECE_BYTES, OpenColumns, Reading, Source, StateBlock, States
from zoo_datasets.builders.sources.splits import SOURCE_SPLIT, Named, assign, read_splits
from zoo_datasets.builders.state_dicts.names import is_state_file
from zoo_datasets.builders.state_dicts.population import Population, State, population_of
from zoo_datasets.errors import SourceError
from zoo_datasets.networks.records import remember
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.where import parse_where
from zoo_datasets.runs.rows import Model, NarrowRows
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import sha256_of

# Of models, which decide in which split they lie.
_LASTING = ("parent_id", "group")


def is_state_dicts(place: Place) -> bool:
    """Whether a place holds files of state dicts: a folder or an archive of them, or one alone."""
    if not isinstance(place, Path):
        return any(map(is_state_file, place.entries))
    if place.is_dir():
        return any(is_state_file(file.name) for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    return place.is_file() and is_state_file(place.name)


class StateDictSource(Source):
    """Files of state dicts in a container. Its only block holds its models by layout, then by id."""

    kind = "state dicts"
    tells_splits = True

    def __init__(self, container: Container, reading: Reading) -> None:
        assert reading.name is not None
        self._container = container
        self._reading = reading
        self.name = reading.name
        self._population = self._found(container, reading)
        for note in container.notes:
            self._population.notes.add([note])
        self._splits = {} if reading.splits is None else self._assigned(reading.splits)
        self._settle()
        self._select()
        self._settle()
        left_out = {entry.model for entry in self._population.left_out}
        self.models = len(self._models) + len(left_out)
        self.states = len(self._population.states) + sum(len(entry.epochs) for entry in self._population.left_out)

    def _found(self, container: Container, reading: Reading) -> Population:
        """The states of the container that can be rows."""
        return population_of(container, reading.state_dicts, container.name, reading.epochs)

    @classmethod
    def open(cls, place: Place, reading: Reading) -> StateDictSource:
        """The state dicts in a folder, an archive or a single file, local or remote.

        Raises:
            SourceError: if there are none, no name is given for them, or what is told of them contradicts itself.
        """
        shown = place if isinstance(place, Path) else place.name
        if reading.name is None:
            raise SourceError(f"{shown} holds files of state dicts; pass --name NAME to build a config of them")
        if not isinstance(place, Path):
            return cls(place, reading)
        if place.is_dir() or is_archive(place):
            return cls(open_container(place, reading.num_proc), reading)
        return cls(OneFile(place), reading)

    def _assigned(self, path: Path) -> dict[str, Any]:
        """Fill the column of the authors' splits from a file; returns what the manifest records of that."""
        population = self._population
        if SOURCE_SPLIT in population.columns:
            origin = population.origins.get(SOURCE_SPLIT, "the files")
            raise SourceError(f"--splits {path}: {origin} tells {SOURCE_SPLIT} already; leave one of them out")
        files = sorted(path for path in self._container.entries if is_state_file(path))
        numbers = {name: number for number, name in enumerate(files)}
        named = [
            Named(
                index=numbers.get(state.file.name, -1) if state.file.row is None else state.file.row,
                path=state.file.name,
                names=(state.model_id,),
            )
            for state in population.states
        ]
        assignment = assign(path, read_splits(path), named)
        population.columns[SOURCE_SPLIT] = pa.array(assignment.splits, pa.string())
        population.origins[SOURCE_SPLIT] = f"--splits {path.name}"
        population.notes.add(assignment.notes())
        return {"splits": assignment.describe()}

    def _settle(self) -> None:
        population = self._population
        self.__dict__.pop("_models", None)
        self.__dict__.pop("_by_model", None)
        sizes = [state.filling.layout.size for state in population.states]
        records = {filling.record.hash: filling.record for filling in population.fillings}
        remember(records.values())
        self.open_columns = OpenColumns(
            records=records, further=population.further, weights=sum(sizes) / max(len(sizes), 1)
        )

    def _select(self) -> None:
        """Keep the states that the user selected; epochs are selected already."""
        population, reading = self._population, self._reading
        where = reading.where
        if reading.state_dicts.where is not None:
            where = parse_where(reading.state_dicts.where, {column.name: column.type for column in population.further})
        if where is not None:
            assert self.open_columns is not None
            rows = NarrowRows(self.open_columns.rows.light_schema(), self._reading.name or self.name)
            models = [self._models[state.model_id] for state in population.states]
            epochs = [state.epoch for state in population.states]
            population.select(where.kept(rows.table(models, epochs, population.columns)).tolist())
        if reading.models is not None:
            wanted = {*sorted({state.model_id for state in population.states})[: reading.models]}
            population.select([p for p, state in enumerate(population.states) if state.model_id in wanted])
        if not population.states and not population.left_out:
            raise SourceError(f"{self._container.name}: no state of it fits the selection")

    @property
    def source_id(self) -> str:
        """Digest of the container's name and of what decides which columns and rows it can have."""
        reading = self._reading
        where = None if reading.where is None else reading.where.text
        return digest_of(["state dicts", self._container.name, where, reading.state_dicts.to_dict()])

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """Its origin, what names of files were taken to say, where columns come from, and the notes about it."""
        population = self._population
        return {
            "folder": self._container.name,
            "options": self._reading.state_dicts.to_dict(),
            "names": population.names,
            "columns": population.origins,
            "layouts": len(population.fillings),
            "selection": self._reading.selection(),
            **self._splits,
            **population.notes.describe(),
        }

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        """Irregularities that excluded no state."""
        return self._population.notes

    def refused(self) -> Sequence[LeftOut]:
        """Files that cannot be rows, and rows of the table without a file, each with the reason."""
        return self._population.left_out

    def fingerprint(self) -> str:
        """Changes when the files or the table change."""
        options = self._reading.state_dicts
        files = (options.table, options.layout, self._reading.splits)
        digests = [sha256_of(path) for path in files if path is not None]
        return digest_of([self._container.fingerprint(), self.source_id, *digests])

    @cached_property
    def _models(self) -> dict[str, Model]:
        """By id, those of the layout of most states first."""
        population = self._population
        rank = {filling: number for number, filling in enumerate(population.fillings)}
        layouts: dict[str, dict[str, None]] = {}
        order: dict[str, tuple[int, str]] = {}
        for state in population.states:
            layouts.setdefault(state.model_id, {})[state.filling.record.hash] = None
            order.setdefault(state.model_id, (rank[state.filling], state.model_id))
        lasting = self._lasting_columns()
        return {
            model_id: Model(model_id=model_id, columns=lasting.get(model_id, {}), layouts=tuple(layouts[model_id]))
            for model_id in sorted(layouts, key=order.__getitem__)
        }

    def _lasting_columns(self) -> dict[str, dict[str, Any]]:
        """By model, the columns that decide in which split it lies.

        Raises:
            SourceError: if states of one model differ in one.
        """
        lasting: dict[str, dict[str, Any]] = {}
        for name in _LASTING:
            column = self._population.columns.get(name)
            if column is None:
                continue
            for state, value in zip(self._population.states, column.to_pylist(), strict=True):
                if value is not None and lasting.setdefault(state.model_id, {}).setdefault(name, value) != value:
                    raise SourceError(
                        f"{self.name}: model {state.model_id[:80]!r} has the {name} {value[:80]!r} at one state and "
                        f"{lasting[state.model_id][name][:80]!r} at another; one for all its states is expected"
                    )
        return lasting

    @cached_property
    def _by_model(self) -> dict[tuple[str, int], list[int]]:
        """The positions of the states of each model at each epoch, by step."""
        places: dict[tuple[str, int], list[int]] = {}
        states = self._population.states
        for place, state in enumerate(states):
            places.setdefault((state.model_id, state.epoch), []).append(place)
        for here in places.values():
            here.sort(key=lambda place: states[place].step or 0)
        return places

    def blocks(self) -> Sequence[StateBlock]:
        """One block of all models and epochs."""
        epochs = sorted({state.epoch for state in self._population.states})
        return [StateBlock(models=tuple(self._models.values()), epochs=tuple(epochs))] if epochs else []

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, several small ones of one layout in a piece; see `Source.read`."""
        held: list[int] = []
        states = self._population.states
        for epoch in block.epochs:
            for model in block.models:
                for place in self._by_model.get((model.model_id, epoch), ()):
                    filling = states[place].filling
                    if held and (
                        filling is not states[held[0]].filling
                        or len(held) >= SMALL_PIECE_BYTES // max(4 * filling.layout.size, 1)
                    ):
                        yield from self._read_piece(held)
                        held = []
                    held.append(place)
        if held:
            yield from self._read_piece(held)

    def _read_piece(self, places: Sequence[int]) -> Iterator[States | LeftOut]:
        population = self._population
        states: list[State] = [population.states[place] for place in places]
        filling = states[0].filling
        read = population.reader.read([state.file for state in states], filling)
        for position, reason in read.reasons.items():
            yield LeftOut(model=states[position].file.shown, epochs=(states[position].epoch,), reason=reason)
        if not read.good:
            return
        good = [states[position] for position in read.good]
        rows = pa.array([places[position] for position in read.good], pa.int64())
        yield States(
            epochs=[state.epoch for state in good],
            models=[self._models[state.model_id] for state in good],
            weights=torch.from_numpy(read.weights),
            figures={name: values.take(rows) for name, values in population.columns.items()},
            layout=filling.record.hash,
            raw=read.raw,
        )
