"""Splits that a source lacks, cut from its training images."""

from __future__ import annotations

from typing import Any

import torch

from zoo_datasets.errors import ImagesError
from zoo_datasets.images.split import Role, Split
from zoo_datasets.specs.images import ImageSpec

SPLIT_SEED = 42
FEWEST = 3
ROLES: tuple[Role, ...] = ("train", "val", "test")


def cut(source_splits: dict[Role, Split], spec: ImageSpec, origin: str) -> tuple[dict[Role, Split], str]:
    """All splits, those that are missing cut from the training images; and what differs from the published ones.

    The cut is that of `torch.utils.data.random_split` in file order with a generator seeded 42. If the
    number of images is the published one, so are the lengths; else they keep the published proportions.

    Returns:
        the splits, and a sentence with the numbers found and expected, empty if they agree.

    Raises:
        ImagesError: if there are fewer than three training images.
    """
    official = {"train": spec.train, "val": spec.val, "test": spec.test}
    train = source_splits["train"]
    if len(train) < FEWEST:
        raise ImagesError(
            f"{origin}: {len(train)} training images found, at least {FEWEST} expected; "
            f"{spec.name} has {sum(official.values()):,} in all"
        )
    roles: list[Role] = [role for role in ROLES if role == "train" or (role not in source_splits and official[role])]
    lengths = _lengths(len(train), [official[role] for role in roles])
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    splits = dict(source_splits)
    if len(roles) > 1:
        for role, indices in zip(roles, torch.split(order, lengths), strict=True):
            splits[role] = Split(train.images[indices], train.labels[indices])
    splits = {role: splits[role] for role in ROLES if role in splits}
    counts = {role: len(splits[role]) if role in splits else 0 for role in ROLES}
    published: dict[Role, str | None] = {"val": spec.val_split, "test": spec.test_split}
    missing = [name for role, name in published.items() if name is not None and role in roles]
    if counts == official and not missing:
        return splits, ""
    notice = f"{_numbers(counts)} images found, {_numbers(official)} expected of {spec.name}"
    if missing:
        notice += f"; without a split named {' and '.join(missing)}, images were cut from the training images"
    return splits, f"{notice}. Models trained on these cannot be compared with the published zoos"


def _lengths(count: int, parts: list[int]) -> list[int]:
    """`count` cut in the proportions of `parts`, at least one each; `parts` itself if it adds up."""
    if count == sum(parts):
        return parts
    rest = [max(1, round(count * part / sum(parts))) for part in parts[1:]]
    while sum(rest) >= count:
        rest[rest.index(max(rest))] -= 1
    return [count - sum(rest), *rest]


def _numbers(counts: dict[Any, int]) -> str:
    return " / ".join(f"{count:,}" for count in counts.values()) + f" ({' / '.join(counts)})"
