"""Learning rate and momentum over the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Learning rate as a factor of the member's, and the momentum that replaces the member's (None: keep it)."""

    lr_factor: float
    momentum: float | None


Schedule = Callable[[int, int], Scheduled]

# torch.optim.lr_scheduler.OneCycleLR's defaults.
_RISE = 0.3
_DIVISOR = 25.0
_FINAL_DIVISOR = 1e4
_MOMENTUM = (0.85, 0.95)


def constant(step: int, steps: int) -> Scheduled:
    """The member's own settings at every step."""
    return Scheduled(1.0, None)


def one_cycle(step: int, steps: int) -> Scheduled:
    """OneCycleLR with torch's defaults (Smith & Topin 2017), cycling momentum the other way.

    Args:
        step: 0-based over the whole training of `steps` steps.
    """
    start, end = 1 / _DIVISOR, 1 / (_DIVISOR * _FINAL_DIVISOR)
    low, high = _MOMENTUM
    top = _RISE * steps - 1
    if step <= top:
        share = step / top
        return Scheduled(_cosine(start, 1.0, share), _cosine(high, low, share))
    share = (step - top) / (steps - 1 - top)
    return Scheduled(_cosine(1.0, end, share), _cosine(low, high, share))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))


def cosine(step: int, steps: int) -> Scheduled:
    """CosineAnnealingLR over all steps, down to 0 (Loshchilov & Hutter 2017), without restarts."""
    return Scheduled(_cosine(1.0, 0.0, step / steps), None)


SCHEDULES: dict[str | None, Schedule] = {None: constant, "onecycle": one_cycle, "cosine": cosine, "step": constant}
"""By name; of `step`, the members' own decays are all."""

DECAY_FACTOR = 0.1


@dataclass(frozen=True, slots=True)
class Decay:
    """StepLR: after every so many epochs the learning rate is multiplied by the factor."""

    epochs: int
    factor: float


def scheduled(
    name: str | None, step: int, steps: int, warmup: int = 0, decay: Decay | None = None, steps_an_epoch: int = 1
) -> Scheduled:
    """What a schedule says of a step, 0-based over a training of `steps` steps.

    Args:
        warmup: steps over which the learning rate rises linearly from 1 / warmup of the member's to all of it, before
            the schedule begins: `SequentialLR` of `LinearLR` and the schedule.
        decay: of epochs since the training began, warm-up included.
    """
    if step < warmup:
        return Scheduled((step + 1) / warmup, None)
    now = SCHEDULES[name](step - warmup, max(steps - warmup, 1))
    if decay is None:
        return now
    return Scheduled(now.lr_factor * decay.factor ** (step // steps_an_epoch // decay.epochs), now.momentum)
