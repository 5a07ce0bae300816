"""Which samples each batch of each process holds: the order of an epoch, and how ranks share it."""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import SupportsIndex

import torch

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError
from zoo_datasets.native.rows import Positions
from zoo_datasets.specs.spec import digest_of


def integer_argument(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """An argument as Python's int, also if it is one of numpy or torch.

    Raises:
        SpecError: naming it, if it is no whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise SpecError(f"{name}={brief(value)}: expected a whole number") from None
    if least is not None and number < least:
        raise SpecError(f"{name}={number}: expected at least {least}")
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """How samples become batches; see `batches`.

    Raises:
        SpecError: if a number is none, or out of range.
    """

    batch_size: int = 256
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    buffer: int | None = None
    even: bool = True

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("buffer", 1), ("seed", None)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, integer_argument(name, value, least))

    def permutation(self, samples: int, epoch: int, *part: str | int) -> Positions | None:
        """The order of an epoch, int64 [samples], or of a part of it; None if it is the stored one."""
        if not self.shuffle:
            return None
        key = int(digest_of(["batches", self.seed, epoch, *part])[:15], 16)
        order: Positions = torch.randperm(samples, generator=torch.Generator().manual_seed(key)).numpy()
        return order


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Which part of an epoch's order each batch of each rank is.

    Every rank has the same number of batches, and every sample is in one of them. Rounds are full until the last
    one. With `even` it is full too: positions from `samples` on are the epoch's start again. Otherwise the last one,
    or the last two if fewer samples than ranks would be left, are divided evenly.
    """

    samples: int
    batch_size: int
    ranks: int
    drop_last: bool
    even: bool = False

    def __post_init__(self) -> None:
        if self._left and not self._tail and not self._filled:
            raise SpecError(
                f"{self.samples:,} samples in batches of {self.batch_size} cannot be shared out so that each of "
                f"{self.ranks} processes has equally many batches; use even=True, drop_last=True or another batch_size"
            )

    @property
    def _round(self) -> int:
        return self.ranks * self.batch_size

    @property
    def _left(self) -> int:
        return 0 if self.drop_last else self.samples % self._round

    @property
    def _filled(self) -> bool:
        """Whether the last round is filled; one process alone has nobody to be even with."""
        return self.even and self.ranks > 1

    @property
    def remainder(self) -> int:
        """Samples of the last round, over all ranks, that are no repetitions if some may be, and 0 if none is;
        −1 if rounds that are not full are dropped. As Accelerate's loaders count them."""
        if self.drop_last:
            return -1
        return self._left if self._filled or self.ranks == 1 else 0

    @property
    def _tail(self) -> int:
        """Number of rounds at the end that are divided evenly."""
        if not self._left or self._filled:
            return 0
        if self._left >= self.ranks:
            return 1
        return 2 if self.samples >= self._round and self.batch_size > 1 else 0

    @property
    def rounds(self) -> int:
        """Batches of a rank."""
        return self.samples // self._round + bool(self._left)

    def bounds(self, number: int, rank: int) -> tuple[int, int]:
        """Start and stop of a rank's batch in the order of the epoch, which begins again at `samples`."""
        full = self.rounds - self._tail
        if number < full:
            start = number * self._round + rank * self.batch_size
            return start, start + self.batch_size
        rest, parts = self.samples - full * self._round, self._tail * self.ranks
        part = (number - full) * self.ranks + rank
        begin = full * self._round
        return begin + rest * part // parts, begin + rest * (part + 1) // parts

    def lengths(self, rank: int) -> list[int]:
        """Samples in each of a rank's batches."""
        full = self.rounds - self._tail
        ends = [self.bounds(number, rank) for number in range(full, self.rounds)]
        return [self.batch_size] * full + [stop - start for start, stop in ends]

    def side_by_side(self, rank: int) -> list[tuple[int, int]]:
        """Start and stop of a rank's batches if those of each rank lie in one piece, which is all it reads.

        The last round is then filled with what follows a rank's piece, which it reads at no cost."""
        first = sum(map(self._share, range(rank)))
        ends = list(itertools.accumulate(self.lengths(rank), initial=first))
        return list(itertools.pairwise(ends))

    def _share(self, rank: int) -> int:
        """Samples of a rank, without repetitions."""
        start, stop = self.bounds(self.rounds - 1, rank) if self.rounds else (0, 0)
        return sum(self.lengths(rank)) - max(0, stop - max(start, self.samples))
