"""A block of members in training: state, steps and evaluation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layers.module import module_of
from zoo_datasets.networks.variational import LOG_SIGMA2, acting, kl_divergence, log_alpha, noise_bounds
from zoo_datasets.stacked.augmentation import augment
from zoo_datasets.stacked.network import VECTOR_LOOP, Masks, Noise, StackedNetwork, lanes_of
from zoo_datasets.stacked.optimizers import OPTIMIZERS, State, StepSettings, clip
from zoo_datasets.stacked.streams import dropout_masks, generator_seeds, layer_noise, permutations

EVALUATION_BATCH = 100
# Of a block's state, besides the optimizer's: what a twin needs to go on.
MASK = "mask"
TRAINED = "weights"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRecipe:
    """What the members of a block share, and what each has of its own (tensors of length K).

    Attributes:
        seeds: int64 [K].
        dropout: rates, float64 [K].
        variational: whether weights have noise that is trained with them (`zoo_datasets.networks.variational`).
        clip_norm: what gradients are scaled down to, float64 [K], without end where they are not; None: of no member.
        label_smoothing: of the loss that is trained, float64 [K]; None: of no member. Metrics are without it.
    """

    layers: tuple[Layer, ...]
    activation: str
    optimizer: str
    batch_size: int
    augmentation: tuple[str, ...]
    seeds: Tensor
    dropout: Tensor
    variational: bool = False
    clip_norm: Tensor | None = None
    label_smoothing: Tensor | None = None

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the optimizer's state tensors; those of log σ² follow in a variational block."""
        own = OPTIMIZERS[self.optimizer].state
        return (*own, *(f"{LOG_SIGMA2}.{name}" for name in own)) if self.variational else own


def evaluation_recipe(layers: Sequence[Layer], activation: str, seeds: Tensor) -> BlockRecipe:
    """The recipe of a block that is evaluated only.

    Args:
        seeds: int64 [K].
    """
    return BlockRecipe(
        layers=tuple(layers), activation=activation, optimizer="sgd", batch_size=1, augmentation=(), seeds=seeds,
        dropout=torch.zeros(len(seeds), dtype=torch.float64),
    )  # fmt: skip


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


class MemberBlock(Protocol):
    """Members that train as one, on any engine path. `TorchBlock` says what each method does."""

    recipe: BlockRecipe

    def load(self, weights: Tensor, state: State | None = None) -> None: ...

    def store(self) -> tuple[Tensor, State]: ...

    def order(self, epoch: int, size: int) -> Tensor: ...

    def train(
        self,
        split: Split,
        order: Tensor,
        *,
        epoch: int,
        first_step: int,
        settings: Sequence[StepSettings],
        kl_weight: float = 0.0,
    ) -> Tally: ...

    def evaluate(self, split: Split) -> Tally: ...


