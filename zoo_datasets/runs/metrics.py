"""The metrics of a cohort: what its tables of figures hold, and within which ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.members import Member

METRICS = "metrics.parquet"
STEPS = "steps.parquet"
SPARSITY = "sparsity"
METRICS_SCHEMA = pa.schema(
    [pa.field("model_id", pa.string(), nullable=False), pa.field("epoch", pa.int32(), nullable=False)]
    + [pa.field(f"{split}_{what}", pa.float32()) for split in ("train", "val", "test") for what in ("loss", "acc")]
    + [pa.field("diverged", pa.bool_(), nullable=False), pa.field(SPARSITY, pa.float32())]
)
# Of states within epochs.
STEPS_SCHEMA = METRICS_SCHEMA.insert(2, pa.field("step", pa.int64(), nullable=False))


def read_metrics(file: Path) -> pa.Table:
    """What metrics.parquet holds (`METRICS_SCHEMA`), by epoch, then in the order of the stack.

    Raises:
        ValueError, OSError, pa.ArrowException: if it is broken, or a figure is out of its range.
    """
    with pq.ParquetFile(file) as opened:
        table = opened.read()
    if SPARSITY not in table.column_names:
        table = table.append_column(SPARSITY, pa.nulls(len(table), pa.float32()))
    table = table.cast(METRICS_SCHEMA)
    table.validate(full=True)
    _check_ranges(table)
    epochs = table["epoch"].to_numpy()
    ascending = bool((epochs[1:] >= epochs[:-1]).all())
    return table.combine_chunks() if ascending else table.take(np.argsort(epochs, kind="stable"))


def read_steps(file: Path) -> pa.Table:
    """What steps.parquet holds (`STEPS_SCHEMA`), by step, then in the order of the stack.

    Raises:
        ValueError, OSError, pa.ArrowException: if it is broken, or a figure is out of its range.
    """
    with pq.ParquetFile(file) as opened:
        table = opened.read().cast(STEPS_SCHEMA)
    table.validate(full=True)
    _check_ranges(table)
    steps = table["step"].to_numpy()
    descends = bool((steps[1:] < steps[:-1]).any())
    return table.combine_chunks().sort_by([("step", "ascending")]) if descends else table


def _check_ranges(table: pa.Table) -> None:
    """Raise ValueError where a figure or an epoch is none."""
    limits: dict[str, tuple[float, float]] = {"epoch": (0, MAX_EPOCH), SPARSITY: (0, 1)}
    limits |= {f"{split}_acc": (0, 1) for split in ("train", "val", "test")}
    limits |= {f"{split}_loss": (0, np.inf) for split in ("train", "val", "test")}
    for name, (low, high) in limits.items():
        smallest, largest = pc.min_max(table[name]).as_py().values()
        if smallest is not None and (smallest < low or largest > high):
            raise ValueError(f"{name} reaches from {smallest} to {largest}, expected {low} to {high}")


def metrics_table(
    members: Sequence[Member], epoch: int, figures: Mapping[str, Tensor | None], diverged: Tensor
) -> pa.Table:
    """Rows of `METRICS_SCHEMA` for one epoch: `figures` by column [K], None where a split is missing."""
    count = len(members)
    columns: dict[str, Any] = {
        "model_id": [member.model_id for member in members],
        "epoch": [epoch] * count,
        "diverged": diverged.tolist(),
    }
    for field in METRICS_SCHEMA:
        if field.name not in columns:
            values = figures.get(field.name)
            # From numpy, so that NaN stays NaN and does not become null.
            columns[field.name] = (
                pa.nulls(count, field.type) if values is None else pa.array(values.to(torch.float32).cpu().numpy())
            )
    return pa.table([columns[field.name] for field in METRICS_SCHEMA], schema=METRICS_SCHEMA)
