"""The local engine: cohorts on the threads of this process, beside other processes that do the same."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from zoo_datasets.errors import CohortInUseError, RunError
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.specs.members import Member
from zoo_datasets.stacked.threads import torch_workers
from zoo_datasets.storage.cores import cores
from zoo_datasets.training.engines.work import Work, raise_broken
from zoo_datasets.training.launch import EpochReport
from zoo_datasets.training.steps.cohort import CohortJob, CohortTrainer, Stopped

# Between two looks at cohorts that other processes hold.
_WAIT_SECONDS = 1.0

Entry = tuple[Cohort, Sequence[Member]]


def train_here(work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None:
    """Train the work's cohorts on threads, this process's share first.

    Where the work is patient, the process then takes over what nobody holds, be it that another process is
    behind or that it died, and returns when all cohorts are finished, whoever trained them. So no process
    need wait at a barrier for hours.

    Raises:
        RunError: if cohorts are broken on disk, after all others were trained.
        CohortInUseError: if another process holds a cohort and the work is not patient.
        KeyboardInterrupt: after the workers have let go; finished epochs are on disk.
    """
    threads = work.threads or cores()
    stop = threading.Event()
    broken: list[RunError] = []
    # Blocks are the unit of parallelism: each computes on one thread, which also fixes its rounding.
    with torch_workers(threads, "block", within=1) as workers, torch_workers(threads, "cohort", within=1) as drivers:
        job = _job_of(work, workers, stop)

        def train(entry: Entry) -> bool:
            """Whether the cohort is finished; not if another process is training it."""
            cohort, members = entry
            if stop.is_set() or (work.patient and _in_use(cohort)):
                return False
            try:
                # Those of others are as a rule finished: not worth making blocks for.
                if not (work.patient and cohort.resume_epoch() == job.last_epoch):
                    CohortTrainer(_of_network(job, work, members), cohort, members).run(report)
            except CohortInUseError:
                if not work.patient:
                    raise
                return False
            except RunError as error:
                broken.append(error)
            return True

        try:
            _train_all(_in_turn(work), train, drivers, tick)
        finally:
            stop.set()
    raise_broken(broken)


def _job_of(work: Work, workers: ThreadPoolExecutor, stop: threading.Event) -> CohortJob:
    zoo, parents = work.run.manifest.zoo, work.run.manifest.parents
    return CohortJob(
        zoo=zoo,
        layers=work.run.manifest.network.layers,
        data=work.data,
        start=work.start,
        epochs_before=0 if parents is None else parents.epoch,
        last_epoch=work.run.epochs,
        lanes=work.path.lanes_of(work.run.manifest.network.layers),
        make_block=work.path.make_block,
        workers=workers,
        stop=stop,
    )


def _of_network(job: CohortJob, work: Work, members: Sequence[Member]) -> CohortJob:
    """The job for the network that these members are."""
    layers = work.run.manifest.network_of(members[0]).layers
    return dataclasses.replace(job, layers=layers, lanes=work.path.lanes_of(layers))


def _in_turn(work: Work) -> list[Entry]:
    """The cohorts of this process, then those of others, from its own place on."""
    share, size = work.share, len(work.cohorts)
    own = range(share.index, size, share.count)
    rest = [] if share.count == 1 else [index for index in _from(share.index, size) if index not in own]
    return [work.cohorts[index] for index in (*own, *rest)]


def _train_all(
    left: list[Entry], train: Callable[[Entry], bool], drivers: ThreadPoolExecutor, tick: Callable[[], None]
) -> None:
    """Train cohorts until all are finished, and look again from time to time at those that others hold."""
    while left:
        futures = [drivers.submit(train, entry) for entry in left]
        _follow(futures, tick)
        left = [entry for entry, future in zip(left, futures, strict=True) if not future.result()]
        until = time.monotonic() + _WAIT_SECONDS
        while left and time.monotonic() < until:
            time.sleep(0.2)
            tick()


def _from(start: int, size: int) -> list[int]:
    """0 … size − 1, beginning at `start`: processes that look for work do not all look at the same place."""
    return [(start + offset) % size for offset in range(size)]


def _follow(futures: Sequence[Future[bool]], tick: Callable[[], None]) -> None:
    """Wait until all are done, or raise the first error."""
    while True:
        # Waking up now and then lets Ctrl-C through.
        done, running = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
        for future in done:
            error = future.exception()
            if error is not None and not isinstance(error, Stopped):
                raise error
        tick()
        if not running:
            return


def _in_use(cohort: Cohort) -> bool:
    try:
        with cohort.locked():
            return False
    except CohortInUseError:
        return True
