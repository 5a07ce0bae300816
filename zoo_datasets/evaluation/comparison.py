"""Two zoos side by side: their figures over epochs and at the end, and pairs of models where there are any."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zoo_datasets.errors import RepositoryError
from zoo_datasets.evaluation import population

_PERCENTILES = range(101)


def compare(first: str, second: str) -> dict[str, Any]:
    """What two zoos have in common and what differs, as JSON values.

    Models are paired where one zoo holds the parents of the other's twins, or both hold the same models.

    Args:
        first, second: each a repository and the name of its config, as `model-zoos/digits_cnn_s` or `org/name/config`.

    Returns:
        `sides`: of each zoo its name, models, epochs, best model by validation, boxes of each figure over `epochs` and
        at the `last` epoch, and there the `distribution`: its percentiles from 0 to 100. `pairs`: None, or how models
        are paired, and for each figure both values of each pair with the box of their differences, second minus first.

    Raises:
        RepositoryError: if there is no such zoo, or an address names no config.
    """
    tables = [population.read_figures(*address_of(text)) for text in (first, second)]
    lasts = [population.at_epoch(table) for table in tables]
    names = [address_of(text)[1] for text in (first, second)]
    if names[0] == names[1]:
        names = [first, second]
    columns = [name for name in population.FIGURES if any(population.box(last[name]) for last in lasts)]
    sides = [_side(name, table, last, columns) for name, table, last in zip(names, tables, lasts, strict=True)]
    return {"sides": sides, "labels": {name: population.FIGURES[name] for name in columns}, "pairs": _pairs(*lasts)}


def address_of(text: str) -> tuple[str, str]:
    """Repository and config of an address as `model-zoos/digits_cnn_s`.

    Raises:
        RepositoryError: if it has no two parts.
    """
    repo, _, name = text.rstrip("/").rpartition("/")
    if not repo or not name:
        raise RepositoryError(
            f"{text!r}: expected a repository and the name of a zoo in it, as model-zoos/digits_cnn_s or org/name/zoo"
        )
    return (repo if not Path(text).is_absolute() else str(Path(repo))), name


def _side(name: str, table: pa.Table, last: pa.Table, columns: list[str]) -> dict[str, Any]:
    ends = {column: box for column in columns if (box := population.box(last[column])) is not None}
    epochs = {column: population.over_epochs(table, column) for column in columns}
    return {
        "name": name,
        "models": last.num_rows,
        "epochs": pc.unique(table["epoch"]).sort().to_pylist(),
        "best": population.best(table),
        "figures": {
            column: {str(epoch): asdict(box) for epoch, box in boxes.items()} for column, boxes in epochs.items()
        },
        "last": {column: asdict(box) for column, box in ends.items()},
        "distribution": {column: np.percentile(_finite(last[column]), _PERCENTILES).tolist() for column in ends},
    }


def _finite(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
    return np.asarray(values[np.isfinite(values)])


def _pairs(first: pa.Table, second: pa.Table) -> dict[str, Any] | None:
    """The figures of models that belong together."""
    how, keys = _keys(first, second)
    place = {key: at for at, key in enumerate(keys[0]) if key is not None}
    matches = [(place[key], at) for at, key in enumerate(keys[1]) if key in place]
    if not matches:
        return None
    left, right = (
        table.take(list(side)) for table, side in zip((first, second), zip(*matches, strict=True), strict=True)
    )
    figures = {}
    for column in population.FIGURES:
        both = np.stack([pc.fill_null(side[column].cast(pa.float64()), np.nan).to_numpy() for side in (left, right)])
        both = both[:, np.isfinite(both).all(axis=0)]
        difference = population.box(both[1] - both[0])
        if difference is not None:
            figures[column] = {"values": both.tolist(), "difference": asdict(difference)}
    return {"how": how, "models": len(matches), "figures": figures}


def _keys(first: pa.Table, second: pa.Table) -> tuple[str, tuple[list[str | None], list[str | None]]]:
    """How models are paired, and what they are paired by."""
    models, others = first["model_id"].to_pylist(), second["model_id"].to_pylist()
    parents, further = first["parent_id"].to_pylist(), second["parent_id"].to_pylist()
    if set(models) & set(further):
        return "each model of the first zoo and its twin in the second", (models, further)
    if set(parents) & set(others):
        return "each twin of the first zoo and its parent in the second", (parents, others)
    if set(models) & set(others):
        return "models that both zoos hold", (models, others)
    return "twins of the same parent", (parents, [parent or None for parent in further])
