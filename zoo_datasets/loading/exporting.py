"""Rows as single files: what is exported of a repository, and one safetensors file a row, there and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import safetensors
import torch
from datasets import DatasetDict, IterableDatasetDict
from safetensors.torch import save

from zoo_datasets.documents import StrPath, brief, parse_json
from zoo_datasets.errors import CheckpointError, RepositoryError, ZooError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.modules import layout_of_row
from zoo_datasets.networks.fields import SIREN
from zoo_datasets.networks.kind import LAYERS, NetworkKind
from zoo_datasets.repository.row import COLUMNS, FIGURES, NAMES, WEIGHTS, id_problem, weights_matrix
from zoo_datasets.storage.files import write_if_changed
from zoo_datasets.storage.folders import check_output
from zoo_datasets.storage.names import NAME_LENGTH, distinct_names, file_name
from zoo_datasets.terminal import Advance
from zoo_datasets.text import json_text

EXPORT_FORMAT = 1
BATCH_BYTES = 32_000_000
HEADER_KEY = "zoo_datasets"
# What of a row belongs to the state, and not to the model.
CHANGING = frozenset({"epoch", *FIGURES, "ggap", "sparsity", WEIGHTS})
LASTING = tuple(name for name in NAMES if name not in CHANGING)
_FLOATS = frozenset(column.name for column in COLUMNS if column.type is not None and pa.types.is_floating(column.type))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRows:
    """The rows of one config that are to be exported, read a piece at a time.

    Attributes:
        config: its name.
        models: the columns of `LASTING` of each model, by model_id.
        total: number of rows, if all turn out to be readable.
        tables: reads them all: tables of the schema's columns, each of at least one row.
        selection: what was asked for, as JSON values; empty if it is all.
    """

    config: str
    models: Mapping[str, Mapping[str, Any]]
    total: int
    tables: Callable[[], Iterator[pa.Table]]
    selection: Mapping[str, Any]

    def __post_init__(self) -> None:
        for model_id, columns in self.models.items():
            problem = id_problem(model_id) or id_problem(columns.get("parent_id"))
            if problem is not None:
                raise RepositoryError(f"{self.config}: {problem}")


def repository_rows(
    repo: str | Path,
    name: str,
    *,
    epochs: Iterable[int] | None = None,
    where: str | None = None,
    models: int | None = None,
    extras: bool = False,
    revision: str | None = None,
) -> ExportRows:
    """Rows of a config of a local repository or one on the Hub; `epochs` and `where` as `load_zoo` has them.

    The other columns are read first; weights are streamed afterwards and fill no cache.

    Args:
        models: the first so many of the models that have such rows, in the order of their ids.
        extras: whether columns beside those of `NAMES` are read too, as `log_sigma2`.

    Raises:
        RepositoryError, UnknownNameError, SpecError: as `load_zoo`.
    """
    asked = None if epochs is None else list(epochs)
    splits = load_zoo(repo, name, epochs=asked, where=where, columns=LASTING, revision=revision)
    tables_read = [split.data for split in cast(DatasetDict, splits).values()]
    rows_by_model = {row["model_id"]: row for table in tables_read for row in _distinct(table.table)}
    selected = {model_id: rows_by_model[model_id] for model_id in sorted(rows_by_model, key=str)[:models]}
    ids = pa.array(list(selected), pa.string())
    total = sum(pc.sum(pc.is_in(table.column("model_id"), ids)).as_py() for table in tables_read)
    if any(row["architecture"] == SIREN for row in selected.values()):
        raise RepositoryError(
            f"{name} holds fields, whose convention a file of an exported row does not tell: take their tensors by "
            "zoo_datasets.to_state_dict, and their function by to_module"
        )
    size = layout_of_row(next(iter(selected.values()))).size

    def tables() -> Iterator[pa.Table]:
        columns = None if extras else NAMES
        loaded = load_zoo(repo, name, epochs=asked, where=where, columns=columns, streaming=True, revision=revision)
        for split in cast(IterableDatasetDict, loaded).values():
            for table in split.with_format("arrow").iter(batch_size=max(BATCH_BYTES // (4 * size), 1)):
                wanted = table if models is None else table.filter(pc.is_in(table["model_id"], ids))
                if wanted.num_rows:
                    yield wanted

    selection = {"epochs": asked, "where": where, "models": models}
    return ExportRows(
        config=name,
        models=selected,
        total=total,
        tables=tables,
        selection={key: value for key, value in selection.items() if value is not None},
    )


def export_safetensors(rows: ExportRows, out: StrPath, progress: Advance | None = None) -> list[Path]:
    """Write each row as `<model_id>-epoch-0050.safetensors` into a folder; gives the files.

    A file holds the tensors under the layers' names and, as JSON under the key `zoo_datasets` of its header, all
    other columns of the row, the model's id among them; in the file's name the id is quoted (`file_name`). Files that
    already have this content are kept.

    Raises:
        StorageError: if a file cannot be written.
    """
    out = Path(out)
    check_output(out)
    files: list[Path] = []
    names = distinct_names({model_id: file_name(model_id) for model_id in rows.models}, NAME_LENGTH)
    for row in states_of(rows):
        file = out / f"{names[row['model_id']]}-epoch-{row['epoch']:04d}.safetensors"
        write_if_changed(file, row_bytes(row))
        files.append(file)
        if progress is not None:
            progress(len(files), rows.total)
    return files


def states_of(rows: ExportRows) -> Iterator[dict[str, Any]]:
    """All rows as dictionaries; lists of weights are float32 tensors [D]."""
    for table in rows.tables():
        wide = [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]
        matrices = {name: torch.from_numpy(weights_matrix(table, name).copy()) for name in wide}
        for index, row in enumerate(table.drop_columns(wide).to_pylist()):
            yield row | {name: matrix[index] for name, matrix in matrices.items()}


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """A row as the content of a safetensors file: the columns of `NAMES`."""
    tensors = layout_of_row(row).unflatten(torch.as_tensor(row[WEIGHTS], dtype=torch.float32))
    values = {name: _plain(row.get(name)) for name in NAMES if name != WEIGHTS}
    # One metadata key only: safetensors writes several in random order.
    own = {name: value for name, value in NetworkKind.of_row(row).record().items() if name == LAYERS}
    header = {HEADER_KEY: json_text({"format": EXPORT_FORMAT, "row": values} | own, allow_nan=False)}
    return bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header))


def load_exported(path: StrPath) -> dict[str, Any]:
    """The row that `zoo export --format safetensors` wrote: all its columns, `weights` a float32 tensor [D].

    `to_module(load_exported(path))` is the network.

    Raises:
        CheckpointError: if the file cannot be read or is no exported row.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        value = parse_json(header[HEADER_KEY])
        version, row = value["format"], dict(value["row"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = f"its header lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{path} is no model that `zoo export --format safetensors` wrote, or is broken: {reason}"
        ) from error
    if version != EXPORT_FORMAT:
        raise CheckpointError(f"{path}: format {brief(version)} found, this version reads {EXPORT_FORMAT}")
    try:
        kind = NetworkKind.recorded(row["architecture"], row["in_channels"], row["classes"], value.get(LAYERS))
        row[WEIGHTS] = kind.layout.flatten(tensors)
        return {name: _number(row[name]) if name in _FLOATS else row[name] for name in NAMES}
    except (ZooError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _distinct(table: pa.Table) -> list[dict[str, Any]]:
    """One row a model, of the columns of `LASTING`."""
    positions: dict[str, int] = {}
    for position, model_id in enumerate(table["model_id"].to_pylist()):
        positions.setdefault(model_id, position)
    return list(table.select(list(LASTING)).take(list(positions.values())).to_pylist())


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
