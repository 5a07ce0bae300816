"""Rows on their way into a config: files that a call after an interruption finds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from zoo_datasets.builders.sources.stored import RowFile
from zoo_datasets.builders.writing.items import Key, Row, check_columns, plain_value
from zoo_datasets.documents import brief, parse_json
from zoo_datasets.errors import LayoutError, RepositoryError, SourceError
from zoo_datasets.networks.records import NetworkRecord, records_of, remember
from zoo_datasets.repository.row import LAYOUT, RAW, RAW_END, WEIGHTS
from zoo_datasets.storage.files import check_files, replacing
from zoo_datasets.text import json_text

_CHUNK_BYTES = 64_000_000
_CHUNK_ROWS = 20_000
_NOTES = b"zoo_datasets"
_NAMES = f"rows-{'[0-9]' * 6}.arrow"
_STAGED_SCHEMA = pa.schema(
    [
        pa.field("columns", pa.string(), nullable=False),  # as JSON
        pa.field(LAYOUT, pa.string(), nullable=False),
        pa.field(WEIGHTS, pa.large_list(pa.field("element", pa.float32(), nullable=False)), nullable=False),
        pa.field(RAW, pa.large_binary(), nullable=False),
    ]
)


class Staging:
    """Rows on their way into a config, in a hidden folder of it: Arrow files that a call after an interruption finds.

    Args:
        fresh: drop what is there.
    """

    def __init__(self, folder: Path, fresh: bool) -> None:
        self._folder = folder
        check_files(folder.parent, [folder.name], links=False)
        if fresh:
            self.remove()
        self.files: list[StagedRows] = []
        self.records: dict[str, NetworkRecord] = {}
        self._digests: dict[Key, str] = {}
        paths = sorted(folder.glob(_NAMES))
        check_files(folder, [path.name for path in paths], links=False)
        for path in paths:
            self._take(path)
        self._first_own = len(self.files)
        self._seen: set[Key] = set()
        self._pending: list[Row] = []
        self._bytes = 0

    def _take(self, path: Path) -> None:
        """Rows of a finished file."""
        staged = StagedRows(path)
        self.files.append(staged)
        self.records |= staged.records
        for row, digest in zip(staged.columns, staged.digests, strict=True):
            self._digests[row["model_id"], row["epoch"], row["step"]] = digest

    def add(self, row: Row, held: set[Key]) -> None:
        """Take a row, unless it is there already.

        Raises:
            SourceError: if this call gave its key before.
        """
        key = row.key
        if key in self._seen:
            model_id, epoch, step = key
            of_step = "" if step is None else f", step {step}"
            raise SourceError(
                f"two rows of model {model_id!a} at epoch {epoch}{of_step}; expected each model, epoch and step once"
            )
        self._seen.add(key)
        if key in held or self._digests.get(key) == _digest(row):
            return
        self._digests[key] = _digest(row)
        self._pending.append(row)
        self._bytes += 4 * row.weights.numel() + len(row.raw)
        if self._bytes >= _CHUNK_BYTES or len(self._pending) >= _CHUNK_ROWS:
            self.finish()

    def finish(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        rows, self._pending, self._bytes = self._pending, [], 0
        records = {row.record.hash: row.record for row in rows}
        offsets = np.cumsum([0, *(row.weights.numel() for row in rows)])
        weights = pa.array(torch.cat([row.weights for row in rows]).numpy())
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([json_text(row.columns) for row in rows], pa.string()),
                pa.array([row.record.hash for row in rows], pa.string()),
                pa.LargeListArray.from_arrays(pa.array(offsets), weights, type=_STAGED_SCHEMA.field(WEIGHTS).type),
                pa.array([row.raw + RAW_END for row in rows], pa.large_binary()),
            ],
            schema=_STAGED_SCHEMA,
        )
        notes = {
            "layouts": {name: record.to_dict() for name, record in records.items()},
            "digests": [_digest(row) for row in rows],
        }
        schema = _STAGED_SCHEMA.with_metadata({_NOTES: json.dumps(notes)})
        self._folder.mkdir(parents=True, exist_ok=True)
        number = int(self.files[-1].path.stem.removeprefix("rows-")) + 1 if self.files else 0
        path = self._folder / f"rows-{number:06}.arrow"
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as out,
        ):
            out.write_batch(batch.replace_schema_metadata(schema.metadata))
        self.files.append(StagedRows(path))
        self.records |= records

    def rows(self) -> tuple[list[tuple[int, int]], list[dict[str, Any]], list[str]]:
        """The file and the place in it of each row, its columns, and its layout; of a key that was given anew after an
        interruption the last."""
        last: dict[Key, tuple[tuple[int, int], dict[str, Any], str]] = {}
        for number, staged in enumerate(self.files):
            for place, (row, layout) in enumerate(zip(staged.columns, staged.layouts, strict=True)):
                last[row["model_id"], row["epoch"], row["step"]] = ((number, place), row, layout)
        return tuple(map(list, zip(*last.values(), strict=True))) if last else ([], [], [])  # type: ignore[return-value]

    def discard_own(self) -> None:
        """Drop what this call has written."""
        self._pending = []
        for staged in self.files[self._first_own :]:
            staged.path.unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self.remove()

    def remove(self) -> None:
        """Drop everything."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _digest(row: Row) -> str:
    digest = hashlib.sha256(json_text(row.columns).encode())
    digest.update(row.record.hash.encode())
    digest.update(row.weights.contiguous().numpy().tobytes())
    digest.update(row.raw)
    return digest.hexdigest()[:32]


