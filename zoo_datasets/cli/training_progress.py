"""What a training shows on the terminal: models × epochs, accuracy quartiles and time left."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from rich.console import Console

from zoo_datasets.cli.progress import add_bar, amount_of, progress_bars
from zoo_datasets.errors import RunError
from zoo_datasets.runs.cohort import UNCHECKED, Cohort
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Member
from zoo_datasets.stacked.field import psnr
from zoo_datasets.terminal import say
from zoo_datasets.text import counted
from zoo_datasets.training.launch import EpochReport

# Where the output is no terminal a bar cannot be redrawn: a line every so many seconds instead.
_LINE_SECONDS = 15.0
PSNR = "PSNR"


class TrainingProgress:
    """An observer that shows a training on the terminal; use it as a context manager.

    Attributes:
        setbacks: cohorts that begin again at epoch 0 although they were trained before, each with the reason.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._figures: dict[str, float] = {}
        self._what = "accuracy"
        self._diverged: dict[str, int] = {}
        self._total = 0
        self._done = 0
        self._resumed = 0
        self.setbacks: list[str] = []
        self._begun = self._last_line = time.monotonic()
        self._bars = progress_bars(console)
        self._bar = add_bar(self._bars, "training")

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @property
    def trained(self) -> int:
        """States (models × epochs) that this process trained, without those it found on disk."""
        return self._done - self._resumed

    @property
    def diverged(self) -> int:
        """Members whose weights are not finite at their last epoch."""
        return sum(self._diverged.values())

    def quartiles(self) -> str:
        """Quartiles of the members' last accuracies, or PSNRs, as text."""
        if not self._figures:
            return ""
        values = torch.tensor(list(self._figures.values()), dtype=torch.float64)
        low, middle, high = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        if self._what == PSNR:
            return f"{PSNR} {low:.1f} · {middle:.1f} · {high:.1f} dB"
        return f"{self._what} {low:.3f} · {middle:.3f} · {high:.3f}"

    def begin(self, run: Run, cohorts: Sequence[tuple[Cohort, Sequence[Member]]]) -> None:
        """Count what is to be trained and what is on disk already."""
        self._what = PSNR if run.manifest.is_field else self._what
        for cohort, members in cohorts:
            self._total += len(members) * len(run.kept_epochs)
            try:
                self._count(run, cohort, len(members))
            except RunError:
                continue  # who trains it says what is the matter
        self._resumed = self._done
        say(
            self._console,
            f"{run.manifest.zoo.name}: {counted(run.models, 'model')} to epoch {run.epochs} "
            f"in {counted(len(cohorts), 'cohort')}, {run.manifest.engine} path → {run.path}",
        )
        if self._done:
            say(self._console, f"going on: {self._done:,} of {self._total:,} states are on disk")
        for setback in self.setbacks:
            say(self._console, f"{setback}: training from epoch 0 again")
        if any(cohort.unchecked for cohort, _ in cohorts):
            say(self._console, f"note: {UNCHECKED}")
        self._redraw()

    def _count(self, run: Run, cohort: Cohort, members: int) -> None:
        """Count what a cohort has on disk and goes on from."""
        last = cohort.resume_epoch()
        if last is not None:
            kept = [epoch for epoch in run.kept_epochs if epoch <= last]
            self._done += len(kept) * members
            rows = cohort.figures(max(kept, default=0))
            self._remember(cohort.path.name, [] if rows is None else rows.to_pylist())
        elif (setback := cohort.setback()) is not None:
            self.setbacks.append(f"{cohort.path.name}: {setback}")

    def _remember(self, cohort: str, rows: list[dict[str, Any]]) -> None:
        """The figures of a cohort's last epoch on disk."""
        for row in rows:
            figure = row["test_acc"] if row["val_acc"] is None else row["val_acc"]
            if self._what == PSNR and row["train_loss"]:
                figure = float(psnr(torch.tensor(row["train_loss"], dtype=torch.float64)))
            self._figures[row["model_id"]] = math.nan if figure is None else figure
        self._diverged[cohort] = sum(row["diverged"] for row in rows)

    def epoch(self, report: EpochReport) -> None:
        """Count one finished epoch of one cohort."""
        with self._lock:
            for member, figure in zip(report.members, report.figure.tolist(), strict=True):
                self._figures[member.model_id] = figure
            self._diverged[report.cohort] = report.diverged
            # Two processes may report the same epoch.
            self._done = min(self._done + len(report.members), self._total)
            self._redraw()
            now = time.monotonic()
            if not self._console.is_terminal and (now - self._last_line > _LINE_SECONDS):
                self._last_line = now
                left = (now - self._begun) / max(self.trained, 1) * (self._total - self._done)
                say(
                    self._console,
                    f"{self._amount()}, {left:,.0f} s left",
                )

    def _redraw(self) -> None:
        self._bars.update(self._bar, completed=self._done, total=self._total, amount=self._amount())

    def _amount(self) -> str:
        states = amount_of(self._done, self._total, "models × epochs")
        return f"{states}, {quartiles}" if (quartiles := self.quartiles()) else states
