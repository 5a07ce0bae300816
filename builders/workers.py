"""The parts of a build, one after another or in several processes."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow as pa
import torch

from zoo_datasets.builders.parts import Job, OnBad, Outcome, write_part
from zoo_datasets.builders.plan import Part
from zoo_datasets.builders.source import RowMaker, Source
from zoo_datasets.errors import RepositoryError
from zoo_datasets.files import remove_temporaries

# A forked process has the opened source at once, as those of `datasets` and of torch's DataLoader; elsewhere threads
# of the system's libraries forbid it, and a new process opens the source again.
START = "fork" if sys.platform == "linux" else "spawn"

Work = tuple[Job, RowMaker]


def run_parts(
    job: Job,
    parts: Mapping[int, Part],
    num_proc: int,
    reopen: Callable[[], Source] | None,
    progress: Callable[[int], None],
) -> Iterator[tuple[int, Outcome, pa.Table | None]]:
    """Write the shards of parts; yields each part's number and what `write_part` gives, in any order.

    Args:
        num_proc: processes; with one, the parts are written by this one, in their order.
        reopen: opens the source again in another process; where processes cannot be forked and there is none, this
            process does all.
        progress: called with the number of states done since the last call.

    Raises:
        RepositoryError: where a process died.
    """
    processes = min(num_proc, len(parts))
    if processes <= 1 or (START != "fork" and reopen is None):
        rows = RowMaker(job.source, job.config)
        for index, part in parts.items():
            yield index, *write_part(job, rows, part, progress)
        return
    work: Callable[[], Work] = functools.partial(_same, job)
    if START != "fork" and reopen is not None:
        work = functools.partial(_opened, reopen, job.repo, job.config, job.keep_nonfinite, job.on_bad)
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context(START), initializer=_begin, initargs=(work,)
    )
    try:
        with warnings.catch_warnings():
            # Of forking with threads: those of this process wait for work while it forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            futures = {pool.submit(_write, part): index for index, part in parts.items()}
        for future in as_completed(futures):
            outcome, narrow = future.result()
            progress(outcome.done)
            yield futures[future], outcome, narrow
    except BrokenProcessPool as error:
        raise RepositoryError(
            f"a process that wrote shards of {job.repo / job.config} died, for want of memory perhaps; the repository "
            "is unchanged and finished shards are kept. Run the command again, with a smaller --num-proc"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        remove_temporaries(job.repo / job.config)


_work: Work | None = None


def _begin(work: Callable[[], Work]) -> None:
    """Make a new process ready: it ends with the one that began it, and works on one thread."""
    global _work
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(1)
    _work = work()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _write(part: Part) -> tuple[Outcome, pa.Table | None]:
    assert _work is not None
    job, rows = _work
    return write_part(job, rows, part)


def _same(job: Job) -> Work:
    return job, RowMaker(job.source, job.config)


def _opened(reopen: Callable[[], Source], repo: Path, config: str, keep_nonfinite: bool, on_bad: OnBad) -> Work:
    source = reopen()
    return _same(Job(source=source, repo=repo, config=config, keep_nonfinite=keep_nonfinite, on_bad=on_bad))