class TorchBlock:
    """Up to so many members that train as one, in plain PyTorch on any device.

    `load` sets the weights and the state, `train` takes optimizer steps, `evaluate` measures, `store` gives
    weights and state back. All in float32 unless `dtype` says otherwise. The state is the optimizer's, and of
    twins: `mask` [K, P], 0 where a weight is held at zero; or of a variational block `log_sigma2` [K, P], −∞ where
    a weight has no noise, and after the first step `weights` [K, P], those that are trained, while those stored
    and evaluated are the ones that act.
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
        module = module_of(recipe.layers)
        self._draws = module is not None and module.alone == "draws"
        self._has_dropout = bool((recipe.dropout > 0).any())
        self._clip_norm = self._of_lanes(recipe.clip_norm)
        self._smoothing = self._of_lanes(recipe.label_smoothing)
        self._bounds = self._bound_of_each().to(self._device, dtype)
        self._parameters = torch.empty(0)
        self._buffers: dict[str, Tensor] = {}
        self._state: State = {}

    def load(self, weights: Tensor, state: State | None = None) -> None:
        """Take over weights [K, D] and the state, each [K, P]; without the optimizer's, it is that before any step."""
        weights = weights[self._lanes].to(self._device, self._dtype)
        named = self._layout.unflatten(weights)
        self._parameters = torch.cat(
            [named[spec.name].flatten(1) for spec in self._layout.tensors if spec.kind == "parameter"], dim=1
        )
        self._buffers = {spec.name: named[spec.name].clone() for spec in self._layout.tensors if spec.kind == "buffer"}
        self._state = {
            name: tensor[self._lanes].to(self._device, self._dtype) for name, tensor in (state or {}).items()
        }
        self._parameters = self._state.pop(TRAINED, self._parameters)
        if not self._state.keys() & set(self.recipe.state):
            self._state |= {name: torch.zeros_like(self._parameters) for name in self.recipe.state}

    def store(self) -> tuple[Tensor, State]:
        """Weights [K, D], those that act, and the state [K, P], on the CPU."""
        tensors = self._tensors(self._acting())
        weights = torch.cat([tensors[spec.name].flatten(1) for spec in self._layout.tensors], dim=1)
        state = self._state | ({TRAINED: self._parameters} if self.recipe.variational else {})
        return weights[: self._members].cpu(), {
            name: tensor[: self._members].cpu().clone() for name, tensor in state.items()
        }

    def order(self, epoch: int, size: int) -> Tensor:
        """The order of `size` images in an epoch: int64 [lanes, size]."""
        return permutations(self._seeds, epoch, size)

    def train(
        self,
        split: Split,
        order: Tensor,
        *,
        epoch: int,
        first_step: int,
        settings: Sequence[StepSettings],
        kl_weight: float = 0.0,
    ) -> Tally:
        """Take `len(settings)` steps from step `first_step` of an epoch; gives the running train metrics.

        Args:
            kl_weight: share of the divergence in a variational block's loss; the metrics are without it.
        """
        size = self.recipe.batch_size
        tally = Tally(self._zeros(torch.float64), self._zeros(torch.int64), 0)
        for offset, step_settings in enumerate(settings):
            step = first_step + offset
            index = order[:, step * size : (step + 1) * size]
            loss, correct, gradients = self.gradients(split, index, epoch=epoch, step=step, kl_weight=kl_weight)
            self._update(gradients, self._widen(step_settings))
            tally += Tally(loss.to(torch.float64) * index.shape[1], correct, index.shape[1])
        return self._members_of(tally)

    def gradients(
        self, split: Split, index: Tensor, *, epoch: int, step: int, kl_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass: mean cross-entropy [lanes], correct predictions [lanes], gradients [lanes, P].

        In a variational block the gradients of log σ² follow those of the weights: [lanes, 2 P].
        """
        pixels = split.images[index]
        if self.recipe.augmentation:
            pixels = augment(pixels, self.recipe.augmentation, self._seeds, epoch=epoch, step=step)
        images = self._data.normalise(pixels, self._dtype)
        labels = split.labels[index]
        leaves = [self._parameters.detach().requires_grad_()]
        if self.recipe.variational:
            leaves.append(self._state[LOG_SIGMA2].detach().requires_grad_())
        with torch.enable_grad():
            alpha = self._log_alpha(*leaves) if self.recipe.variational else None
            noise = None if alpha is None else self._noise(leaves[0], alpha, epoch, step)
            logits = self._network(
                self._tensors(leaves[0]),
                images,
                training=True,
                masks=self._masks(epoch, step),
                noise=noise,
                generators=generator_seeds(self._seeds, epoch=epoch, step=step) if self._draws else None,
            )
            losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss = losses.view(labels.shape).mean(dim=1)
            total = loss.sum()
            if self._smoothing is not None:
                total = self._smoothed(loss, logits).sum()
            if alpha is not None and kl_weight:
                total = total + kl_weight * torch.where(self._bounds > 0, kl_divergence(alpha), 0.0).sum()
        gradients = torch.autograd.grad(total, leaves)
        correct = (logits.argmax(dim=2) == labels).sum(dim=1)
        return loss.detach(), correct, torch.cat(gradients, dim=1)

    @torch.no_grad()
    def evaluate(self, split: Split, batch_size: int = EVALUATION_BATCH) -> Tally:
        """Loss and accuracy on all images of a split, without dropout, with BatchNorm's running statistics."""
        tally = Tally(self._zeros(torch.float64), self._zeros(torch.int64), 0)
        tensors = self._tensors(self._acting())
        for start in range(0, len(split.labels), batch_size):
            images = self._data.normalise(split.images[start : start + batch_size], self._dtype)
            labels = split.labels[start : start + batch_size].expand(len(self._lanes), -1)
            logits = self._network(tensors, images)
            losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            correct = (logits.argmax(dim=2) == labels).sum(dim=1)
            tally += Tally(losses.view(labels.shape).to(torch.float64).sum(dim=1), correct, labels.shape[1])
        return self._members_of(tally)

    def _bound_of_each(self) -> Tensor:
        """The bound of each parameter's log α, [P]; 0 where it has no noise."""
        bounds = noise_bounds(self.recipe.layers)
        return torch.cat(
            [
                torch.full((spec.size,), bounds.get(spec.name, 0.0))
                for spec in self._layout.tensors
                if spec.kind == "parameter"
            ]
        )

    def _smoothed(self, loss: Tensor, logits: Tensor) -> Tensor:
        """The mean loss [lanes] with smoothed labels: a part of the target is spread over all classes."""
        assert self._smoothing is not None
        spread = -functional.log_softmax(logits, dim=2).mean(dim=(1, 2))
        return (1 - self._smoothing) * loss + self._smoothing * spread

    def _update(self, gradients: Tensor, settings: StepSettings) -> None:
        """One optimizer step; a held weight is zero, and so is its decay: without a gradient it stays."""
        own = OPTIMIZERS[self.recipe.optimizer].state
        if MASK in self._state:
            gradients = gradients * self._state[MASK]
        if self._clip_norm is not None:
            gradients = clip(gradients, self._clip_norm)
        weights, *noise = gradients.chunk(2, dim=1) if self.recipe.variational else (gradients,)
        self._optimizer.update(self._parameters, weights, {name: self._state[name] for name in own}, settings)
        if noise:
            state = {name: self._state[f"{LOG_SIGMA2}.{name}"] for name in own}
            free = torch.isfinite(self._state[LOG_SIGMA2])
            log_sigma2 = torch.where(free, self._state[LOG_SIGMA2], 0.0)
            self._optimizer.update(log_sigma2, noise[0], state, settings)
            self._state[LOG_SIGMA2] = torch.where(free, log_sigma2, self._state[LOG_SIGMA2])

    def _acting(self) -> Tensor:
        return acting(self._parameters, self._state[LOG_SIGMA2]) if self.recipe.variational else self._parameters

    def _log_alpha(self, weights: Tensor, log_sigma2: Tensor) -> Tensor:
        # Rows that fill the vectors: what is left over at the end of a tensor takes code with another rounding.
        surplus = -weights.shape[1] % VECTOR_LOOP
        wide, noise = (functional.pad(tensor, (0, surplus), value=1.0) for tensor in (weights, log_sigma2))
        return log_alpha(wide, noise, functional.pad(self._bounds, (0, surplus)))[:, : weights.shape[1]]

    def _noise(self, weights: Tensor, alpha: Tensor, epoch: int, step: int) -> Noise:
        named = self._views(torch.exp(alpha) * weights * weights)

        def draw(layer: int, batch: int, units: int) -> Tensor:
            return layer_noise(
                self._seeds, epoch=epoch, step=step, layer=layer, batch=batch, units=units, dtype=self._dtype
            )

        return Noise({name: named[name] for name in noise_bounds(self.recipe.layers)}, draw)

    def _views(self, parameters: Tensor) -> dict[str, Tensor]:
        specs = [spec for spec in self._layout.tensors if spec.kind == "parameter"]
        # Split at once: the gradient of each slice by itself would be a tensor of all parameters.
        parts = torch.split(parameters, [spec.size for spec in specs], dim=1)
        return {spec.name: part.reshape(len(self._lanes), *spec.shape) for spec, part in zip(specs, parts, strict=True)}

    def _tensors(self, parameters: Tensor) -> dict[str, Tensor]:
        return self._views(parameters) | self._buffers

    def _masks(self, epoch: int, step: int) -> Masks | None:
        if not self._has_dropout:
            return None

        def mask(layer: int, count: int) -> Tensor:
            return dropout_masks(
                self._seeds, self._dropout, epoch=epoch, step=step, layer=layer, count=count, dtype=self._dtype
            )

        return mask

    def _of_lanes(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else values[self._lanes].to(self._device, self._dtype)

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
