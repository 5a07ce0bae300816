"""A zoo as a population: how figures are distributed over its models, and what hyperparameters do to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetDict
from numpy.typing import NDArray

from zoo_datasets.errors import SpecError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.repository.row import NAMES, WEIGHTS

HYPERPARAMETERS = ("activation", "init", "optimizer", "dropout", "lr", "weight_decay", "momentum", "batch_size")
FIGURES = {
    "test_acc": "test accuracy",
    "ggap": "generalisation gap (train − test accuracy)",
    "test_loss": "test loss",
    "sparsity": "sparsity (share of prunable weights that are zero)",
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """The `QUANTILES` of some values, their extremes, and how many there are."""

    count: int
    low: float
    quantiles: tuple[float, ...]
    high: float

    @property
    def median(self) -> float:
        """The middle one."""
        return self.quantiles[len(QUANTILES) // 2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What one hyperparameter does to a figure.

    Attributes:
        boxes: the figure of the models with each value.
        explained: share of the figure's variance between models that lies between these groups, η² in [0, 1].
    """

    hyperparameter: str
    boxes: dict[str, Box]
    explained: float


def read_figures(repo: str | Path, name: str) -> pa.Table:
    """All columns but the weights, of all rows of all splits, with the split as a further column.

    Raises:
        RepositoryError: if there is no such repository or config.
    """
    loaded = load_zoo(repo, name, columns=[column for column in NAMES if column != WEIGHTS])
    return table_of(cast(DatasetDict, loaded))


def table_of(loaded: DatasetDict) -> pa.Table:
    """The rows of all splits, with the split as a further column."""
    tables = []
    for split, part in loaded.items():
        table = cast(pa.Table, part.with_format("arrow")[:])
        tables.append(table.append_column("split", pa.array([split] * table.num_rows)))
    return pa.concat_tables(tables)


def box(values: pa.ChunkedArray | Sequence[float]) -> Box | None:
    """The box of all values that are neither null nor infinite; None where there is none."""
    numbers = pa.chunked_array([values]) if not isinstance(values, pa.ChunkedArray) else values
    finite = pc.fill_null(numbers.cast(pa.float64()), float("nan")).to_numpy()
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    quantiles = tuple(float(value) for value in np.quantile(finite, QUANTILES))
    return Box(count=len(finite), low=float(finite.min()), quantiles=quantiles, high=float(finite.max()))


def over_epochs(table: pa.Table, column: str) -> dict[int, Box]:
    """The box of a column at each epoch at which it is known."""
    epochs = pc.unique(table["epoch"]).to_pylist()
    boxes = {epoch: box(table.filter(pc.equal(table["epoch"], epoch))[column]) for epoch in sorted(epochs)}
    return {epoch: summary for epoch, summary in boxes.items() if summary is not None}


def at_epoch(table: pa.Table, epoch: int | None = None) -> pa.Table:
    """The rows of one epoch; None means each model's last one.

    Raises:
        SpecError: if no row is of that epoch.
    """
    if epoch is not None:
        rows = table.filter(pc.equal(table["epoch"], epoch))
    else:
        last = table.select(["model_id", "epoch"]).group_by("model_id").aggregate([("epoch", "max")])
        keys = dict(zip(last["model_id"].to_pylist(), last["epoch_max"].to_pylist(), strict=True))
        wanted = [keys[model] for model in table["model_id"].to_pylist()]
        rows = table.filter(pc.equal(table["epoch"], pa.array(wanted, table["epoch"].type)))
    if not rows.num_rows:
        raise SpecError(f"no row of epoch {epoch}; the zoo has the epochs {pc.unique(table['epoch']).to_pylist()}")
    return rows


def best(table: pa.Table) -> dict[str, Any] | None:
    """The row of highest validation accuracy, of equal ones that of the least validation loss; None where none has one.

    Test figures choose nothing: what is chosen by them no longer says how good a model is.
    """
    known = table.filter(pc.fill_null(pc.is_finite(table["val_acc"]), False))
    order = pc.sort_indices(known, [("val_acc", "descending"), ("val_loss", "ascending")])
    return cast(dict[str, Any], known.take(order[:1]).to_pylist()[0]) if known.num_rows else None


def effects(table: pa.Table, figure: str = "test_acc") -> list[Effect]:
    """What each hyperparameter that takes several values does to a figure, the strongest first.

    Args:
        table: one row a model, as `at_epoch` gives; rows in which the figure is not known are left out.
    """
    table = table.filter(pc.fill_null(pc.is_finite(table[figure]), False))
    results = []
    for name in HYPERPARAMETERS:
        values = pc.unique(table[name]).to_pylist()
        if len(values) > 1:
            groups = {_label(value): table.filter(_equal(table[name], value))[figure] for value in _sorted(values)}
            boxes = {label: summary for label, group in groups.items() if (summary := box(group)) is not None}
            results.append(
                Effect(hyperparameter=name, boxes=boxes, explained=_explained([g.to_numpy() for g in groups.values()]))
            )
    return sorted(results, key=lambda effect: -effect.explained)


def _equal(column: pa.ChunkedArray, value: object) -> pa.ChunkedArray:
    return pc.is_null(column) if value is None else pc.fill_null(pc.equal(column, value), False)


def _sorted(values: list[object]) -> list[object]:
    return sorted(values, key=lambda value: (value is None, value))


def _label(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def _explained(groups: list[NDArray[np.float64]]) -> float:
    every = np.concatenate(groups).astype(np.float64)
    total = ((every - every.mean()) ** 2).sum()
    between = sum(len(group) * (group.astype(np.float64).mean() - every.mean()) ** 2 for group in groups)
    return float(between / total) if total else 0.0
