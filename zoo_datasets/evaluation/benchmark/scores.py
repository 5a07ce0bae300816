"""How good predictions are, with bootstrap intervals over models.

Rows of one model at several epochs say much the same, so intervals come from drawing whole models with replacement.
Each score is a function of sums over models (or pairs of models), so that a draw costs no more than adding these up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.int64]

_PAIRS = 8_000_000
_CONFIDENCE = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Score:
    """A score and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (f"{x:.3f}" if abs(x) < 100 else f"{x:.0e}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class Sampled:
    """A score and what it is in each bootstrap draw, float64 [R]. Of equally many models the draws are the same, so
    that differences of scores on the same rows are paired."""

    value: float
    resampled: Numbers

    def score(self) -> Score:
        """With its 95 % interval; draws in which it is not defined are left out."""
        finite = self.resampled[np.isfinite(self.resampled)]
        low, high = np.percentile(finite, _CONFIDENCE) if len(finite) else (np.nan, np.nan)
        return Score(self.value, float(low), float(high))

    def less(self, other: Sampled) -> Sampled:
        """The difference, draw by draw."""
        with np.errstate(invalid="ignore"):
            return Sampled(self.value - other.value, self.resampled - other.resampled)

    @classmethod
    def mean(cls, parts: Sequence[Sampled]) -> Sampled:
        """The mean of scores on the same rows, draw by draw."""
        return cls(float(np.mean([part.value for part in parts])), np.mean([part.resampled for part in parts], axis=0))


def draws(models: int, resamples: int, seed: int = 0) -> Numbers:
    """How often each model is in each draw, float64 [resamples, models]."""
    counts = np.random.default_rng(seed).multinomial(models, np.full(models, 1 / models), resamples)
    return cast(Numbers, counts.astype(np.float64))


def r2(truth: Numbers, predicted: Numbers, models: Codes, resamples: int = 1000) -> Score:
    """1 − Σ(y − p)² / Σ(y − ȳ)², ȳ being the mean of the tested rows; all [N]."""
    return sampled_r2(truth, predicted, models, resamples).score()


def sampled_r2(truth: Numbers, predicted: Numbers, models: Codes, resamples: int = 1000) -> Sampled:
    """`r2` and its draws."""
    shifted = truth - truth.mean()
    parts = np.stack([np.ones_like(truth), shifted, shifted**2, (truth - predicted) ** 2])

    def score(sums: Numbers) -> Numbers:
        count, total, squares, errors = sums
        return np.asarray(1 - errors / (squares - total**2 / count))

    return _linear(parts, models, score, resamples)


def accuracy(truth: NDArray[Any], predicted: NDArray[Any], models: Codes, resamples: int = 1000) -> Score:
    """Share of equal entries; all [N]."""
    return sampled_accuracy(truth, predicted, models, resamples).score()


def sampled_accuracy(truth: NDArray[Any], predicted: NDArray[Any], models: Codes, resamples: int = 1000) -> Sampled:
    """`accuracy` and its draws."""
    right = (truth == predicted).astype(np.float64)
    return _linear(np.stack([np.ones_like(right), right]), models, lambda sums: sums[1] / sums[0], resamples)


def kendall(truth: Numbers, predicted: Numbers, models: Codes, resamples: int = 1000) -> Score:
    """Kendall's τ-b, all [N]: concordant minus discordant pairs over the geometric mean of untied pairs.

    A model drawn twice brings its rows twice; pairs of a row with itself are ties.
    """
    return sampled_kendall(truth, predicted, models, resamples).score()


def kendall_ceiling(truth: Numbers) -> float:
    """The largest τ-b of predictions without ties: below 1 where tested values are tied. √(untied pairs / pairs)."""
    counts = np.unique(truth, return_counts=True)[1].astype(np.float64)
    pairs = len(truth) * (len(truth) - 1)
    return float(np.sqrt(1 - (counts * (counts - 1)).sum() / pairs)) if pairs else float("nan")


def sampled_kendall(truth: Numbers, predicted: Numbers, models: Codes, resamples: int = 1000) -> Sampled:
    """`kendall` and its draws."""
    order = np.argsort(models, kind="stable")
    first, second = (_ranks(values[order]) for values in (truth, predicted))
    starts = np.flatnonzero(np.r_[True, np.diff(models[order]) != 0])
    ends = np.r_[starts[1:], len(first)]
    sums = np.zeros((3, len(starts), len(starts)))
    at = 0
    while at < len(starts):
        to = max(int(np.searchsorted(ends, starts[at] + max(_PAIRS // len(first), 1))), at + 1)
        where = slice(starts[at], ends[to - 1])
        signs = [np.sign(values[where, None] - values[None]) for values in (first, second)]
        for number, (left, right) in enumerate(((0, 1), (0, 0), (1, 1))):
            columns = np.add.reduceat(signs[left] * signs[right], starts, axis=1)
            sums[number, at:to] = np.add.reduceat(columns.astype(np.float64), starts[at:to] - starts[at], axis=0)
        at = to

    def score(counts: Numbers) -> Numbers:
        both, own, other = (np.einsum("ri,ij,rj->r", counts, matrix, counts, optimize=True) for matrix in sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(both / np.sqrt(own * other))

    return Sampled(float(score(np.ones((1, len(starts))))[0]), score(draws(len(starts), resamples)))


def _ranks(values: Numbers) -> NDArray[np.float32]:
    """Dense ranks: exact in float32, whatever the values are."""
    return np.unique(values, return_inverse=True)[1].astype(np.float32)


def _linear(parts: Numbers, models: Codes, score: Any, resamples: int) -> Sampled:
    """A score of sums over rows; parts [P, N]."""
    _, codes = np.unique(models, return_inverse=True)
    sums = np.stack([np.bincount(codes, weights=part) for part in parts], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Sampled(float(score(sums.sum(axis=0))), score((draws(len(sums), resamples) @ sums).T))
