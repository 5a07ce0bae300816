"""The main plots of a report as matplotlib figures, for cards and papers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_datasets.storage.folders import check_output
from zoo_datasets.text import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150


def write_plots(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a PNG of each plot that the content of a report has something for; gives the files."""
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = {f"{name}_over_epochs": over_epochs(content, name) for name in content["epochs"]}
    if len(content["map"]["models"]) > 1:
        made |= {f"map_by_{name}": map_of(content, name) for name in content["map"]["columns"]}
    if content["effects"]:
        made["hyperparameters"] = effects(content)
    if content["trajectories"]:
        made["trajectories"] = trajectories(content)
    files = []
    for name, figure in made.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=_DPI)
    return files


def over_epochs(content: Mapping[str, Any], column: str) -> Figure:
    """A figure over epochs as box plots: whiskers from 5 to 95 %."""
    entry = content["epochs"][column]
    figure, axes = _figure()
    _boxes(axes, entry["boxes"])
    axes.set(xlabel="epoch", ylabel=entry["label"], title=plot_text(content["name"]))
    every = -(-len(entry["boxes"]) // 12)
    axes.set_xticks(range(0, len(entry["boxes"]), every), list(entry["boxes"])[::every])
    return figure


def map_of(content: Mapping[str, Any], column: str) -> Figure:
    """The weights of the last epoch in the plane, coloured by a column."""
    found = content["map"]
    values = found["columns"][column]
    figure, axes = _figure()
    x, y = np.array(found["x"]), np.array(found["y"])
    different = sorted({value for value in values if value is not None})
    if len(different) > 8 and not isinstance(different[0], str):
        numbers = np.array([np.nan if value is None else value for value in values], float)
        drawn = axes.scatter(x, y, c=numbers, s=14, cmap="viridis", plotnonfinite=True)
        figure.colorbar(drawn, label=column)
    else:
        for value in different:
            chosen = np.array([other == value for other in values])
            axes.scatter(x[chosen], y[chosen], s=14, label=plot_text(value))
        axes.legend(title=column, fontsize="small")
    axes.set(xlabel=found["labels"][0], ylabel=found["labels"][1], title=plot_text(content["name"]))
    return figure


def effects(content: Mapping[str, Any]) -> Figure:
    """Test accuracy at the last epoch for each value of each hyperparameter."""
    found = content["effects"]
    figure, every = _figure(len(found))
    for axes, effect in zip(np.atleast_1d(every), found, strict=True):
        _boxes(axes, effect["boxes"])
        axes.set_xticks(range(len(effect["boxes"])), list(map(plot_text, effect["boxes"])), rotation=30, ha="right")
        axes.set_title(f"{effect['hyperparameter']}\nη² = {effect['explained']:.2f}", fontsize="medium")
    np.atleast_1d(every)[0].set_ylabel("test accuracy")
    return figure


def trajectories(content: Mapping[str, Any]) -> Figure:
    """Whole trainings in the plane of their principal components."""
    found = content["trajectories"]
    figure, axes = _figure()
    for x, y in zip(found["x"], found["y"], strict=True):
        (line,) = axes.plot(x, y, linewidth=1)
        axes.plot(x[0], y[0], "o", markersize=4, markerfacecolor="white", color=line.get_color())
    axes.set(xlabel=found["labels"][0], ylabel=found["labels"][1], title=plot_text(content["name"]))
    return figure


def _figure(columns: int = 1) -> tuple[Figure, Any]:
    # Without pyplot: no window system, and nothing is kept open.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, 2.2 * columns), 4.2), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=True)


def _boxes(axes: Axes, boxes: Mapping[str, Mapping[str, Any]]) -> None:
    keys = ("whislo", "q1", "med", "q3", "whishi")
    stats = [dict(zip(keys, box["quantiles"], strict=True)) for box in boxes.values()]
    axes.bxp(stats, positions=range(len(stats)), showfliers=False, widths=0.6)
    axes.grid(axis="y", alpha=0.3)
