"""Training of a zoo into a run: check, open or let it grow, then hand its cohorts to an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from zoo_datasets.errors import SpecError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.spec import Limits, Member, ZooSpec
from zoo_datasets.training.engines.table import get_engine
from zoo_datasets.training.engines.watching import Watch
from zoo_datasets.training.engines.work import Share, Work
from zoo_datasets.training.population.opening import Opening, check_run
from zoo_datasets.training.steps.cohort import EpochReport

__all__ = ["Observer", "Share", "train_zoo"]


class Observer(Protocol):
    """Follows a training; `epoch` is called from worker threads."""

    def begin(self, run: Run, cohorts: Sequence[tuple[Cohort, Sequence[Member]]]) -> None:
        """All cohorts of the run, before the first step."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch of a cohort is on disk."""


def train_zoo(
    zoo: ZooSpec,
    out: Path,
    data: ImageData,
    *,
    models: int | None = None,
    epochs: int | None = None,
    limits: Limits | None = None,
    path: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    engine: str = "local",
    share: Share | None = None,
    observer: Observer | None = None,
    first: Callable[[Callable[[], None]], None] | None = None,
) -> Run:
    """Train a zoo into the run folder `out`, resuming where an earlier call stopped.

    Args:
        zoo: the zoo; must be dense.
        out: the run's folder; a run may grow in models and epochs, any other change is an error.
        data: the images of the zoo, without limits.
        models: number of members, the first in the zoo's hashed order; None means all.
        epochs: the last epoch; None means the zoo's.
        limits: numbers of images to train, validate and test on, the first of each split.
        path: engine path, `auto` or a name of `zoo_datasets.training.steps.paths.PATHS`.
        device: torch device of the plain-torch path.
        threads: blocks that train at the same time, on ray in each task; None means all cores.
        engine: where cohorts are trained, a name of `zoo_datasets.training.engines.table.ENGINES`.
        share: which of several processes this is; the call returns when all cohorts of the run are finished.
        observer: the first process's is called for each finished epoch, whichever process trained it.
        first: calls a function on the first of several processes while the others wait for it.

    Raises:
        SpecError: if the zoo cannot be trained, or not on these images.
        RunError: if `out` holds another run, or is asked to shrink.
        StorageError: if a file could not be written.
        KeyboardInterrupt: on Ctrl-C, after the workers have let go; finished epochs are on disk.
    """
    limits = limits or Limits()
    return train_population(
        lambda: check_run(zoo, out, data, models=models, epochs=epochs, limits=limits, path=path, device=device),
        data.limited(limits),
        device=device,
        threads=threads,
        engine=engine,
        share=share,
        observer=observer,
        first=first,
    )


def train_population(
    check: Callable[[], Opening],
    data: ImageData,
    *,
    device: str = "cpu",
    threads: int | None = None,
    engine: str = "local",
    share: Share | None = None,
    observer: Observer | None = None,
    first: Callable[[Callable[[], None]], None] | None = None,
) -> Run:
    """As `train_zoo`, for what `check` opens; `data` are the images after limits."""
    share = share or Share()
    engine_entry = get_engine(engine)
    if engine_entry.elsewhere and share.count > 1:
        raise SpecError(f"the {engine} engine starts processes itself; start this command once, found {share.count}")
    watch: Watch | None = None

    def begin() -> None:
        nonlocal watch
        opening = check()
        opening.save()
        if observer is not None:
            if engine_entry.elsewhere or share.count > 1:
                watch = Watch(opening.cohorts, observer.epoch)
            observer.begin(opening.run, opening.cohorts)

    if first is not None:
        first(begin)
    elif share.index == 0:
        begin()
    opening = check()
    direct = observer is not None and not engine_entry.elsewhere and share.count == 1
    engine_entry.train(
        Work(
            run=opening.run,
            cohorts=opening.cohorts,
            data=data,
            start=opening.population.start,
            path=opening.path,
            device=device,
            threads=threads,
            share=share,
            patient=share.count > 1,
        ),
        observer.epoch if observer is not None and direct else _ignore,
        _ignore if watch is None else watch.tick,
    )
    if watch is not None:
        watch.look()
    return opening.run


def _ignore(*_: object) -> None:
    """Ignore progress: there is no observer."""
