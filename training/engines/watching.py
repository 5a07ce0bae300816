"""Following a training that other processes run, by polling the metrics in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch

from zoo_datasets.errors import RunError
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.specs.members import Member
from zoo_datasets.stacked.field import psnr
from zoo_datasets.training.launch import EpochReport

_SECONDS = 2.0


class Watch:
    """Reports the epochs of cohorts that are finished after the watch was made, whoever trains them."""

    def __init__(
        self, cohorts: Sequence[tuple[Cohort, Sequence[Member]]], report: Callable[[EpochReport], None]
    ) -> None:
        self._cohorts = cohorts
        self._report = report
        self._stamps: dict[str, tuple[int, int]] = {}
        self._last = [_last_epoch(cohort) for cohort, _ in cohorts]
        self._looked = time.monotonic()

    def tick(self) -> None:
        """Look again if the last look was more than two seconds ago."""
        if time.monotonic() - self._looked > _SECONDS:
            self.look()

    def look(self) -> None:
        """Report what was finished since the last look, epoch by epoch."""
        for number, (cohort, members) in enumerate(self._cohorts):
            for epoch, rows in self._news(number, cohort):
                self._report(_report_of(cohort, epoch, members, rows))
                self._last[number] = epoch
        self._looked = time.monotonic()

    def _news(self, number: int, cohort: Cohort) -> list[tuple[int, pa.Table]]:
        try:
            status = (cohort.path / "metrics.parquet").stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if self._stamps.get(cohort.path.name) == stamp:
                return []
            metrics = cohort.metrics()
        except (OSError, RunError):
            # Not there yet, or replaced at this moment on a slow file system: there is a next look.
            return []
        self._stamps[cohort.path.name] = stamp
        epochs = sorted(epoch for epoch in set(metrics["epoch"].to_pylist()) if epoch > self._last[number])
        return [(epoch, metrics.filter(pc.equal(metrics["epoch"], epoch))) for epoch in epochs]


def _last_epoch(cohort: Cohort) -> int:
    try:
        last = cohort.resume_epoch()
    except RunError:
        return -1  # who trains it says what is the matter
    return -1 if last is None else last


def _report_of(cohort: Cohort, epoch: int, members: Sequence[Member], rows: pa.Table) -> EpochReport:
    column = next((name for name in ("val_acc", "test_acc") if not rows[name].null_count), None)
    figure = torch.tensor(rows[column or "train_loss"].to_pylist(), dtype=torch.float64)
    return EpochReport(
        cohort=cohort.path.name,
        epoch=epoch,
        members=members,
        figure=psnr(figure) if column is None else figure,  # of fields
        diverged=sum(rows["diverged"].to_pylist()),
    )
