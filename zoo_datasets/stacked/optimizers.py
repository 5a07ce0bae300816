"""Optimizers of a stack: the updates of torch.optim on flat parameters [K, P], each member with its own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
RMSPROP_ALPHA, RMSPROP_EPS = 0.99, 1e-8
CLIP_EPS = 1e-6


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
    gradients = gradients + settings.weight_decay[:, None] * parameters
    _adam_step(parameters, gradients, state, settings)


def adamw(parameters: Tensor, gradients: Tensor, state: State, settings: StepSettings) -> None:
    """One step of torch.optim.AdamW (Loshchilov & Hutter 2019): the decay is beside the step, in place on [K, P]."""
    parameters *= (1 - settings.lr * settings.weight_decay)[:, None]
    _adam_step(parameters, gradients, state, settings)


def _adam_step(parameters: Tensor, gradients: Tensor, state: State, settings: StepSettings) -> None:
    beta1, beta2 = ADAM_BETAS
    step = settings.count + 1
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


def sgd_nesterov(parameters: Tensor, gradients: Tensor, state: State, settings: StepSettings) -> None:
    """One step of torch.optim.SGD with nesterov=True and L2 weight decay, in place on [K, P]."""
    gradients = gradients + settings.weight_decay[:, None] * parameters
    buffer = state["momentum_buffer"].mul_(settings.momentum[:, None]).add_(gradients)
    parameters -= settings.lr[:, None] * (gradients + settings.momentum[:, None] * buffer)


def rmsprop(parameters: Tensor, gradients: Tensor, state: State, settings: StepSettings) -> None:
    """One step of torch.optim.RMSprop (Hinton 2012), without momentum, with L2 weight decay, in place on [K, P]."""
    gradients = gradients + settings.weight_decay[:, None] * parameters
    square_avg = state["square_avg"].mul_(RMSPROP_ALPHA).addcmul_(gradients, gradients, value=1 - RMSPROP_ALPHA)
    parameters -= settings.lr[:, None] * gradients / square_avg.sqrt().add_(RMSPROP_EPS)


def clip(gradients: Tensor, norms: Tensor) -> Tensor:
    """Gradients [K, P], each member's scaled down to its norm, float [K]: `torch.nn.utils.clip_grad_norm_`.

    Without end the norm is that of a member whose gradients are not clipped.
    """
    scale: Tensor = (norms / (torch.linalg.vector_norm(gradients, dim=1) + CLIP_EPS)).clamp(max=1.0)
    return gradients * scale[:, None]


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
    "adamw": OptimizerKind(adamw, ("exp_avg", "exp_avg_sq")),
    "sgd": OptimizerKind(sgd, ("momentum_buffer",), momentum=True),
    "sgd_nesterov": OptimizerKind(sgd_nesterov, ("momentum_buffer",), momentum=True),
    "rmsprop": OptimizerKind(rmsprop, ("square_avg",)),
}
