"""The ray engine: one task a cohort on a Ray cluster whose machines share the run's file system.

The run folder is the only state. A task whose worker or machine dies is started again and resumes from the
cohort's last finished epoch; a driver that died is started again by the same command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo_datasets.errors import RunError, ZooError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.images.split import Split
from zoo_datasets.networks.code import allow_code, allowed_code
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Member
from zoo_datasets.storage.cores import cores
from zoo_datasets.training.engines.local import train_here
from zoo_datasets.training.engines.work import Work, raise_broken
from zoo_datasets.training.population.opening import Start, workload
from zoo_datasets.training.steps.paths import choose_path

# A machine that is taken away costs a try; a cohort that kills every worker must come to an end.
_TRIES = 20
_POLL_SECONDS = 0.2
_STOP_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_STORE_SLACK = 200 * 2**20

Arrays = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def train_on_ray(work: Work, tick: Callable[[], None]) -> None:
    """Train the work's cohorts as tasks of Ray; connects to RAY_ADDRESS, else starts Ray on this machine.

    Raises:
        RunError: if the cluster cannot be reached, or a task's workers die repeatedly.
        ZooError: that a task raised; it is not tried again.
    """
    ray = _import_ray()
    left = [number for number, (cohort, _) in enumerate(work.cohorts) if not _is_finished(cohort, work.run.epochs)]
    if not left:
        return
    arrays = _to_arrays(work.data)
    with _cluster(ray, _size_of(arrays)):
        gpu = work.device.startswith("cuda")
        threads = work.threads or _threads(ray, work, len(left))
        # A task that is tried again is a new one: Ray's own retries can end the driver ("tried to complete task
        # that was not pending", seen with 2.60 after a worker was killed).
        task = ray.remote(_train_cohort).options(num_cpus=threads, num_gpus=int(gpu), max_retries=0)
        images = ray.put(arrays)
        shell = dataclasses.replace(work.data, train=_NOTHING, val=None, test=_NOTHING)
        device = "cuda" if gpu else "cpu"
        folder = work.run.path.resolve()

        def submit(number: int) -> Any:
            members = work.cohorts[number][1]
            return task.remote(folder, number, members, work.start, shell, images, device, threads, allowed_code())

        tasks = {submit(number): number for number in left}
        try:
            _follow(ray, work, tasks, submit, tick)
        finally:
            _stop(ray, list(tasks))


def _train_cohort(
    folder: Path,
    number: int,
    members: Sequence[Member],
    start: Start,
    shell: ImageData,
    arrays: Arrays,
    device: str,
    threads: int,
    allowed: Sequence[str] = (),
) -> ZooError | None:
    """Train one cohort to the run's last epoch; a ZooError is returned, so that Ray does not retry it."""
    try:
        allow_code(*allowed)
        run = Run.open(folder)
        data = _from_arrays(shell, arrays)
        train_here(
            Work(
                run=run,
                cohorts=[(run.cohort(number), members)],
                data=data,
                start=start,
                path=choose_path("auto", run.manifest.engine, workload(run.manifest.zoo, data, device)),
                device=device,
                threads=threads,
                # A worker that Ray gave up may still be at it for a moment.
                patient=True,
            ),
            lambda report: None,
            lambda: None,
        )
    except ZooError as error:
        return error
    return None


def _is_finished(cohort: Cohort, last: int) -> bool:
    try:
        return cohort.resume_epoch() == last
    except RunError:
        return False  # its task says what is the matter


def _follow(
    ray: Any, work: Work, tasks: dict[Any, int], submit: Callable[[int], Any], tick: Callable[[], None]
) -> None:
    """Wait until `tasks` (reference to number of the cohort) is empty, or raise the first error.

    A task whose worker died is submitted again, for at most `_TRIES` tries; a cohort that is broken on disk does not
    keep others from being trained.
    """
    broken: list[RunError] = []
    tries = dict.fromkeys(tasks.values(), 1)
    while tasks:
        done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=_POLL_SECONDS)
        tick()
        for reference in done:
            number = tasks.pop(reference)
            try:
                error = ray.get(reference)
            except ray.exceptions.RayTaskError:
                raise  # not an error of ours: a bug, and the trace says where
            except ray.exceptions.RayError as failure:
                if tries[number] < _TRIES:
                    tries[number] += 1
                    tasks[submit(number)] = number
                    continue
                raise RunError(
                    f"{work.cohorts[number][0].path}: its workers died or were lost {_TRIES} times, at last with: "
                    f"{failure}. Finished epochs are on disk; the same command goes on"
                ) from failure
            if isinstance(error, RunError):
                broken.append(error)
            elif error is not None:
                raise error
    raise_broken(broken)


def _stop(ray: Any, references: Sequence[Any]) -> None:
    """Ask all tasks that still run to stop, and give them time to let go of their cohorts."""
    with contextlib.suppress(ray.exceptions.RayError):
        for reference in references:
            ray.cancel(reference)
        ray.wait(list(references), num_returns=len(references), timeout=_STOP_SECONDS, fetch_local=False)


def _import_ray() -> Any:
    # Both are read when ray is imported or started; what the user set stands.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.exceptions

    return ray


@contextlib.contextmanager
def _cluster(ray: Any, bytes_of_images: int) -> Iterator[None]:
    """The cluster that the caller or RAY_ADDRESS names, or one of this machine's cores for so long."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    local: dict[str, Any] = {
        "address": "local",
        "num_cpus": cores(),
        "include_dashboard": False,
        "object_store_memory": bytes_of_images + _STORE_SLACK,
    }
    try:
        ray.init(
            **({"address": address} if address else local), logging_level=logging.ERROR, log_to_driver=False
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"Ray did not start or answer at {address or 'this machine'}: {error}; a cluster that wants a token also "
            "needs RAY_AUTH_MODE=token here"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes and say little."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # auto, local
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise RunError(f"no Ray at RAY_ADDRESS={address}: {error}; start it there, or unset RAY_ADDRESS") from error


def _threads(ray: Any, work: Work, tasks: int) -> int:
    """Cores for a task: one, or more where there are fewer cohorts than cores; not more than it has blocks."""
    machines = [machine["Resources"].get("CPU", 0) for machine in ray.nodes() if machine["Alive"]]
    network_of, lanes_of = work.run.manifest.network_of, work.path.lanes_of
    blocks = max(-(-len(members) // lanes_of(network_of(members[0]).layers)) for _, members in work.cohorts)
    return max(1, min(int(sum(machines)) // tasks, int(max(machines, default=1)), blocks))


# Arrays of NumPy lie in Ray's shared memory once a machine, whatever the number of tasks.

_NOTHING = Split(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))


def _to_arrays(data: ImageData) -> Arrays:
    return {role: (split.images.numpy(), split.labels.numpy()) for role, split in data.splits().items()}


def _from_arrays(shell: ImageData, arrays: Arrays) -> ImageData:
    with warnings.catch_warnings():
        # Ray's memory is read-only, of which torch warns; images are only read.
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        splits = {
            role: Split(torch.from_numpy(images), torch.from_numpy(labels)) for role, (images, labels) in arrays.items()
        }
    return dataclasses.replace(shell, train=splits["train"], val=splits.get("val"), test=splits["test"])


def _size_of(arrays: Arrays) -> int:
    return sum(array.nbytes for pair in arrays.values() for array in pair)
