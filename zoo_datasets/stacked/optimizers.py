"""Optimizers of a stack: the updates of torch.optim on flat parameters [K, P], each member with its own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """What one optimizer step of K members needs besides the gradients; all tensors float [K].

    `count` is the number of steps that came before in the whole training; `momentum` is 0 for kinds without one.
    """

    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor
    count: int


State = dict[str, Tensor]


def adam(parameters: Tensor, gradients: Tensor, state: State, settings: StepSettings) -> None:
    """One step of torch.optim.Adam (Kingma & Ba 2015) with L2 weight decay, in place on [K, P]."""
    beta1, beta2 = ADAM_BETAS
    step = settings.count + 1
    gradients = gradients + settings.weight_decay[:, None] * parameters
    exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
    exp_avg.lerp_(gradients, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_((1 - beta2**step) ** 0.5).add_(ADAM_EPS)
    parameters -= (settings.lr / (1 - beta1**step))[:, None] * exp_avg / denominator


def sgd(parameters: Tensor, gradients: Tensor, state: State, settings: StepSettings) -> None:
    """One step of torch.optim.SGD with momentum and L2 weight decay, in place on [K, P]."""
    gradients = gradients + settings.weight_decay[:, None] * parameters
    # A buffer of zeros makes the first step what torch does by copying the gradient.
    buffer = state["momentum_buffer"].mul_(settings.momentum[:, None]).add_(gradients)
    parameters -= settings.lr[:, None] * buffer


@dataclass(frozen=True, slots=True)
class OptimizerKind:
    """An optimizer.

    Attributes:
        update: one step in place, on parameters, gradients and state [K, P].
        state: names of its state tensors, each [K, P] and zero at first.
        momentum: whether it takes the zoo's momentum.
    """

    update: Callable[[Tensor, Tensor, State, StepSettings], None]
    state: tuple[str, ...]
    momentum: bool = False


OPTIMIZERS: dict[str, OptimizerKind] = {
    "adam": OptimizerKind(adam, ("exp_avg", "exp_avg_sq")),
    "sgd": OptimizerKind(sgd, ("momentum_buffer",), momentum=True),
}
