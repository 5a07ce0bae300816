"""A block of members in training: state, steps and evaluation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from zoo_datasets.architectures import Layer, build_layout
from zoo_datasets.images import ImageData, Split
from zoo_datasets.stacked.augmentation import augment
from zoo_datasets.stacked.network import Masks, StackedNetwork, lanes_of
from zoo_datasets.stacked.optimizers import OPTIMIZERS, State, StepSettings
from zoo_datasets.stacked.streams import dropout_masks, permutations

EVALUATION_BATCH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRecipe:
    """What the members of a block share, and what each has of its own (tensors of length K).

    Attributes:
        seeds: int64 [K].
        dropout: rates, float64 [K].
    """

    layers: tuple[Layer, ...]
    activation: str
    optimizer: str
    batch_size: int
    augmentation: tuple[str, ...]
    seeds: Tensor
    dropout: Tensor


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over images: of the cross-entropy, float64 [K], and of correct predictions, int64 [K]."""

    loss: Tensor
    correct: Tensor
    images: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.loss + other.loss, self.correct + other.correct, self.images + other.images)

    @property
    def mean_loss(self) -> Tensor:
        """Mean cross-entropy, float64 [K]."""
        return self.loss / self.images

    @property
    def accuracy(self) -> Tensor:
        """Share of correct predictions, float64 [K]."""
        return self.correct.to(torch.float64) / self.images


class Block(Protocol):
    """Members that train as one, on any engine path. `TorchBlock` says what each method does."""

    recipe: BlockRecipe

    def load(self, weights: Tensor, state: State | None = None) -> None: ...

    def store(self) -> tuple[Tensor, State]: ...

    def order(self, epoch: int, size: int) -> Tensor: ...

    def train(
        self, split: Split, order: Tensor, *, epoch: int, first_step: int, settings: Sequence[StepSettings]
    ) -> Tally: ...

    def evaluate(self, split: Split) -> Tally: ...


