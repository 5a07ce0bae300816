"""The main plots of a report, for cards and papers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoo_datasets.evaluation.report.fields import contact_sheet
from zoo_datasets.plotting import draw_quantiles, name_places, new_figure, to_png
from zoo_datasets.storage.files import write_bytes
from zoo_datasets.storage.folders import check_output
from zoo_datasets.text import plot_text

_DPI = 150
_MOST_COLOURS = 8  # of a column of numbers with more values each is a colour of a scale


def write_plots(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a PNG of each plot for which the content of a report has data; returns the files."""
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"{name}_over_epochs": over_epochs(content, name) for name in content["epochs"]}
    if len(content["map"]["models"]) > 1:
        figures |= {f"map_by_{name}": map_of(content, name) for name in content["map"]["columns"]}
    if content["effects"]:
        figures["hyperparameters"] = effects(content)
    if content["trajectories"]:
        figures["trajectories"] = trajectories(content)
    for name, figure in figures.items():
        write_bytes(folder / f"{name}.png", to_png(figure, _DPI))
    names = list(figures)
    if content.get("sheet"):
        write_bytes(folder / "signals.png", contact_sheet(content["sheet"]))
        names.append("signals")
    return [folder / f"{name}.png" for name in names]


def over_epochs(content: Mapping[str, Any], column: str) -> Figure:
    """A figure over epochs as box plots: whiskers from 5 to 95 %."""
    entry = content["epochs"][column]
    figure, (axes,) = _figure()
    _boxes(axes, entry["boxes"])
    axes.set(xlabel="epoch", ylabel=entry["label"], title=plot_text(content["name"]))
    name_places(axes, list(entry["boxes"]))
    return figure


def map_of(content: Mapping[str, Any], column: str) -> Figure:
    """The weights of the last epoch in the plane, coloured by a column."""
    plane = content["map"]
    values = plane["columns"][column]
    figure, (axes,) = _figure()
    x, y = np.array(plane["x"]), np.array(plane["y"])
    different = sorted({value for value in values if value is not None})
    if len(different) > _MOST_COLOURS and not isinstance(different[0], str):
        numbers = np.array([np.nan if value is None else value for value in values], float)
        points = axes.scatter(x, y, c=numbers, s=14, cmap="viridis", plotnonfinite=True)
        figure.colorbar(points, label=column)
    else:
        for value in different:
            equal = np.array([other == value for other in values])
            axes.scatter(x[equal], y[equal], s=14, label=plot_text(value))
        axes.legend(title=column, fontsize="small")
    axes.set(xlabel=plane["labels"][0], ylabel=plane["labels"][1], title=plot_text(content["name"]))
    return figure


def effects(content: Mapping[str, Any]) -> Figure:
    """Test accuracy at the last epoch for each value of each hyperparameter."""
    figure, panels = _figure(len(content["effects"]))
    for axes, effect in zip(panels, content["effects"], strict=True):
        _boxes(axes, effect["boxes"])
        axes.set_xticks(range(len(effect["boxes"])), list(map(plot_text, effect["boxes"])), rotation=30, ha="right")
        axes.set_title(f"{effect['hyperparameter']}\nη² = {effect['explained']:.2f}", fontsize="medium")
    panels[0].set_ylabel("test accuracy")
    return figure


def trajectories(content: Mapping[str, Any]) -> Figure:
    """Whole trainings in the plane of their principal components."""
    plane = content["trajectories"]
    figure, (axes,) = _figure()
    for x, y in zip(plane["x"], plane["y"], strict=True):
        (line,) = axes.plot(x, y, linewidth=1)
        axes.plot(x[0], y[0], "o", markersize=4, markerfacecolor="white", color=line.get_color())
    axes.set(xlabel=plane["labels"][0], ylabel=plane["labels"][1], title=plot_text(content["name"]))
    return figure


def _figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    return new_figure(max(6.4, 2.2 * columns), 4.2, columns)


def _boxes(axes: Axes, boxes: Mapping[str, Mapping[str, Any]]) -> None:
    draw_quantiles(axes, [box["quantiles"] for box in boxes.values()])
