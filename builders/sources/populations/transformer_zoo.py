"""The Small Transformer Zoo: transformers of two blocks on MNIST and AG News (Tran-Viet et al.: Equivariant Neural
Functional Networks for Transformers, ICLR 2025). Its rows are tensors: no kind of layer computes attention."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing
from zoo_datasets.builders.state_dicts.columns import as_type, column_name, of_texts
from zoo_datasets.builders.state_dicts.kinds import FileKind
from zoo_datasets.builders.state_dicts.layouts import Filling, filling_of, signature_of
from zoo_datasets.builders.state_dicts.reader import Part, StateFile, StateReader
from zoo_datasets.documents import brief
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.networks.layout import TensorKind, WeightLayout
from zoo_datasets.repository.populations import TRANSFORMERS
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import COLUMNS, MAX_FURTHER, Column, further_column, further_problem
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.text import counted

_METADATA = re.compile(r"(?P<folder>(?:.*/)?)metadata/(?P<images>[A-Za-z0-9_-]+)\.csv")
_FILE, _EPOCH = "ckpt_file", "ckpt_epoch"
_NAME = re.compile(r"(?P<run>[^/_]+)_(?P<state>[^/]+)_\d+\.pt")
_ENDING, _EMBEDDING = ".pt", "embedding.pt"
_FIXED = frozenset({"embedding.pos_embedding"})
_REMARKS = (
    "Rows are tensors: no kind of layer computes attention here, so to_module wants a factory.",
    "embedding.pos_embedding is fixed and is a buffer; normalisations have no weights, and there are no residual sums.",
    "l2_regularize is the authors' coefficient as their table has it.",
)
_MAX_TABLE = 1 << 28
# Columns of theirs that are standard ones under another name.
_RENAMED: Final = {"test_top1_accuracy": "test_acc", "test_accuracy": "test_acc", "w_init_std": "init_std"}
_STANDARD = {column.name: column.type for column in COLUMNS if column.type is not None}
_OWN = ("zoo", "model_id", "epoch", "images", "parent_id", "source_split")
_TYPES = {pa.bool_(): "bool", pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}


def is_transformer_zoo(place: Place) -> bool:
    """Whether a place holds the zoo: a table of metadata that names files of states."""
    if isinstance(place, Path):
        if not place.is_dir() or (not any(place.glob("metadata/*.csv")) and not any(place.glob("*/metadata/*.csv"))):
            return False
        place = open_container(place)
    return any(_names_files(place, path) for path in place.entries if _METADATA.fullmatch(path))


def _names_files(container: Container, path: str) -> bool:
    try:
        with container.opened(path, _MAX_TABLE) as data:
            first = bytes(data[: min(len(data), 1 << 16)]).split(b"\n", 1)[0]
    except CheckpointError:
        return False
    return {_FILE.encode(), _EPOCH.encode()} <= {name.strip(b'\r" ') for name in first.split(b",")}


class TransformerZooSource(ListedSource):
    """The states that a table names, in a folder or an archive."""

    kind = "Small Transformer Zoo"
    credit = TRANSFORMERS

    def __init__(self, container: Container, reading: Reading) -> None:
        tables = [path for path in container.entries if _METADATA.fullmatch(path) and _names_files(container, path)]
        if len(tables) != 1:
            names = ", ".join(map(brief, tables[:5]))
            raise SourceError(f"{container.name} holds {len(tables)} tables of states ({names}); build from one folder")
        place = _METADATA.fullmatch(tables[0])
        assert place is not None
        self._container, self._folder, self._images = container, place["folder"], place["images"]
        self._notes = Notes()
        self._left_out: list[LeftOut] = []
        listing = self._listed(tables[0])
        super().__init__(reading.name or f"{self._images}_transformers", listing, reading, container.fingerprint())

    @classmethod
    def open(cls, place: Place, reading: Reading) -> TransformerZooSource:
        """The zoo in a folder or an archive."""
        return cls(open_container(place, reading.num_proc) if isinstance(place, Path) else place, reading)

    def _listed(self, table: str) -> Listing:
        rows = [row for row in self._rows(table) if self._is_state(row)]
        paths = [f"{self._folder}{row[_FILE]}" for row in rows]
        self._container.prepare(paths, _MAX_TABLE)
        self._reader = StateReader(self._container)
        kinds = self._reader.describe(paths)
        good: list[int] = []
        for number, path in enumerate(paths):
            kind = kinds[path]
            if isinstance(kind, FileKind):
                good.append(number)
            else:
                self._leave_out(rows[number], kind)
        rows, paths = [rows[number] for number in good], [paths[number] for number in good]
        alike = [(kind,) for path in paths if isinstance(kind := kinds[path], FileKind)]
        signatures = [signature_of(kind) for kind in alike]
        self._fillings: dict[str, Filling] = {}
        hashes: dict[Any, str] = {}
        for signature, file_kinds, path in zip(signatures, alike, paths, strict=True):
            if signature not in hashes:
                filling = _with_fixed(filling_of([file_kinds], path, cast=False))
                hashes[signature] = filling.record.hash
                self._fillings[filling.record.hash] = filling
        self._state_files = [
            StateFile(path, (Part(path, file_kinds[0]),), file_kinds)
            for path, file_kinds in zip(paths, alike, strict=True)
        ]
        columns, further = self._columns(rows, [hashes[signature] for signature in signatures])
        return Listing(
            table=pa.table(columns),
            records={name: filling.record for name, filling in self._fillings.items()},
            further=further,
            left_out=self._left_out,
            notes=self._notes,
            described={"folder": self._container.name, "table": table, "remarks": list(_REMARKS)},
        )

    def _rows(self, table: str) -> Iterator[dict[str, str]]:
        """The rows of the table, and a note on the files that none names."""
        try:
            text = self._container.read(table, _MAX_TABLE).decode()
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except (CheckpointError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{table} could not be read: {brief(str(error))}") from error
        named = {f"{self._folder}{row[_FILE]}" for row in rows}
        others = [
            path
            for path in self._container.entries
            if path.startswith(self._folder)
            and path.endswith(_ENDING)
            and path not in named
            and path.rsplit("/", 1)[-1] != _EMBEDDING
        ]
        for path in others:
            self._left_out.append(LeftOut(model=path, epochs=(0,), reason=f"{table} has no row of it"))
        return iter(rows)

    def _is_state(self, row: Mapping[str, str]) -> bool:
        """Whether a row is of a file at an epoch; if not, it is left out."""
        here = f"{self._folder}{row[_FILE]}" in self._entries
        name = _NAME.fullmatch(row[_FILE].rsplit("/", 1)[-1])
        if here and name and _is_epoch(row[_EPOCH]):
            return True
        reason = (
            "the table names this file, which is not there"
            if not here
            else f"it is of epoch {brief(row[_EPOCH])}, no number: a copy of another state"
            if not _is_epoch(row[_EPOCH])
            else "its name is not of the form RUN_EPOCH_ACCURACY.pt"
        )
        self._leave_out(row, reason)
        return False

    @cached_property
    def _entries(self) -> frozenset[str]:
        return frozenset(self._container.entries)

    def _leave_out(self, row: Mapping[str, str], reason: str) -> None:
        epoch = int(row[_EPOCH]) if _is_epoch(row[_EPOCH]) else 0
        self._left_out.append(LeftOut(model=str(row[_FILE]), epochs=(epoch,), reason=reason))

    def _columns(
        self, rows: Sequence[Mapping[str, str]], layouts: list[str]
    ) -> tuple[dict[str, pa.Array], tuple[Column, ...]]:
        """The columns of the table, and those of them that are no standard ones."""
        names = [_NAME.fullmatch(row[_FILE].rsplit("/", 1)[-1]) for row in rows]
        runs = pa.array([name["run"] for name in names if name], pa.string())
        columns: dict[str, pa.Array] = {
            "model_id": runs,
            "epoch": pa.array([int(row[_EPOCH]) for row in rows], pa.int32()),
            "layout": pa.array(layouts, pa.string()),
            "group": runs,
            "images": pa.array([self._images] * len(rows), pa.string()),
            "task": pa.array(["classification"] * len(rows), pa.string()),
        }
        further: list[Column] = []
        dropped: list[str] = []
        for theirs in rows[0] if rows else ():
            name = _RENAMED.get(theirs, column_name(str(theirs)))
            values = of_texts(pa.array([row[theirs] for row in rows], pa.string()))
            if theirs == _EPOCH or name in columns or values.null_count == len(values):
                continue
            if name in _STANDARD and name not in _OWN:
                columns[name] = as_type(values, _STANDARD[name], name)
            elif further_problem(name) is None and len(further) < MAX_FURTHER:
                columns[name] = values
                further.append(further_column(name, _TYPES[values.type]))
            else:
                dropped.append(str(theirs))
        if dropped:
            names_of = ", ".join(map(brief, dropped[:5]))
            text = f"{counted(len(dropped), 'column')} of the table cannot be a column here: {names_of}"
            self._notes.add([Note("transformers-columns", text, whole=True)])
        return columns, tuple(further)

    def label(self, number: int) -> str:
        return self._state_files[number].name

    def read_rows(self, numbers: Sequence[int], record: Any) -> tuple[NDArray[np.float32], dict[int, str]]:
        read = self._reader.read([self._state_files[number] for number in numbers], self._fillings[record.hash])
        return read.weights, read.reasons


def _is_epoch(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdigit() and len(text) < 9 and int(text) <= MAX_EPOCH


def _with_fixed(filling: Filling) -> Filling:
    """The same layout, of which what is never trained is a buffer."""
    entries: list[tuple[str, tuple[int, ...], str, TensorKind, str | None]] = [
        (spec.name, spec.shape, spec.dtype, "buffer" if spec.name in _FIXED else spec.kind, spec.tied)
        for spec in filling.layout.tensors
    ]
    return Filling(WeightLayout.of_dtypes(entries), filling.first, filling.cast)
