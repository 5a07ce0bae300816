"""The parts of a build, one after another or several at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from queue import SimpleQueue

import pyarrow as pa

from zoo_datasets.builders.shards.ahead import ReadAhead
from zoo_datasets.builders.shards.part import BuildJob, Outcome, write_part
from zoo_datasets.builders.shards.plan import ShardPart
from zoo_datasets.builders.shards.rows import RowMaker
from zoo_datasets.stacked.threads import torch_workers
from zoo_datasets.storage.cores import cores

Finished = tuple[int, Outcome, pa.Table | None]


class _StoppedError(Exception):
    """Ends a thread whose result nobody wants any more."""


def run_parts(
    job: BuildJob, parts: Mapping[int, ShardPart], num_proc: int, progress: Callable[[int], None]
) -> Generator[Finished, None, None]:
    """Write the shards of parts; yields each part's number and the result of `write_part`, in any order.

    The expensive steps (reading, copying, compressing, hashing) release the GIL.

    Args:
        num_proc: parts that are read and written at a time, each by a thread; with one, all are written by this
            thread, in their order, while another one reads ahead where there is a core for it.
        progress: called in this thread with the number of states done since the last call.
    """
    rows = RowMaker(job.source, job.config)
    workers = min(num_proc, len(parts))
    if not parts:
        return
    if workers <= 1:
        with contextlib.ExitStack() as stack:
            if cores() > 1:
                ahead = stack.enter_context(ReadAhead(job.source, list(parts.values())))
                job = dataclasses.replace(job, ahead=ahead)
            for index, part in parts.items():
                yield index, *write_part(job, rows, part, progress)
        return
    stop = threading.Event()
    reports: SimpleQueue[int | Future[Finished]] = SimpleQueue()

    def report(states: int) -> None:
        if stop.is_set():
            raise _StoppedError
        reports.put(states)

    def write(index: int, part: ShardPart) -> Finished:
        return index, *write_part(job, rows, part, report)

    with torch_workers(workers) as pool:
        try:
            for index, part in parts.items():
                pool.submit(write, index, part).add_done_callback(reports.put)
            finished = 0
            while finished < len(parts):
                report_or_future = reports.get()
                if isinstance(report_or_future, int):
                    progress(report_or_future)
                else:
                    finished += 1
                    yield report_or_future.result()
        finally:
            stop.set()
