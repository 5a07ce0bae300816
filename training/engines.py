"""The engines: where the cohorts of a run are trained. Whatever the engine, the run folder is the only state."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo_datasets.errors import RunError, UnknownNameError
from zoo_datasets.images import ImageData
from zoo_datasets.runs import Cohort, Run
from zoo_datasets.specs import Member
from zoo_datasets.training.cohort_trainer import EpochReport
from zoo_datasets.training.opening import Start
from zoo_datasets.training.paths import EnginePath

_INSTALL = "pip install 'zoo-datasets"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The cohorts that a process begins with: those whose number is `index` modulo `count`, the processes."""

    index: int = 0
    count: int = 1


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
        patient: whether cohorts that another process holds are waited for; an error otherwise.
    """

    run: Run
    cohorts: Sequence[tuple[Cohort, Sequence[Member]]]
    data: ImageData
    start: Start
    path: EnginePath
    device: str = "cpu"
    threads: int | None = None
    share: Share = Share()
    patient: bool = False


class Train(Protocol):
    """Trains all cohorts to the run's last epoch and returns when they are finished.

    `report` is told of each epoch that this very process finished; `tick` is called several times a second.
    """

    def __call__(self, work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine.

    Attributes:
        elsewhere: whether other processes than this one do the training.
        extra: the extra of this package that it needs, named as the module in it.
    """

    train: Train
    elsewhere: bool = False
    extra: str | None = None


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: with the names that are near.
        RunError: where what it needs is not installed.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    engine = ENGINES[name]
    if engine.extra is not None and importlib.util.find_spec(engine.extra) is None:
        raise RunError(f"the {name} engine needs {engine.extra}, which is not installed; {_INSTALL}[{engine.extra}]'")
    return engine


def raise_broken(errors: Sequence[RunError]) -> None:
    """Raise what kept cohorts from being trained, after all others were."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise RunError(f"{len(errors)} cohorts could not be trained, the others were: {'; '.join(map(str, errors))}")


def _local(work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None:
    from zoo_datasets.training.local import train_here

    train_here(work, report, tick)


def _ray(work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None:
    from zoo_datasets.training.on_ray import train_on_ray

    train_on_ray(work, tick)


ENGINES: dict[str, Engine] = {
    "local": Engine(_local),
    "ray": Engine(_ray, elsewhere=True, extra="ray"),
}
