"""Training a predictor within a budget of time: steps on training rows, chosen by the error on validation rows."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_datasets.predictors.augment import augmented
from zoo_datasets.predictors.base import Model
from zoo_datasets.predictors.statistics import Statistics

# Share of the budget in which the learning rate grows, and between two measurements on validation, which are further
# apart where they would take more than a tenth of the time.
_WARM_UP = 0.05
_BETWEEN = 0.04
_TRAINING = 9  # seconds at least between measurements, of each second that the last one took
_READ = 256
# Called with the share of the budget that is used.
Tick = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Networks and what is to be predicted of them.

    Attributes:
        weights: float32 [N, D].
        activation: int64 [N], places in the activations of the weight space.
        targets: float64 [N, outputs] with NaN where unknown; or classes int64 [N].
    """

    weights: Tensor
    activation: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def to(self, device: torch.device) -> Rows:
        """On a device; targets in float32."""
        targets = self.targets if self.targets.dtype == torch.int64 else self.targets.float()
        return Rows(self.weights.to(device), self.activation.to(device), targets.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How long and how a predictor is trained.

    Attributes:
        seconds: of the clock, measuring on validation included.
        epochs: passes over the training rows, at most; None means as many as there is time for.
        seed: of the start, the order of rows, and the augmentation.
        augment: names of `AUGMENTATIONS`.
    """

    seconds: float
    epochs: int | None = None
    seed: int = 0
    augment: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Trained:
    """What training came to.

    Attributes:
        error: the best on validation: the mean square of standardised targets, or the share of wrong classes and
            a thousandth of their cross-entropy.
        steps, epochs: that were taken; of boosting, rounds and 1.
    """

    error: float
    steps: int
    epochs: float
    seconds: float


def fit(model: Model, train: Rows, validation: Rows, plan: Plan, tick: Tick | None = None) -> Trained:
    """Train a model, and leave it with the weights that were best on validation, on the CPU."""
    begun = time.perf_counter()
    with _one_thread():
        if isinstance(model, Statistics):
            trained = _boost(model, train, validation, plan, begun, tick)
        else:
            trained = _descend(model, train, validation, plan, begun, tick)
    return replace(trained, seconds=time.perf_counter() - begun)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch, unless the environment says how many: threads wait for each other actively, which took five
    times as long on a busy machine."""
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _boost(model: Statistics, train: Rows, validation: Rows, plan: Plan, begun: float, tick: Tick | None) -> Trained:
    def used() -> None:
        if tick:
            tick(min((time.perf_counter() - begun) / plan.seconds, 1.0))

    rounds = model.boost(
        (train.weights, train.targets),
        (validation.weights, validation.targets),
        classes=train.targets.dtype == torch.int64,
        seed=plan.seed,
        ends=begun + plan.seconds,
        tick=used,
    )
    return Trained(error_of(model, validation), rounds, 1.0, 0.0)


def _descend(model: Model, train: Rows, validation: Rows, plan: Plan, begun: float, tick: Tick | None) -> Trained:
    device = torch.device(plan.device)
    model.prepare(train.weights)
    model.to(device)
    train, validation = train.to(device), validation.to(device)
    config = model.config
    rates: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **rates, fused=device.type in ("cpu", "cuda"))
    generator = torch.Generator(device).manual_seed(plan.seed)
    torch.manual_seed(plan.seed)  # of dropout
    size = min(config.batch_size, len(train))
    per_epoch = max(len(train) // size, 1)
    best, kept = math.inf, copy.deepcopy(model.state_dict())
    step, measured, between = 0, 0.0, _BETWEEN
    order = torch.empty(0, dtype=torch.int64)
    while True:
        share = max(
            (time.perf_counter() - begun) / plan.seconds,
            step / (per_epoch * plan.epochs) if plan.epochs is not None else 0.0,
        )
        if step and (share - measured >= between or share >= 1):
            measured, started = share, time.perf_counter()
            error = error_of(model, validation)
            between = max(_BETWEEN, _TRAINING * (time.perf_counter() - started) / plan.seconds)
            if error < best:
                best, kept = error, copy.deepcopy(model.state_dict())
            if tick:
                tick(min(share, 1.0))
        if share >= 1 and step:
            break
        if step % per_epoch == 0:
            order = torch.randperm(len(train), generator=generator, device=device)
        where = order[step % per_epoch * size :][:size]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(share)
        _take_step(model, train, where, optimizer, plan.augment, generator)
        step += 1
    model.load_state_dict(kept)
    model.cpu().eval()
    return Trained(best, step, step / per_epoch, 0.0)


def _rate(share: float) -> float:
    """What the learning rate is multiplied by: up to 1, then down to 0 as a cosine."""
    return min(share / _WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 1e-4


def _take_step(
    model: Model,
    train: Rows,
    where: Tensor,
    optimizer: torch.optim.Optimizer,
    augment: tuple[str, ...],
    generator: torch.Generator,
) -> None:
    model.train()
    weights, activation = train.weights[where], train.activation[where]
    if augment:
        weights = augmented(weights, activation, model.space, augment, generator)
    loss = loss_of(model(weights, activation), train.targets[where])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), model.config.clip or math.inf)
    if bool(torch.isfinite(norm)):  # a network that diverged must not end the training
        optimizer.step()


def loss_of(predicted: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of classes; of numbers the mean square error over those that are known."""
    if targets.dtype == torch.int64:
        return nn.functional.cross_entropy(predicted, targets)
    known = ~targets.isnan()
    errors = torch.where(known, predicted - torch.nan_to_num(targets), torch.zeros_like(predicted))
    return errors.square().sum() / known.sum().clamp(min=1)


def error_of(model: Model, rows: Rows) -> float:
    """The error by which training is chosen; see `Trained`. Not finite means the worst."""
    predicted = predict(model, rows.weights, rows.activation)
    if rows.targets.dtype == torch.int64:
        wrong = (predicted.argmax(dim=1) != rows.targets.to(predicted.device)).double().mean()
        error = float(wrong + 1e-3 * loss_of(predicted, rows.targets.to(predicted.device)).clamp(max=100))
    else:
        # Networks that diverged count as wrong by ten deviations at most.
        targets = rows.targets.to(predicted)
        off = (predicted - torch.nan_to_num(targets)).clamp(-10, 10).square()
        known = ~targets.isnan()
        by_target = torch.where(known, off, torch.zeros_like(off)).sum(dim=0) / known.sum(dim=0).clamp(min=1)
        error = float(by_target.mean())
    return error if math.isfinite(error) else math.inf


@torch.no_grad()
def predict(model: Model, weights: Tensor, activation: Tensor) -> Tensor:
    """What a model says of weights [N, D], in batches, [N, outputs]."""
    training = model.training
    model.eval()
    parts = [
        model(weights[start : start + _READ], activation[start : start + _READ])
        for start in range(0, len(weights), _READ)
    ]
    model.train(training)
    return torch.cat(parts) if parts else torch.empty(0, model.outputs)
