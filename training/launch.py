"""How a training is carried out, whatever it trains: the one value that all of it is handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from torch import Tensor

from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Member


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The cohorts that a process begins with: those whose number is `index` modulo `count`, the processes."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """One finished epoch of one cohort, for progress: `figure` float64 [K], accuracy on validation, or test without
    one; of fields PSNR in dB."""

    cohort: str
    epoch: int
    members: Sequence[Member]
    figure: Tensor
    diverged: int


class Observer(Protocol):
    """Follows a training; `epoch` is called from worker threads."""

    def begin(self, run: Run, cohorts: Sequence[tuple[Cohort, Sequence[Member]]]) -> None:
        """All cohorts of the run, before the first step."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch of a cohort is on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How a training is carried out.

    Attributes:
        path: engine path, `auto` or a name of `zoo_datasets.training.steps.paths.PATHS`.
        device: torch device of the plain-torch path.
        threads: blocks that train at the same time, on ray in each task; None means all cores.
        engine: where cohorts are trained, a name of `zoo_datasets.training.engines.table.ENGINES`.
        share: which of several processes this is.
        observer: the first process's is told of each finished epoch, whichever process trained it.
        first: calls a function on the first of several processes while the others wait for it.
    """

    path: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    engine: str = "local"
    share: Share = field(default_factory=Share)
    observer: Observer | None = None
    first: Callable[[Callable[[], None]], None] | None = None

    def begin(self, step: Callable[[], None]) -> None:
        """Call `step` on the first process; the others wait for it where they can."""
        if self.first is not None:
            self.first(step)
        elif self.share.index == 0:
            step()


DEFAULT: Final = Launch()
"""On all cores of this process, on the fastest path that there is, watched by nobody."""
