"""Which members train together: the plan depends on the list of members alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zoo_datasets.runs.manifest import Growth
from zoo_datasets.specs.members import Member

# A cohort is the unit that processes share out and that files hold; small enough to spread over
# processes, large enough to keep the number of files low.
COHORT_SIZE = 64
_LARGE = 100_000


def cohort_size(weights: int) -> int:
    """Members in a full cohort of networks with `weights` weights: one if a checkpoint is tens of MB."""
    return COHORT_SIZE if weights <= _LARGE else 1


# What members that train as one share, so that a step of one is a step of all.
GroupKey = tuple[str, str, int, float, str, int, int]


def group_key(member: Member) -> GroupKey:
    """Activation, optimizer, batch size, the share of the training images, and what tells the network."""
    point = member.hyperparameters
    share = 1.0 if point.train_fraction is None else point.train_fraction
    network = (point.variant or "", point.width or 0, point.depth or 0)
    return point.activation, point.optimizer, point.batch_size, share, *network


def plan_cohorts(
    members: Sequence[Member], growth: Sequence[Growth], size: int | Callable[[Member], int]
) -> list[list[Member]]:
    """Cut members into cohorts of the same `group_key`.

    Args:
        size: members of a full cohort, or what tells it of a member.

    Each step of growth has cohorts of its own, so that what was trained before keeps its place.
    """
    cohorts: list[list[Member]] = []
    planned = 0
    for step in growth:
        groups: dict[GroupKey, list[Member]] = {}
        for member in members[planned : step.models]:
            groups.setdefault(group_key(member), []).append(member)
        for _, group in sorted(groups.items()):
            most = size if isinstance(size, int) else size(group[0])
            cohorts += [group[start : start + most] for start in range(0, len(group), most)]
        planned = step.models
    return cohorts
