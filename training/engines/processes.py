"""The processes of one launch by accelerate or torchrun: which one this is, and how they begin together."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from zoo_datasets.documents import brief, whole_number
from zoo_datasets.errors import RunError
from zoo_datasets.storage.cores import cores
from zoo_datasets.training.launch import Share

# How long the others wait while the first process reads the images; a download may take hours.
_PATIENCE = timedelta(days=2)


class Processes:
    """This process among those of its launch, by accelerate's state; a process started alone is the only one.

    They talk once or twice, at the beginning. Later each looks at the run's folder alone, so that none waits
    for another in a collective operation that would time out.
    """

    def __init__(self) -> None:
        import torch
        from accelerate import PartialState

        launched = "LOCAL_RANK" in os.environ
        # accelerate ignores torchrun on machines without an accelerator unless told to use the CPU, and what
        # little is said needs no GPU.
        options: dict[str, Any] = {"backend": "gloo", "timeout": _PATIENCE} if launched else {}
        # Processes of one machine share its cores.
        beside = whole_number(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched else 1
        try:
            if not beside:
                raise ValueError(f"LOCAL_WORLD_SIZE is {brief(os.environ['LOCAL_WORLD_SIZE'])}, expected 1 or more")
            state = PartialState(cpu=not torch.cuda.is_available(), **options)
        except ValueError as error:
            raise RunError(
                f"the environment variables of this launch make no sense: {error}; start it by `accelerate launch` or "
                "torchrun, or unset LOCAL_RANK"
            ) from error
        self.share = Share(index=state.process_index, count=state.num_processes)
        self.device = str(state.device) if state.device.type == "cuda" else "cpu"
        self.threads = max(1, cores() // beside)

    def first(self, step: Callable[[], None]) -> None:
        """Call `step` on the first process while the others wait; where it fails, the others exit silently."""
        succeeded = False
        try:
            if self.share.index == 0:
                step()
                succeeded = True
        finally:
            succeeded = self._told_by_first(succeeded)
        if not succeeded:
            raise SystemExit(1)

    def _told_by_first(self, value: bool) -> bool:
        if self.share.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]
