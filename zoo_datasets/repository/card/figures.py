"""The plots of a card, of a zoo's metadata columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo_datasets.plotting import COLOURS, draw_boxes, name_places, new_figure

DPI = 110
_BOXES = 30  # more could not be distinguished at this width
_ACCURACIES = (("train_acc", "train", COLOURS[5]), ("test_acc", "test", COLOURS[4]))
_GREEN = COLOURS[2]
_MARGINS = {"left": 0.07, "right": 0.99, "bottom": 0.15, "top": 0.91}


def accuracy_over_epochs(table: pa.Table, title: str = "") -> Figure:
    """Train and test accuracy of the population as box plots over epochs: median, quartiles, 1.5 IQR.

    Args:
        table: rows with the columns epoch, train_acc and test_acc; figures that are null or NaN are left out.
            Of more than 30 epochs, 30 are shown, evenly spaced, the first and the last among them.
    """
    epochs = _epochs(table)
    figure, axes = _figure("accuracy", epochs, title)
    shown = [one for one in _ACCURACIES if one[0] in table.column_names]
    for place, (column, label, colour) in enumerate(shown):
        shift = (place - (len(shown) - 1) / 2) * 0.36
        draw_boxes(axes, _by_epoch(table, column, epochs), shift, colour, label)
    if shown:
        axes.legend(loc="lower right", frameon=False)
    return figure


def sparsity_over_epochs(table: pa.Table, title: str = "") -> Figure:
    """Sparsity of a population of twins over epochs: median, quartiles and range.

    Args:
        table: rows with the columns epoch and sparsity; nulls are left out.
    """
    epochs = _epochs(table)
    figure, axes = _figure("sparsity", epochs, title)
    groups = _by_epoch(table, "sparsity", epochs)
    filled = [place for place, values in enumerate(groups) if len(values)]
    if filled:
        quantiles = [np.percentile(groups[place], (0, 25, 50, 75, 100)) for place in filled]
        lowest, low, median, high, highest = np.array(quantiles).T
        axes.fill_between(filled, lowest, highest, color=_GREEN, alpha=0.25, linewidth=0, label="range")
        axes.fill_between(filled, low, high, color=_GREEN, alpha=0.6, linewidth=0, label="quartiles")
        axes.plot(filled, median, color="black", linewidth=1, marker="o", markersize=3, label="median")
        axes.legend(loc="lower right", frameon=False)
    return figure


def _figure(name: str, epochs: Sequence[int], title: str) -> tuple[Figure, Axes]:
    """An empty plot of shares in [0, 1] over epochs."""
    figure, (axes,) = new_figure(8, 3.2, margins=_MARGINS)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.set_title(title)
    axes.set_ylim(-0.02, 1.02)
    name_places(axes, list(map(str, epochs)))
    axes.set_xlim(-0.6, max(len(epochs), 1) - 0.4)
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
