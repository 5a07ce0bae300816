"""Drawing of populations, for cards and reports: matplotlib figures without pyplot.

So no figure stays open, no window system is needed, and the same data gives the same picture.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

_MOST_TICKS = 12


def new_figure(
    width: float, height: float, columns: int = 1, margins: Mapping[str, float] | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure with a row of axes that share their y axis.

    Args:
        width, height: in inches.
        margins: `left`, `right`, `bottom`, `top` of the axes as shares of the figure; None fits them to the labels.
    """
    figure = Figure(figsize=(width, height), layout="constrained" if margins is None else None)
    if margins is not None:
        figure.subplots_adjust(**margins)
    return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


def draw_boxes(axes: Axes, groups: Sequence[NDArray[np.float64]], shift: float, colour: str, label: str) -> None:
    """A box plot of each group of values at 0, 1, … + `shift`: median, quartiles, whiskers of 1.5 IQR, outliers.

    Empty groups leave their place empty. All boxes are one collection: drawing each by itself takes as long as
    importing thousands of models.
    """
    filled = [place for place, values in enumerate(groups) if len(values)]
    if not filled:
        return
    low, median, high = np.array([np.percentile(groups[place], (25, 50, 75)) for place in filled]).T
    reach = 1.5 * (high - low)
    inside = [
        values[(values >= bottom) & (values <= top)]
        for values, bottom, top in zip([groups[place] for place in filled], low - reach, high + reach, strict=True)
    ]
    x = np.array(filled) + shift
    left, right = x - 0.15, x + 0.15
    corners = np.stack(
        [np.stack(corner, axis=1) for corner in ((left, low), (right, low), (right, high), (left, high))], axis=1
    )
    axes.vlines(x, [values.min() for values in inside], [values.max() for values in inside], "black", linewidth=0.5)
    axes.add_collection(
        PolyCollection(list(corners), facecolor=colour, edgecolor="black", linewidth=0.5, label=label, zorder=2)
    )
    axes.hlines(median, left, right, "black", linewidth=1, zorder=3)
    outside = [
        (place, value)
        for place, group, kept in zip(x, (groups[place] for place in filled), inside, strict=True)
        for value in group[(group < kept.min()) | (group > kept.max())]
    ]
    if outside:
        axes.plot(*zip(*outside, strict=True), ".", color=colour, markersize=2, markeredgewidth=0)


def draw_quantiles(axes: Axes, quantiles: Sequence[Sequence[float]]) -> None:
    """A box plot at 0, 1, … of each five ascending values: lower whisker, quartile, median, quartile, upper whisker."""
    keys = ("whislo", "q1", "med", "q3", "whishi")
    stats = [dict(zip(keys, five, strict=True)) for five in quantiles]
    axes.bxp(stats, positions=range(len(stats)), showfliers=False, widths=0.6)
    axes.grid(axis="y", alpha=0.3)


def name_places(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, … of the x axis, every second or later one alone if there are more than twelve."""
    step = max(-(-len(names) // _MOST_TICKS), 1)
    axes.set_xticks(range(0, len(names), step), list(names)[::step])


def to_png(figure: Figure, dpi: int) -> bytes:
    """A figure as PNG; the same figure gives the same bytes on one version of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