class TorchBlock:
    """Up to so many members that train as one, in plain PyTorch on any device.

    `load` sets the weights and the optimizer state, `train` takes optimizer steps, `evaluate` measures,
    `store` gives weights and optimizer state back. All in float32 unless `dtype` says otherwise.
    """

    def __init__(
        self,
        recipe: BlockRecipe,
        data: ImageData,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.recipe = recipe
        self._data = data
        self._device = torch.device(device)
        self._dtype = dtype
        self._members = len(recipe.seeds)
        # The last member fills the lanes that are left over; its copies are dropped again in `store`.
        self._lanes = torch.arange(max(lanes_of(recipe.layers), self._members)).clamp(max=self._members - 1)
        self._seeds = recipe.seeds[self._lanes].to(self._device)
        self._dropout = recipe.dropout[self._lanes].to(self._device)
        self._layout = build_layout(recipe.layers)
        self._network = StackedNetwork(recipe.layers, recipe.activation)
        self._optimizer = OPTIMIZERS[recipe.optimizer]
        self._has_dropout = bool((recipe.dropout > 0).any())
        self._parameters = torch.empty(0)
        self._buffers: dict[str, Tensor] = {}
        self._state: State = {}

    def load(self, weights: Tensor, state: State | None = None) -> None:
        """Take over weights [K, D] and the optimizer state, each [K, P]; None is that before any step."""
        weights = weights[self._lanes].to(self._device, self._dtype)
        named = self._layout.unflatten(weights)
        self._parameters = torch.cat(
            [named[spec.name].flatten(1) for spec in self._layout.tensors if spec.kind == "parameter"], dim=1
        )
        self._buffers = {spec.name: named[spec.name].clone() for spec in self._layout.tensors if spec.kind == "buffer"}
        if state is None:
            self._state = self._optimizer.fresh(self._parameters)
        else:
            self._state = {
                name: state[name][self._lanes].to(self._device, self._dtype) for name in self._optimizer.state
            }

    def store(self) -> tuple[Tensor, State]:
        """Weights [K, D] and optimizer state [K, P], on the CPU."""
        tensors = self._tensors()
        weights = torch.cat([tensors[spec.name].flatten(1) for spec in self._layout.tensors], dim=1)
        state = {name: tensor[: self._members].cpu().clone() for name, tensor in self._state.items()}
        return weights[: self._members].cpu(), state

    def order(self, epoch: int, size: int) -> Tensor:
        """The order of `size` images in an epoch: int64 [lanes, size]."""
        return permutations(self._seeds, epoch, size)

    def train(
        self, split: Split, order: Tensor, *, epoch: int, first_step: int, settings: Sequence[StepSettings]
    ) -> Tally:
        """Take `len(settings)` steps from step `first_step` of an epoch; gives the running train metrics."""
        size = self.recipe.batch_size
        tally = Tally(self._zeros(torch.float64), self._zeros(torch.int64), 0)
        for offset, step_settings in enumerate(settings):
            step = first_step + offset
            index = order[:, step * size : (step + 1) * size]
            loss, correct, gradients = self.gradients(split, index, epoch=epoch, step=step)
            self._optimizer.update(self._parameters, gradients, self._state, self._widen(step_settings))
            tally += Tally(loss.to(torch.float64) * index.shape[1], correct, index.shape[1])
        return self._members_of(tally)

    def gradients(self, split: Split, index: Tensor, *, epoch: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass: mean cross-entropy [lanes], correct predictions [lanes], gradients [lanes, P]."""
        pixels = split.images[index]
        if self.recipe.augmentation:
            pixels = augment(pixels, self.recipe.augmentation, self._seeds, epoch=epoch, step=step)
        images = self._data.normalise(pixels, self._dtype)
        labels = split.labels[index]
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self._parameter_views().items()}
        with torch.enable_grad():
            logits = self._network(leaves | self._buffers, images, training=True, masks=self._masks(epoch, step))
            losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss = losses.view(labels.shape).mean(dim=1)
        gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
        correct = (logits.argmax(dim=2) == labels).sum(dim=1)
        return loss.detach(), correct, torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)

    @torch.no_grad()
    def evaluate(self, split: Split, batch_size: int = EVALUATION_BATCH) -> Tally:
        """Loss and accuracy on all images of a split, without dropout, with BatchNorm's running statistics."""
        tally = Tally(self._zeros(torch.float64), self._zeros(torch.int64), 0)
        tensors = self._tensors()
        for start in range(0, len(split.labels), batch_size):
            images = self._data.normalise(split.images[start : start + batch_size], self._dtype)
            labels = split.labels[start : start + batch_size].expand(len(self._lanes), -1)
            logits = self._network(tensors, images)
            losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            correct = (logits.argmax(dim=2) == labels).sum(dim=1)
            tally += Tally(losses.view(labels.shape).to(torch.float64).sum(dim=1), correct, labels.shape[1])
        return self._members_of(tally)

    def _parameter_views(self) -> dict[str, Tensor]:
        views = {}
        start = 0
        for spec in self._layout.tensors:
            if spec.kind == "parameter":
                part = self._parameters[:, start : start + spec.size]
                views[spec.name] = part.reshape(len(self._lanes), *spec.shape)
                start += spec.size
        return views

    def _tensors(self) -> dict[str, Tensor]:
        return self._parameter_views() | self._buffers

    def _masks(self, epoch: int, step: int) -> Masks | None:
        if not self._has_dropout:
            return None

        def mask(layer: int, count: int) -> Tensor:
            return dropout_masks(
                self._seeds, self._dropout, epoch=epoch, step=step, layer=layer, count=count, dtype=self._dtype
            )

        return mask

    def _widen(self, settings: StepSettings) -> StepSettings:
        """Settings of the members as settings of the lanes, on the device."""

        def lanes(values: Tensor) -> Tensor:
            return values[self._lanes].to(self._device, self._dtype)

        return StepSettings(
            lr=lanes(settings.lr),
            momentum=lanes(settings.momentum),
            weight_decay=lanes(settings.weight_decay),
            count=settings.count,
        )

    def _members_of(self, tally: Tally) -> Tally:
        return Tally(tally.loss[: self._members].cpu(), tally.correct[: self._members].cpu(), tally.images)

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(len(self._lanes), dtype=dtype, device=self._device)