class StagedRows(RowFile):
    """A file of staged rows, mapped into memory.

    Raises:
        RepositoryError: if it is damaged, or not what `Staging` writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                if not reader.schema.equals(_STAGED_SCHEMA):
                    raise LayoutError("it has other columns")
                notes = parse_json((reader.schema.metadata or {})[_NOTES])
                table = reader.read_all()
            table.validate(full=True)  # lengths and texts in a file may be anything
            records = records_of(notes["layouts"], "its notes")
            self.columns: list[dict[str, Any]] = [parse_json(text) for text in table["columns"].to_pylist()]
            self.layouts: list[str] = table[LAYOUT].to_pylist()
            self.digests: list[str] = notes["digests"]
            _check_rows(table, self.columns, self.digests, records)
        except (OSError, ValueError, TypeError, KeyError, LayoutError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise RepositoryError(
                f"{path} holds no rows of an interrupted call, or is damaged: {reason}; delete it, and call again"
            ) from error
        self._table = table.select([WEIGHTS, RAW])
        self.records = remember(records.values())

    @property
    def path(self) -> Path:
        return self._path

    @property
    def sizes(self) -> Sequence[int]:
        return [self._table.num_rows]

    def read(self, piece: int) -> pa.Table:
        return self._table


def _check_rows(
    table: pa.Table, columns: Sequence[Any], digests: Sequence[Any], records: Mapping[str, NetworkRecord]
) -> None:
    """See that staged rows have a key and values of plain types, and weights as long as their layouts say.

    Raises:
        LayoutError: if one has not.
    """
    if len(digests) != len(columns):
        raise LayoutError(f"{len(digests):,} digests of {len(columns):,} rows")
    lengths = zip(
        table[LAYOUT].to_pylist(),
        pc.list_value_length(table[WEIGHTS]).to_pylist(),
        pc.binary_length(table[RAW]).to_pylist(),
        strict=True,
    )
    for row, (name, size, raw) in zip(columns, lengths, strict=True):
        try:
            if not isinstance(row, dict) or not isinstance(row.get("model_id"), str):
                raise LayoutError(f"a row is {brief(row)}")
            check_columns(row)
            for column, value in row.items():
                plain_value(column, value)
        except SourceError as error:
            raise LayoutError(f"a row is wrong: {error}") from error
        layout = records[name].layout
        if (size, raw) != (layout.size, layout.raw_bytes + len(RAW_END)):
            raise LayoutError(f"{size:,} weights and {raw:,} bytes are not of the layout {name}")
