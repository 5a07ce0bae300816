"""The processes that share an epoch, and what they report of an iteration to Accelerate, as its own loaders do.

Accelerate is asked only where the program has imported and initialised it: importing it takes a second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Reporting:
    """A loader that Accelerate's gradient state may hold; see accelerate.data_loader.DataLoaderStateMixin.

    Attributes:
        end_of_dataloader: whether the last batch of the epoch is in use: gradients are then applied, however many
            batches they were to be accumulated over.
        remainder: how many samples of the last round, over all processes, are no repetitions, which is what
            `gather_for_metrics` leaves of it; 0 is all of them, −1 not known.
    """

    end_of_dataloader = False
    remainder = -1
    _iteration: object = None

    @contextmanager
    def reporting(self, remainder: int) -> Iterator[None]:
        """Be the loader that Accelerate knows to be iterated, until the iteration ends or is left."""
        state = _gradient_state()
        if state is None or _reports_for(state, self):
            yield
            return
        self._iteration = iteration = object()
        self.end_of_dataloader, self.remainder = False, remainder
        state._remove_dataloader(self)
        state._add_dataloader(self)
        try:
            yield
        finally:
            # An iteration that was left in the middle may end after another has begun.
            if self._iteration is iteration:
                state._remove_dataloader(self)


def place() -> tuple[int, int]:
    """(rank, ranks) of this process: Accelerate's where it is initialised, else torch.distributed's, else (0, 1)."""
    state = _initialised("PartialState")
    if state is not None:
        return int(state.process_index), int(state.num_processes)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def device_of_process() -> torch.device | None:
    """Where an Accelerator of this process wants its batches; None if there is no Accelerator."""
    state = _initialised("AcceleratorState")
    return None if state is None else state.device


def reads_for_others(batches: object) -> bool:
    """Whether a loader of Accelerate iterates over the batches that would share them out among processes itself."""
    state = _gradient_state()
    if state is None or place()[1] == 1:
        return False
    loaders = sys.modules["accelerate.data_loader"]
    active = state.active_dataloader
    if isinstance(active, loaders.DataLoaderDispatcher):
        return active.dataset is batches
    dataset = getattr(active, "dataset", None)
    return isinstance(dataset, loaders.IterableDatasetShard) and dataset.dataset is batches


def skipped_batches(batches: object) -> int:
    """How many batches the loader of `accelerate.skip_first_batches` that iterates over them will drop."""
    active: Any = getattr(_gradient_state(), "active_dataloader", None)
    return int(active.skip_batches) if _is_skipping(active, batches) else 0


def _reports_for(state: Any, loader: object) -> bool:
    """Whether a loader of Accelerate that reads from this one reports in its place; one that skips tells no end."""
    active = state.active_dataloader
    if active is loader or getattr(active, "dataset", None) is not loader:
        return False
    return not _is_skipping(active, loader)


def _is_skipping(active: Any, batches: object) -> bool:
    loaders = sys.modules.get("accelerate.data_loader")
    return loaders is not None and isinstance(active, loaders.SkipDataLoader) and active.dataset is batches


def _gradient_state() -> Any:
    return _initialised("GradientState")


def _initialised(name: str) -> Any:
    """A state of Accelerate's, which all of a process share; None if nothing has initialised it."""
    states = sys.modules.get("accelerate.state")  # who initialised it has imported it
    kind = getattr(states, name, None)
    return kind() if kind is not None and kind._shared_state else None
