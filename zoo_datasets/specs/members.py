"""The members of a zoo: their ids, seeds and hyperparameters, in the order in which they are trained."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo_datasets.specs.axes import FURTHER_RANGES, HyperParameters
from zoo_datasets.specs.bounds import MAX_BATCH, SEED_LIMIT
from zoo_datasets.specs.spec import ZooSpec, digest_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The first so many images of each split; None means all. Part of a model's recipe."""

    train: int | None = None
    val: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"limit on {field.name} images: expected at least 1, found {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One model of a zoo before any training: its id, seed and hyperparameters; of a twin also its parent's id."""

    model_id: str
    seed: int
    hyperparameters: HyperParameters
    parent_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, nested as here; a dense model has no parent's."""
        value = {"model_id": self.model_id, "seed": self.seed, "hyperparameters": self.hyperparameters.to_dict()}
        return value if self.parent_id is None else value | {"parent_id": self.parent_id}

    def check(self) -> None:
        """Raise ValueError where a number is out of its range; names the member and the field."""
        point = self.hyperparameters
        within = {
            "seed": 0 <= self.seed < 1 << 63,
            "dropout": 0 <= point.dropout < 1,
            "lr": 0 < point.lr < float("inf"),
            "weight_decay": 0 <= point.weight_decay < float("inf"),
            "momentum": 0 <= (point.momentum or 0) < 1,
            "batch_size": 1 <= point.batch_size <= MAX_BATCH,
        }
        within |= {name: FURTHER_RANGES[name][0](value) for name, value in point.further().items()}
        for field, fine in within.items():
            if not fine:
                value = getattr(self if field == "seed" else point, field)
                raise ValueError(f"member {self.model_id[:40]!r}: {field} is {value}, which it cannot be")


def members_of(zoo: ZooSpec, limits: Limits | None = None, models: int | None = None) -> list[Member]:
    """The members of a zoo in a fixed hashed order, so that prefixes nest and spread over the grid.

    Args:
        zoo: the zoo.
        limits: limits on the images, part of each member's recipe and so of its id.
        models: how many members from the front of the order; None means all.

    Raises:
        ValueError: if the zoo has fewer than `models` members.
    """
    if models is not None and not 1 <= models <= zoo.models:
        raise ValueError(f"zoo {zoo.name!r} has {zoo.models:,} members; {models:,} were asked for")
    points = zoo.grid(models)
    by_point = list(zip(points, _seeds(zoo, points), strict=True))
    if zoo.random_points is None:
        pairs = [(point, seed) for point, seeds in by_point for seed in seeds]
        pairs.sort(key=lambda pair: digest_of(["order", zoo.name, pair[0].to_dict(), pair[1]]))
    else:  # drawn points are spread already, and few of many need not all be drawn
        pairs = [(point, seeds[number]) for number in range(zoo.seeds) for point, seeds in by_point]
    return [
        Member(model_id=model_id_of(zoo, point, seed, limits or Limits()), seed=seed, hyperparameters=point)
        for point, seed in pairs[:models]
    ]


def _seeds(zoo: ZooSpec, points: Sequence[HyperParameters]) -> list[list[int]]:
    """Seeds of each grid point. Random ones are hashed, not drawn from a library's generator, whose
    stream may change with its version; no two members of a zoo share one."""
    if zoo.seed_kind == "range":
        return [list(range(1, zoo.seeds + 1)) for _ in points]
    taken: set[int] = set()
    drawn: list[list[int]] = []
    for point in points:
        own: list[int] = []
        for attempt in itertools.count():
            if len(own) == zoo.seeds:
                break
            digest = digest_of(["seed", zoo.entropy, point.to_dict(), attempt])
            seed = int(digest, 16) % SEED_LIMIT
            if seed not in taken:
                own.append(seed)
                taken.add(seed)
        drawn.append(own)
    return drawn


def model_id_of(zoo: ZooSpec, point: HyperParameters, seed: int, limits: Limits) -> str:
    """Hash of all that decides the trained weights; the number of epochs only where the schedule needs it."""
    recipe = {
        "images": zoo.images,
        "architecture": zoo.architecture,
        "scheduler": zoo.scheduler,
        "epochs": zoo.epochs if zoo.scheduler else None,
        "augmentation": list(zoo.augmentation),
        "hyperparameters": point.to_dict(),
        "seed": seed,
        "limits": dataclasses.asdict(limits),
    }
    return digest_of({**recipe, **zoo.own()})


def twin_id_of(zoo: ZooSpec, parent_id: str, epoch: int, whole: bool) -> str:
    """Hash of the parent's id, its epoch, and what was done to it.

    Args:
        zoo: of the twins.
        epoch: of the parent, at which the twin begins.
        whole: whether the twin's weights depend on the number of its epochs.
    """
    recipe = {
        "parent": parent_id,
        "epoch": epoch,
        "sparsifier": zoo.sparsifier,
        "amount": zoo.amount,
        "scope": zoo.scope,
        "epochs": zoo.epochs if whole else None,
    }
    return digest_of(recipe)
