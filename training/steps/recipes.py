"""What members that train as one block share, and the optimizer settings that each has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.networks.layers import Layer
from zoo_datasets.specs.spec import Member, ZooSpec
from zoo_datasets.stacked import BlockRecipe, StepSettings
from zoo_datasets.training.sparsifiers import SPARSIFIERS
from zoo_datasets.training.steps.schedules import SCHEDULES


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
        batch_size=first.batch_size,
        augmentation=zoo.augmentation,
        seeds=seeds_of(members),
        dropout=torch.tensor([member.hyperparameters.dropout for member in members], dtype=torch.float64),
        variational=zoo.sparsifier is not None and SPARSIFIERS[zoo.sparsifier].variational,
    )


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """The optimizer settings of a block's members, float64 [K] each."""

    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor

    @classmethod
    def of(cls, members: Sequence[Member]) -> MemberSettings:
        """The settings as the members' hyperparameters have them."""
        points = [member.hyperparameters for member in members]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        return cls(
            column([point.lr for point in points]),
            column([point.weight_decay for point in points]),
            column([point.momentum or 0.0 for point in points]),
        )

    def at(self, scheduler: str | None, step: int, steps: int) -> StepSettings:
        """The settings of one step, 0-based over a whole training of `steps` steps."""
        now = SCHEDULES[scheduler](step, steps)
        momentum = self.momentum if now.momentum is None else torch.full_like(self.momentum, now.momentum)
        return StepSettings(lr=self.lr * now.lr_factor, weight_decay=self.weight_decay, momentum=momentum, count=step)
