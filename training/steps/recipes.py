"""What members that train as one block share, and the optimizer settings that each has of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.images.split import Split
from zoo_datasets.networks.kind import is_field
from zoo_datasets.networks.layers import Layer
from zoo_datasets.runs.manifest import FIELD_STEPS
from zoo_datasets.specs.members import Member
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.stacked import BlockRecipe, StepSettings
from zoo_datasets.training.sparsifiers import SPARSIFIERS
from zoo_datasets.training.steps.schedules import DECAY_FACTOR, Decay, scheduled


def seeds_of(members: Sequence[Member]) -> Tensor:
    """The members' seeds: int64 [K]."""
    return torch.tensor([member.seed for member in members], dtype=torch.int64)


def block_recipe(layers: tuple[Layer, ...], zoo: ZooSpec, members: Sequence[Member]) -> BlockRecipe:
    """The recipe of a block; the members share activation, optimizer and batch size."""
    first = members[0].hyperparameters
    return BlockRecipe(
        layers=layers,
        activation=first.activation,
        optimizer=first.optimizer,
        batch_size=1 if is_field(zoo.architecture) else first.batch_size,  # signals, all pixels of each
        augmentation=zoo.augmentation,
        seeds=seeds_of(members),
        dropout=torch.tensor([member.hyperparameters.dropout for member in members], dtype=torch.float64),
        variational=zoo.sparsifier is not None and SPARSIFIERS[zoo.sparsifier].variational,
        clip_norm=_column(members, "clip_norm", math.inf),
        label_smoothing=_column(members, "label_smoothing", 0.0),
    )


def _column(members: Sequence[Member], name: str, absent: float) -> Tensor | None:
    """A further hyperparameter of the members, float64 [K]; None where none of them has it."""
    values = [getattr(member.hyperparameters, name) for member in members]
    if all(value is None for value in values):
        return None
    return torch.tensor([absent if value is None else value for value in values], dtype=torch.float64)


def training_images(zoo: ZooSpec, split: Split, members: Sequence[Member]) -> Split:
    """Those of the training images that members of one share are trained on: the first ones, at least one; of fields
    as many empty ones as an epoch has steps."""
    if is_field(zoo.architecture):
        return Split(split.images.new_empty(FIELD_STEPS, 0), torch.zeros(FIELD_STEPS, dtype=torch.int64))
    return split.share(members[0].hyperparameters.train_fraction)


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """The optimizer settings of a block's members, float64 [K] each.

    Attributes:
        warmup, decay: of the schedule, a number of each member: epochs of warm-up; epochs and factor of a decay.
        steps_an_epoch: steps of an epoch.
    """

    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor
    warmup: tuple[float, ...]
    decay: tuple[Decay | None, ...]
    steps_an_epoch: int

    @classmethod
    def of(cls, members: Sequence[Member], images: int, batch_size: int | None = None) -> MemberSettings:
        """The settings as the members' hyperparameters have them, which are trained on so many images."""
        points = [member.hyperparameters for member in members]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        return cls(
            column([point.lr for point in points]),
            column([point.weight_decay for point in points]),
            column([point.momentum or 0.0 for point in points]),
            tuple(point.warmup_epochs or 0.0 for point in points),
            tuple(
                None if point.decay_epochs is None else Decay(point.decay_epochs, point.decay_factor or DECAY_FACTOR)
                for point in points
            ),
            -(-images // (batch_size or points[0].batch_size)),
        )

    def at(self, scheduler: str | None, step: int, steps: int) -> StepSettings:
        """The settings of one step, 0-based over a whole training of `steps` steps."""
        each = list(zip(self.warmup, self.decay, strict=True))
        kinds = {
            own: scheduled(scheduler, step, steps, round(own[0] * self.steps_an_epoch), own[1], self.steps_an_epoch)
            for own in dict.fromkeys(each)
        }
        now = kinds[each[0]]
        factor: Tensor | float = now.lr_factor
        if len(kinds) > 1:
            factor = torch.tensor([kinds[own].lr_factor for own in each], dtype=torch.float64)
        momentum = self.momentum if now.momentum is None else torch.full_like(self.momentum, now.momentum)
        return StepSettings(lr=self.lr * factor, weight_decay=self.weight_decay, momentum=momentum, count=step)
