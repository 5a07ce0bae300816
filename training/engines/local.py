"""The local engine: cohorts on the threads of this process, beside other processes that do the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import torch

from zoo_datasets.errors import CohortInUseError, RunError
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.specs.spec import Member
from zoo_datasets.storage.cores import cores
from zoo_datasets.training.engines.work import Work, raise_broken
from zoo_datasets.training.steps.cohort import CohortTrainer, EpochReport, Job, Stopped

# Between two looks at cohorts that other processes hold.
_WAIT_SECONDS = 1.0

Entry = tuple[Cohort, Sequence[Member]]


def train_here(work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None:
    """Train the work's cohorts on threads, this process's share first.

    Where the work is patient, the process then takes over what nobody holds, be it that another process is
    behind or that it died, and returns when all cohorts are finished, whoever trained them. So no process
    need wait at a barrier for hours.

    Raises:
        RunError: where cohorts are broken on disk, after all others were trained.
        CohortInUseError: where another process holds a cohort and the work is not patient.
        KeyboardInterrupt: after the workers have let go; finished epochs are on disk.
    """
    threads = work.threads or cores()
    stop = threading.Event()
    own_threads = torch.get_num_threads()
    # Blocks are the unit of parallelism: each computes on one thread, which also fixes its rounding.
    workers = ThreadPoolExecutor(threads, "block", initializer=torch.set_num_threads, initargs=(1,))
    drivers = ThreadPoolExecutor(threads, "cohort", initializer=torch.set_num_threads, initargs=(1,))
    zoo = work.run.manifest.zoo
    job = Job(
        zoo=zoo,
        layers=get_architecture(zoo.architecture).layers(work.data.channels, work.data.classes),
        data=work.data,
        start=work.start,
        epochs_before=0 if work.run.manifest.parents is None else work.run.manifest.parents.epoch,
        last_epoch=work.run.epochs,
        lanes=work.path.lanes,
        make_block=work.path.make_block,
        workers=workers,
        stop=stop,
    )
    broken: list[RunError] = []
    share, size = work.share, len(work.cohorts)
    own = range(share.index, size, share.count)
    rest = [] if share.count == 1 else [index for index in _from(share.index, size) if index not in own]

    def train(entry: Entry) -> bool:
        """Whether the cohort is finished; it is not where another process is at it."""
        cohort, members = entry
        if stop.is_set() or (work.patient and _in_use(cohort)):
            return False
        try:
            # Those of others are as a rule finished: not worth making blocks for.
            if not (work.patient and cohort.resume_epoch() == job.last_epoch):
                CohortTrainer(job, cohort, members).run(report)
        except CohortInUseError:
            if not work.patient:
                raise
            return False
        except RunError as error:
            broken.append(error)
        return True

    left = [work.cohorts[index] for index in (*own, *rest)]
    try:
        while left:
            futures = [drivers.submit(train, entry) for entry in left]
            _follow(futures, tick)
            left = [entry for entry, future in zip(left, futures, strict=True) if not future.result()]
            until = time.monotonic() + _WAIT_SECONDS
            while left and time.monotonic() < until:
                time.sleep(0.2)
                tick()
    finally:
        stop.set()
        drivers.shutdown(cancel_futures=True)
        workers.shutdown()
        torch.set_num_threads(own_threads)
    raise_broken(broken)


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
