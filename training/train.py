"""Training of a zoo into a run: check, open or let it grow, then hand its cohorts to an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from zoo_datasets.documents import StrPath
from zoo_datasets.errors import SpecError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.training.engines.table import get_engine
from zoo_datasets.training.engines.watching import Watch
from zoo_datasets.training.engines.work import Work
from zoo_datasets.training.launch import DEFAULT, Launch, Observer, Share
from zoo_datasets.training.population.opening import Opening, check_run

__all__ = ["Observer", "Share", "train_zoo"]


def train_zoo(
    zoo: ZooSpec,
    out: StrPath,
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
    out = Path(out)
    limits = limits or Limits()
    launch = Launch(
        path=path,
        device=device,
        threads=threads,
        engine=engine,
        share=share or Share(),
        observer=observer,
        first=first,
    )
    check = partial(check_run, zoo, out, data, models=models, epochs=epochs, limits=limits)
    return train_population(check, data.limited(limits), launch)


def train_population(check: Callable[[Launch], Opening], data: ImageData, launch: Launch = DEFAULT) -> Run:
    """As `train_zoo`, for what `check` opens; `data` are the images after limits."""
    engine, share, observer = get_engine(launch.engine), launch.share, launch.observer
    if engine.elsewhere and share.count > 1:
        raise SpecError(
            f"the {launch.engine} engine starts processes itself; start this command once, found {share.count}"
        )
    watched = observer is not None and (engine.elsewhere or share.count > 1)
    opening: Opening | None = None
    watch: Watch | None = None

    def begin() -> None:
        nonlocal opening, watch
        opening = check(launch)
        opening.save()
        if observer is not None:
            if watched:
                watch = Watch(opening.cohorts, observer.epoch)
            observer.begin(opening.run, opening.cohorts)

    launch.begin(begin)
    opening = opening or check(launch)  # the others find what the first process began
    engine.train(
        Work(
            run=opening.run,
            cohorts=opening.cohorts,
            data=data,
            start=opening.population.start,
            path=opening.path,
            device=launch.device,
            threads=launch.threads,
            share=share,
            patient=share.count > 1,
        ),
        _ignore if observer is None or watched else observer.epoch,
        _ignore if watch is None else watch.tick,
    )
    if watch is not None:
        watch.look()
    return opening.run


def _ignore(*_: object) -> None:
    """Ignore progress: there is no observer."""
