"""Numbers of a report as JSON values: rounded, in boxes, in histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.evaluation import analysis, population

_BINS = 40


def histogram_of(label: str, values: Tensor, grain: int | None = None) -> dict[str, Any] | None:
    """Counts of values in bins.

    Args:
        grain: where all values are multiples of 1 / `grain`, as shares of so many images are; every bin then holds
            equally many of these.
    """
    if not len(values):
        return None
    numbers = values.numpy()
    counts, edges = np.histogram(numbers, _BINS if grain is None else _edges_of_shares(numbers, grain))
    return {"label": label, "counts": counts.tolist(), "edges": rounded(edges), "box": box_of(values)}


def histograms_of_pairs(
    matrices: Mapping[str, Tensor], grains: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """A histogram for each matrix [K, K] over pairs of models; none where there are no pairs.

    Args:
        grains: of the matrices that have one, see `histogram_of`.
    """
    histograms = (
        histogram_of(label, analysis.pairs_of(matrix), (grains or {}).get(label)) for label, matrix in matrices.items()
    )
    return [histogram for histogram in histograms if histogram is not None]


def _edges_of_shares(shares: NDArray[np.float64], grain: int) -> NDArray[np.float64]:
    """At most `_BINS` bins for multiples of 1 / `grain`, with edges half way between two of these."""
    first, last = round(float(shares.min()) * grain), round(float(shares.max()) * grain)
    width = -(-(last - first + 1) // _BINS)
    bins = -(-(last - first + 1) // width)
    return np.asarray((first - 0.5 + width * np.arange(bins + 1)) / grain)


def box_of(values: Tensor) -> dict[str, Any] | None:
    """The fields of their `Box`; None where no value is finite."""
    summary = population.box(values.double().tolist())
    return None if summary is None else asdict(summary)


def rounded(values: Any) -> list[float]:
    """Numbers to 5 digits."""
    return [float(f"{float(value):.5g}") for value in values]


def json_value(value: Any) -> Any:
    """A value of a column: a number to 6 digits, null where it is not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
