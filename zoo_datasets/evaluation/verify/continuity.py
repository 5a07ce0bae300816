"""Whether the rows of a model continue each other: from the weights of consecutive epochs, without images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]

# An exchange of two models that divides the product of squared distances by so much, and shortens it in so many of the
# coordinates, is no chance. In zoos with learning rates up to 1 and weight decays up to 1 the factor was up to 41, and
# the share then up to 0.89 in the step from epoch 0 and 0.51 in later ones.
FACTOR = 50.0
_SHARE = 0.6
# A smaller factor is enough after epoch 0 for a row that is nearer to the other model's than half any other distance.
_LEAST_FACTOR = 8.0
_TILE = 1024
# Of a squared distance that is a difference of larger numbers.
_ROUNDING = 1e-13


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchanges:
    """What two consecutive epochs of a zoo say.

    Attributes:
        pairs: places of two models each that continue the other's weights rather than their own.
        alike: number of pairs for which an exchange would not show.
    """

    pairs: list[tuple[int, int]]
    alike: int


def exchanges(before: Weights, after: Weights, *, start: bool = False) -> Exchanges:
    """The pairs of models whose rows seem exchanged between two epochs.

    The step of model i to the row of model j has the squared distance d(i, j). Two rows i and j count as exchanged if
    d(i, j) · d(j, i) < d(i, i) · d(j, j) / `FACTOR`, and the same without the factor in most coordinates; a factor of 8
    is enough in the step from epoch 0 if d(i, j) is less than half of every other d(i, k). Products, not sums: a model
    that diverges moves farther than all others are apart, and would hide or feign every exchange.

    Args:
        before, after: finite weights [N, W] of the same N models, in one order.
        start: whether `before` is epoch 0.
    """
    norms_before, norms_after = ((part * part).sum(axis=1) for part in (before, after))
    own = np.log(np.maximum(((after - before) ** 2).sum(axis=1), _floor(norms_after, norms_before)))
    pairs: list[tuple[int, int]] = []
    doubtful: list[tuple[int, int]] = []
    alike = 0
    for first in _tiles(len(before)):
        for second in _tiles(len(before), first.start):
            gain = _log_distances(after[first], before[second], norms_after[first], norms_before[second])
            gain += _log_distances(after[second], before[first], norms_after[second], norms_before[first]).T
            gain -= own[first, None] + own[None, second]
            if first == second:
                gain[np.tril_indices(len(gain))] = np.inf
            alike += int((np.abs(gain) < math.log(FACTOR)).sum())
            pairs += _places(gain <= -math.log(FACTOR), first.start, second.start)
            doubtful += _places(
                (gain <= -math.log(_LEAST_FACTOR)) & (gain > -math.log(FACTOR)), first.start, second.start
            )
    if doubtful and start:
        follows = _follows(before, after, sorted({place for pair in doubtful for place in pair}))
        pairs += [(one, other) for one, other in doubtful if follows[one] == other or follows[other] == one]
    return Exchanges(pairs=[pair for pair in pairs if _is_shorter(before, after, *pair)], alike=alike)


def _places(mask: NDArray[np.bool_], row: int, column: int) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(mask)
    return list(zip((rows + row).tolist(), (columns + column).tolist(), strict=True))


def _follows(before: Weights, after: Weights, places: list[int]) -> dict[int, int | None]:
    """For the rows at some places after an epoch, the place of the row before that is nearer than half the squared
    distance of every other one; None if there is none."""
    norms = (before * before).sum(axis=1)
    result: dict[int, int | None] = {}
    for start in range(0, len(places), _TILE):
        part = places[start : start + _TILE]
        rows = after[part]
        distances = _log_distances(rows, before, (rows * rows).sum(axis=1), norms)
        first, second = np.partition(distances, 1, axis=1)[:, :2].T
        unique = second - first > math.log(2)
        nearest = distances.argmin(axis=1).tolist()
        result |= {
            place: near if one else None for place, near, one in zip(part, nearest, unique.tolist(), strict=True)
        }
    return result


def _is_shorter(before: Weights, after: Weights, first: int, second: int) -> bool:
    """Whether an exchange of two models shortens the product of their steps in most coordinates that it changes."""
    own = np.abs(after[first] - before[first]) * np.abs(after[second] - before[second])
    other = np.abs(after[first] - before[second]) * np.abs(after[second] - before[first])
    return int((other < own).sum()) >= _SHARE * int((other != own).sum())


def copies(before: Weights, after: Weights) -> list[tuple[int, int]]:
    """Places of two models each whose weights are equal after an epoch before which they were not."""
    seen: dict[bytes, int] = {}
    pairs = []
    for place, row in enumerate(after):
        first = seen.setdefault(row.tobytes(), place)
        # All weights of a model that collapsed may be one number.
        if first != place and np.ptp(row) > 0 and not np.array_equal(before[first], before[place]):
            pairs.append((first, place))
    return pairs


def parent_distances(twins: Weights, parents: Weights) -> NDArray[np.float64]:
    """The logarithm of the squared distances [N, M] between twins and parents, over the weights of a twin that are not
    zero: those that were not pruned."""
    kept = (twins != 0).astype(np.float64)
    norms: NDArray[np.float64] = kept @ (parents * parents).T
    own = (twins * twins).sum(axis=1)[:, None]
    distances = own + norms - 2 * (twins @ parents.T)
    logarithms: NDArray[np.float64] = np.log(np.maximum(distances, _floor(own, norms)))
    return logarithms


def _tiles(count: int, start: int = 0) -> Iterator[slice]:
    return (slice(first, min(first + _TILE, count)) for first in range(start, count, _TILE))


def _floor(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """What rounding may leave of a squared distance that is 0, from the squared norms."""
    return _ROUNDING * (first + second) + np.finfo(np.float64).tiny


def _log_distances(
    rows: Weights, others: Weights, norms: NDArray[np.float64], other_norms: NDArray[np.float64]
) -> NDArray[np.float64]:
    distances = norms[:, None] + other_norms[None] - 2 * (rows @ others.T)
    return np.log(np.maximum(distances, _floor(norms[:, None], other_norms[None])))
