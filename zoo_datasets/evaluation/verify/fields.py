"""How well fields draw their signals: PSNR of rows from their weights alone, beside what the rows record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from zoo_datasets.errors import RepositoryError, ZooError
from zoo_datasets.evaluation.verify.figures import spread
from zoo_datasets.evaluation.verify.findings import Findings
from zoo_datasets.evaluation.verify.shards import READ_ERRORS, CheckedRow
from zoo_datasets.images.signals import Signals
from zoo_datasets.loading.rendering import render
from zoo_datasets.repository.layouts import local_layouts
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.stacked.field import psnr as psnr_of_error
from zoo_datasets.text import counted

PSNR, INDEX, SPLIT = "psnr", "signal_index", "signal_split"
TOLERANCE = 0.01  # dB
_AT_ONCE = 1024  # rows whose pictures are held


@dataclass(frozen=True, slots=True)
class _Signal:
    """A row that records a PSNR, and which image it is of."""

    row: CheckedRow
    psnr: float
    place: tuple[str, int] | None

    @property
    def model_id(self) -> str:
        return self.row.model_id

    @property
    def epoch(self) -> int:
        return self.row.epoch


def psnr(pictures: Tensor, images: Tensor) -> Tensor:
    """10 log₁₀(1 / mean squared error) of each picture in dB: float64 [n].

    Args:
        pictures, images: [n, C, H, W], of numbers where 1 is white; neither is clipped.
    """
    error = (pictures.double() - images.double()).square().flatten(1).mean(dim=1)
    return psnr_of_error(error)


def records_psnr(manifest: Manifest) -> bool:
    """Whether rows of a config may record a PSNR."""
    return manifest.open is not None and any(column.name == PSNR for column in manifest.open.further)


def check_fields(
    repo: Path,
    manifest: Manifest,
    rows: Sequence[CheckedRow],
    signals: Signals,
    sample: int | None,
    findings: Findings,
) -> int:
    """Recompute the PSNR of some rows that record one; returns their number.

    Args:
        signals: the images that the networks were fitted to; rows of other images are not checked.
        sample: how many rows; None means all.
    """
    try:
        local_layouts(repo, manifest)
    except RepositoryError as error:
        findings.differs("figures", f"{PSNR} could not be recomputed: {error}")
        return 0
    recorded = list(_signals(repo, rows, signals, findings))
    known = [signal for signal in recorded if signal.place is not None]
    if len(known) < len(recorded):
        findings.unchecked(f"{PSNR} of {counted(len(recorded) - len(known), 'row')} whose image nothing tells")
    taken = spread(known, len(known) if sample is None else sample)
    if len(taken) < len(known):
        findings.unchecked(f"{PSNR} of {counted(len(known) - len(taken), 'row')} outside the sample")
    ordered = sorted(taken, key=lambda signal: (signal.row.shard.path, signal.row.row_group, signal.row.index))
    done = sum(
        _recompute(repo, ordered[start : start + _AT_ONCE], signals, findings)
        for start in range(0, len(ordered), _AT_ONCE)
    )
    if recorded:
        findings.checked("figures", f"{PSNR} of {done:,} of {len(rows):,} rows recomputed from their weights")
    else:
        findings.unchecked(f"{PSNR}, as no row of {signals.spec.name} records one")
    return done


def _signals(repo: Path, rows: Sequence[CheckedRow], signals: Signals, findings: Findings) -> Iterator[_Signal]:
    """The rows of these images that record a PSNR."""
    columns = ["images", PSNR, INDEX, SPLIT]
    for (shard, group), members in groupby(rows, key=lambda row: (row.shard, row.row_group)):
        here = list(members)
        try:
            with pq.ParquetFile(repo / shard.path) as file:
                names = [name for name in columns if name in file.schema_arrow.names]
                values = file.read_row_group(group, columns=names).to_pylist()
        except READ_ERRORS as error:
            findings.differs("figures", f"{shard.path} could not be read: {' '.join(str(error).split())[:200]}")
            continue
        for row in here:
            value = values[row.index]
            if value.get(PSNR) is not None and value.get("images") == signals.spec.name:
                index, split = value.get(INDEX), value.get(SPLIT)
                place = None if index is None or split is None else signals.place(split, index)
                yield _Signal(row, value[PSNR], place)


def _recompute(repo: Path, sample: Sequence[_Signal], signals: Signals, findings: Findings) -> int:
    """Compare rows with their images; returns how many could be."""
    try:
        rows = list(_rows(repo, sample))
        images = signals.read([signal.place for signal in sample if signal.place is not None])
        if images.shape[-1] != images.shape[-2]:
            raise ZooError(f"images of {images.shape[-1]} × {images.shape[-2]} pixels found, square ones expected")
        pictures = render(rows, images.shape[-1])
        if pictures.shape != images.shape:
            raise ZooError(f"the networks give {pictures.shape[1]} channels, {signals.spec.name} has {images.shape[1]}")
    except (*READ_ERRORS, ZooError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        findings.differs("figures", f"{PSNR} of {counted(len(sample), 'row')} could not be recomputed: {message}")
        return 0
    found = psnr(pictures, images.double() / 255).tolist()
    findings.differ(
        "figures",
        [
            f"model {signal.model_id} at epoch {signal.epoch}: {PSNR} is {signal.psnr:.3f} dB, recomputed {value:.3f}"
            for signal, value in zip(sample, found, strict=True)
            if not same_psnr(signal.psnr, value)
        ],
    )
    return len(sample)


def same_psnr(recorded: float, value: float) -> bool:
    """Whether two PSNR agree to 0.01 dB; of infinite ones, whether they are equal."""
    return recorded == value or (math.isfinite(value) and abs(recorded - value) <= TOLERANCE)


def _rows(repo: Path, sample: Sequence[_Signal]) -> Iterator[dict[str, Any]]:
    """The rows with all their columns."""
    for (shard, group), members in groupby(sample, key=lambda signal: (signal.row.shard, signal.row.row_group)):
        with pq.ParquetFile(repo / shard.path) as file:
            table = file.read_row_group(group).take([signal.row.index for signal in members])
        weights = table["weights"].combine_chunks()
        for index, row in enumerate(table.drop_columns(["weights"]).to_pylist()):
            yield row | {"weights": torch.from_numpy(weights[index].values.to_numpy().copy())}
