"""Training of a zoo into a run: open or grow it, plan the cohorts, train them, stop and go on anywhere."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import torch

import zoo_datasets
from zoo_datasets.architectures import get_architecture, layout_of
from zoo_datasets.errors import RunError, SpecError
from zoo_datasets.images import ImageData
from zoo_datasets.runs import Cohort, Growth, ImagesRecord, Run, RunManifest
from zoo_datasets.specs import Limits, Member, ZooSpec, members_of
from zoo_datasets.training.cohort_trainer import CohortTrainer, EpochReport, Job, Stopped
from zoo_datasets.training.cohorts import cohort_size, plan_cohorts
from zoo_datasets.training.paths import EnginePath, Workload, choose_path


class Observer(Protocol):
    """Follows a training; called from worker threads."""

    def begin(self, run: Run, cohorts: Sequence[tuple[Cohort, Sequence[Member]]]) -> None:
        """The cohorts that this process will train, before the first step."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch of a cohort is on disk."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which cohorts this process trains: those whose number is `index` modulo `count`."""

    index: int = 0
    count: int = 1


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
    share: Share | None = None,
    observer: Observer | None = None,
    barrier: Callable[[], None] | None = None,
) -> Run:
    """Train a zoo into the run folder `out`, going on where an earlier call stopped.

    Args:
        zoo: the zoo; must be dense.
        out: the run's folder; a run may grow in models and epochs, any other change is an error.
        data: the images of the zoo, without limits.
        models: the first so many members of the zoo's hashed order; None means all.
        epochs: the last epoch; None means the zoo's.
        limits: train, validate and test on the first so many images of each split.
        path: engine path, `auto` or a name of `zoo_datasets.training.paths.PATHS`.
        device: torch device of the plain-torch path.
        threads: blocks that train at the same time; None means all cores of this process.
        share: the part of the cohorts that this process trains.
        observer: is told of each finished epoch.
        barrier: waits for all processes; the first one writes zoo.json before it, the others read it after.

    Raises:
        SpecError: where the zoo cannot be trained, or not on these images.
        RunError: where `out` holds another run, or is asked to shrink.
        StorageError: where a file could not be written.
        KeyboardInterrupt: on Ctrl-C, after the workers have let go; finished epochs are on disk.
    """
    share = share or Share()
    limits = limits or Limits()
    zoo = dataclasses.replace(zoo, epochs=epochs or zoo.epochs)
    members = _checked_members(zoo, data, limits, models)
    if share.index == 0:
        open_run(zoo, out, data, Growth(models=len(members), epochs=zoo.epochs), limits, path, device)
    if barrier is not None:
        barrier()
    run = Run.open(out)
    engine = choose_path(path, run.manifest.engine, _workload(zoo, data, device))
    plan = plan_cohorts(members, run.manifest.growth, cohort_size(run.manifest.layout.size))
    mine = [(run.cohort(index), plan[index]) for index in range(share.index, len(plan), share.count)]
    if observer is not None:
        observer.begin(run, mine)
    _train_cohorts(run, data.limited(limits), mine, engine, threads or len(os.sched_getaffinity(0)), observer)
    if barrier is not None:
        barrier()
    return run


def _workload(zoo: ZooSpec, data: ImageData, device: str) -> Workload:
    return Workload(
        layers=get_architecture(zoo.architecture).layers(data.channels, data.classes),
        in_shape=(data.channels, data.size, data.size),
        augmentation=zoo.augmentation,
        device=device,
    )


def open_run(
    zoo: ZooSpec, out: Path, data: ImageData, size: Growth, limits: Limits, path: str, device: str = "cpu"
) -> Run:
    """Create the run, or open it and let it grow to `size`.

    Raises:
        RunError: where the folder holds something else, another run, or a larger one.
    """
    limited = data.limited(limits)
    manifest = RunManifest(
        zoo=zoo,
        growth=(size,),
        limits=limits,
        images=ImagesRecord(
            name=zoo.images,
            fingerprint=data.fingerprint,
            channels=data.channels,
            classes=data.classes,
            train=len(limited.train.labels),
            val=0 if limited.val is None else len(limited.val.labels),
            test=len(limited.test.labels),
        ),
        layout=layout_of(zoo.architecture, data.channels, data.classes),
        engine="",
        versions={"zoo_datasets": zoo_datasets.__version__, "torch": torch.__version__},
    )
    if not Run.exists(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} holds something else than a run (there is no zoo.json); choose another --out")
        engine = choose_path(path, None, _workload(zoo, data, device))
        run = Run(out, dataclasses.replace(manifest, engine=engine.name))
        run.save()
        return run
    run = Run.open(out)
    grown = _grown(run, manifest, size)
    engine = choose_path(path, run.manifest.engine, _workload(zoo, data, device))
    if engine.name not in run.manifest.engine.split("+"):
        grown = dataclasses.replace(grown, engine=f"{run.manifest.engine}+{engine.name}")
    if grown != run.manifest:
        run.manifest = grown
        run.save()
    return run


def _checked_members(zoo: ZooSpec, data: ImageData, limits: Limits, models: int | None) -> list[Member]:
    if zoo.parent is not None:
        raise SpecError(
            f"{zoo.name} is a sparsified twin of {zoo.parent}: it is made from a trained run of {zoo.parent}, "
            f"not trained from nothing. Train {zoo.parent} first"
        )
    size = get_architecture(zoo.architecture).input_size
    if size is not None and size != data.size:
        raise SpecError(f"{zoo.architecture} takes {size} × {size} images, found {data.size} × {data.size}")
    try:
        return members_of(zoo, limits, models)
    except ValueError as error:
        raise SpecError(f"{error}; pass --models with at most {zoo.models:,}") from error


def _grown(run: Run, asked: RunManifest, size: Growth) -> RunManifest:
    """The manifest with `size` added where it is larger; anything else that differs is an error."""
    there = run.manifest
    if there.images.fingerprint != asked.images.fingerprint:
        raise RunError(
            f"{run.path} was trained on other images: fingerprint {there.images.fingerprint} there, "
            f"{asked.images.fingerprint} now. Pass the images it was trained on, or another --out"
        )
    differences = _differences(there, asked)
    if differences:
        raise RunError(
            f"{run.path} is a run of another recipe: {'; '.join(differences)}. A run may grow in models and "
            "epochs only; choose another --out for another recipe"
        )
    last = there.growth[-1]
    if size.models < last.models or size.epochs < last.epochs:
        raise RunError(
            f"{run.path} holds {last.models} models to epoch {last.epochs}, and a run does not shrink: "
            f"{size.models} models to epoch {size.epochs} were asked for. Ask for as many, or use another --out"
        )
    if size == last:
        return there
    if size.epochs > last.epochs and there.zoo.scheduler:
        raise RunError(
            f"{run.path} was trained with the {there.zoo.scheduler} schedule over {last.epochs} epochs; "
            f"to {size.epochs} epochs is another training. Choose another --out"
        )
    return dataclasses.replace(there, zoo=asked.zoo, growth=(*there.growth, size))


def _differences(there: RunManifest, asked: RunManifest) -> list[str]:
    differences = []
    for part in ("zoo", "limits", "images"):
        old, new = (dataclasses.asdict(getattr(manifest, part)) for manifest in (there, asked))
        for name in old:
            if old[name] != new[name] and (part, name) != ("zoo", "epochs"):
                differences.append(f"{part}.{name} is {old[name]} there and {new[name]} here")
    if there.layout != asked.layout:
        differences.append("the layout of the weights differs")
    return differences


def _train_cohorts(
    run: Run,
    data: ImageData,
    cohorts: Sequence[tuple[Cohort, Sequence[Member]]],
    engine: EnginePath,
    threads: int,
    observer: Observer | None,
) -> None:
    stop = threading.Event()
    own_threads = torch.get_num_threads()
    # Blocks are the unit of parallelism: each computes on one thread, which also fixes its rounding.
    workers = ThreadPoolExecutor(threads, "block", initializer=torch.set_num_threads, initargs=(1,))
    drivers = ThreadPoolExecutor(threads, "cohort", initializer=torch.set_num_threads, initargs=(1,))
    job = Job(
        zoo=run.manifest.zoo,
        layers=get_architecture(run.manifest.zoo.architecture).layers(data.channels, data.classes),
        data=data,
        last_epoch=run.epochs,
        lanes=engine.lanes,
        make_block=engine.make_block,
        workers=workers,
        stop=stop,
    )
    report = (lambda _: None) if observer is None else observer.epoch

    def train(cohort: Cohort, members: Sequence[Member]) -> None:
        if not stop.is_set():
            CohortTrainer(job, cohort, members).run(report)

    futures = [drivers.submit(train, cohort, members) for cohort, members in cohorts]
    try:
        # Waking up now and then lets Ctrl-C through.
        while any(not future.done() for future in futures) and not any(map(_failed, futures)):
            wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
    finally:
        stop.set()
        drivers.shutdown(cancel_futures=True)
        workers.shutdown()
        torch.set_num_threads(own_threads)
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, Stopped):
            raise error


def _failed(future: Any) -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None
