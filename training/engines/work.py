"""What an engine carries out, and the interface of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zoo_datasets.errors import RunError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Member
from zoo_datasets.training.launch import EpochReport, Share
from zoo_datasets.training.population.opening import Start
from zoo_datasets.training.steps.paths import EnginePath


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What an engine carries out.

    Attributes:
        run: as it lies in its folder.
        cohorts: all of them, in the order of their numbers, each with its members.
        data: the images after limits.
        start: where members begin.
        path: how blocks are computed.
        device: torch device of the plain-torch path.
        threads: blocks that train at the same time; None means the engine's own choice.
        share: which part this process begins with.
        patient: whether to wait for cohorts that another process holds; otherwise they are an error.
    """

    run: Run
    cohorts: Sequence[tuple[Cohort, Sequence[Member]]]
    data: ImageData
    start: Start
    path: EnginePath
    device: str = "cpu"
    threads: int | None = None
    share: Share = field(default_factory=Share)
    patient: bool = False


class Train(Protocol):
    """Trains all cohorts to the run's last epoch and returns when they are finished.

    `report` is called for each epoch that this process finished; `tick` is called several times a second.
    """

    def __call__(self, work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None: ...


def raise_broken(errors: Sequence[RunError]) -> None:
    """Raise the errors of cohorts that could not be trained, after all others were."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise RunError(f"{len(errors)} cohorts could not be trained, the others were: {'; '.join(map(str, errors))}")
