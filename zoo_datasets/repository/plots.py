"""Pictures of a zoo from its metadata columns: matplotlib figures, made without any global state."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

_BOXES = 30  # more could not be distinguished at this width
_ACCURACIES = (("train_acc", "train", "#8da0cb"), ("test_acc", "test", "#fc8d62"))


def accuracy_over_epochs(table: pa.Table) -> Figure:
    """Train and test accuracy of the population as box plots over epochs: median, quartiles, 1.5 IQR.

    Args:
        table: rows with the columns epoch, train_acc and test_acc; figures that are null or NaN are left out.
            Of more than 30 epochs, 30 are shown, evenly spaced, the first and the last among them.
    """
    figure, axes = _figure("accuracy")
    epochs = _epochs(table)
    shown = [one for one in _ACCURACIES if one[0] in table.column_names]
    for place, (column, label, colour) in enumerate(shown):
        shift = (place - (len(shown) - 1) / 2) * 0.36
        _boxes(axes, _by_epoch(table, column, epochs), shift, colour, label)
    axes.set_ylim(-0.02, 1.02)
    if shown:
        axes.legend(loc="lower right", frameon=False)
    _name_epochs(axes, epochs)
    return figure


def _boxes(axes: Axes, groups: Sequence[NDArray[np.float64]], shift: float, colour: str, label: str) -> None:
    """Box plots as one collection a part: drawing each by itself takes as long as importing thousands of models."""
    held = [place for place, values in enumerate(groups) if len(values)]
    if not held:
        return
    low, median, high = np.array([np.percentile(groups[place], (25, 50, 75)) for place in held]).T
    reach = 1.5 * (high - low)
    inside = [
        values[(values >= bottom) & (values <= top)]
        for values, bottom, top in zip([groups[place] for place in held], low - reach, high + reach, strict=True)
    ]
    x = np.array(held) + shift
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
        for place, group, kept in zip(x, (groups[place] for place in held), inside, strict=True)
        for value in group[(group < kept.min()) | (group > kept.max())]
    ]
    if outside:
        axes.plot(*zip(*outside, strict=True), ".", color=colour, markersize=2, markeredgewidth=0)


def sparsity_over_epochs(table: pa.Table) -> Figure:
    """Sparsity of a population of twins over epochs: median, quartiles and range.

    Args:
        table: rows with the columns epoch and sparsity; nulls are left out.
    """
    figure, axes = _figure("sparsity")
    epochs = _epochs(table)
    groups = _by_epoch(table, "sparsity", epochs)
    held = [place for place, values in enumerate(groups) if len(values)]
    if held:
        lowest, low, median, high, highest = np.array([np.percentile(groups[p], (0, 25, 50, 75, 100)) for p in held]).T
        axes.fill_between(held, lowest, highest, color="#66c2a5", alpha=0.25, linewidth=0, label="range")
        axes.fill_between(held, low, high, color="#66c2a5", alpha=0.6, linewidth=0, label="quartiles")
        axes.plot(held, median, color="black", linewidth=1, marker="o", markersize=3, label="median")
        axes.legend(loc="lower right", frameon=False)
    axes.set_ylim(-0.02, 1.02)
    _name_epochs(axes, epochs)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as PNG; the same figure gives the same bytes on one version of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _figure(name: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 3.2))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.15, top=0.97)
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _epochs(table: pa.Table) -> list[int]:
    """The epochs to show, ascending."""
    epochs = sorted(pc.unique(table["epoch"]).to_pylist())
    if len(epochs) <= _BOXES:
        return epochs
    return [epochs[place] for place in sorted(set(np.linspace(0, len(epochs) - 1, _BOXES).round().astype(int)))]


def _by_epoch(table: pa.Table, column: str, epochs: Sequence[int]) -> list[NDArray[np.float64]]:
    """The finite values of a column at each epoch."""
    rows = table["epoch"].to_numpy()
    values = pc.cast(table[column], pa.float64()).to_numpy()
    finite = np.isfinite(values)
    return [values[finite & (rows == epoch)] for epoch in epochs]


def _name_epochs(axes: Axes, epochs: Sequence[int]) -> None:
    step = max(-(-len(epochs) // 12), 1)
    places = list(range(0, len(epochs), step))
    axes.set_xticks(places, [str(epochs[place]) for place in places])
    axes.set_xlim(-0.6, max(len(epochs), 1) - 0.4)
