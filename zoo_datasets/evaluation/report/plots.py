"""The plots of a report, for cards and papers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoo_datasets.evaluation.report.fields import sheet_pixels
from zoo_datasets.plotting import (
    COLOURS,
    cover,
    draw_histogram,
    draw_quantiles,
    name_places,
    new_figure,
    render,
)
from zoo_datasets.storage.files import write_bytes
from zoo_datasets.storage.folders import check_output
from zoo_datasets.text import plot_text

_DPI = 200
_HEIGHT, _PANEL = 3.6, 3.4  # inches
_MOST_COLOURS = len(COLOURS)  # of a column of numbers with more values each is a colour of a scale
_LONGEST_NAME = 24  # of hyperparameters' values, which stand below boxes


def write_plots(content: Mapping[str, Any], folder: Path, form: str = "png") -> list[Path]:
    """Write each plot for which the content of a report has data as png, svg or pdf; returns the files."""
    return write_figures(dict(_figures(content)), folder, form)


def write_figures(figures: Mapping[str, Figure], folder: Path, form: str) -> list[Path]:
    """Write figures by name into a folder; returns the files."""
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        write_bytes(folder / f"{name}.{form}", render(figure, form, _DPI))
    return [folder / f"{name}.{form}" for name in figures]


def _figures(content: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    if content["epochs"]:
        yield "overview", overview(content)
    for name in content["epochs"]:
        yield f"{name}_over_epochs", over_epochs(content, name)
    if len(content["map"]["models"]) > 1:
        for name in content["map"]["columns"]:
            yield f"map_by_{name}", map_of(content, name)
    if content["effects"]:
        yield "hyperparameters", effects(content)
    if content["trajectories"]:
        yield "trajectories", trajectories(content)
    for entry in content.get("alike", ()):
        yield (
            re.sub(r"[^a-z0-9]+", "_", entry["label"].partition(" (")[0].lower()).strip("_"),
            histogram(content, entry),
        )
    if content.get("sheet"):
        yield "signals", signals(content)
    if content.get("between"):
        yield "losses_between_models", between(content)
    if content.get("sparse"):
        yield "sparsity_of_layers", layers(content)


def overview(content: Mapping[str, Any]) -> Figure:
    """A zoo at a glance: accuracy over epochs, the map of its weights, and its strongest hyperparameter."""
    effect = next(iter(content["effects"]), None)
    has_map = len(content["map"]["models"]) > 1 and content["map"]["columns"]
    draw: list[Callable[[Axes], None]] = [lambda axes: _draw_epochs(axes, content, next(iter(content["epochs"])))]
    if has_map:
        columns = content["map"]["columns"]
        column = effect["hyperparameter"] if effect and effect["hyperparameter"] in columns else next(iter(columns))
        draw.append(lambda axes: _draw_map(axes, content, column))
    if effect:
        draw.append(lambda axes: _draw_effect(axes, effect))
    figure, panels = _figure(content, len(draw), shared=False)
    for axes, paint in zip(panels, draw, strict=True):
        paint(axes)
    return figure


def signals(content: Mapping[str, Any]) -> Figure:
    """What networks draw, side by side."""
    pixels = sheet_pixels(content["sheet"])
    figure, (axes,) = _figure(content)
    width, _ = figure.get_size_inches()
    figure.set_size_inches(width, width * pixels.shape[0] / pixels.shape[1] + 0.4)  # and the title
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()
    return figure


def over_epochs(content: Mapping[str, Any], column: str) -> Figure:
    """A figure over epochs as box plots: whiskers from 5 to 95 %."""
    figure, (axes,) = _figure(content)
    _draw_epochs(axes, content, column)
    return figure


def map_of(content: Mapping[str, Any], column: str) -> Figure:
    """The weights of the last epoch in the plane, coloured by a column."""
    figure, (axes,) = _figure(content)
    _draw_map(axes, content, column)
    return figure


def effects(content: Mapping[str, Any]) -> Figure:
    """Test accuracy at the last epoch for each value of each hyperparameter."""
    figure, panels = _figure(content, len(content["effects"]))
    for axes, effect in zip(panels, content["effects"], strict=True):
        _draw_effect(axes, effect)
    every = [value for effect in content["effects"] for box in effect["boxes"].values() for value in box["quantiles"]]
    cover(panels[0], min(every), max(every))
    for axes in panels[1:]:
        axes.set_ylabel("")
    return figure


def trajectories(content: Mapping[str, Any]) -> Figure:
    """Whole trainings in the plane of their principal components; the ring is the beginning."""
    plane = content["trajectories"]
    figure, (axes,) = _figure(content)
    for number, (x, y) in enumerate(zip(plane["x"], plane["y"], strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, y, linewidth=1, color=colour)
        axes.plot(x[0], y[0], "o", markersize=4, markerfacecolor="white", color=colour)
    _plane(axes, np.concatenate([np.ravel(x) for x in plane["x"]]), np.concatenate([np.ravel(y) for y in plane["y"]]))
    axes.set(xlabel=plane["labels"][0], ylabel=plane["labels"][1])
    return figure


def histogram(content: Mapping[str, Any], entry: Mapping[str, Any]) -> Figure:
    """How alike pairs of models are, by one measure; or how a figure is distributed over them."""
    figure, (axes,) = _figure(content)
    draw_histogram(axes, entry["counts"], entry["edges"])
    cover(axes, 0, max(entry["counts"]))
    axes.set(xlabel=entry["label"], ylabel=entry.get("unit", "pairs of models"))
    return figure


def between(content: Mapping[str, Any]) -> Figure:
    """The loss on the line between two models, as they are and aligned; medians of pairs."""
    entry = content["between"]
    figure, (axes,) = _figure(content)
    for (name, losses), colour in zip(entry["lines"].items(), COLOURS, strict=False):
        axes.plot(entry["share"], losses, color=colour, label=f"{name}, barrier {entry['barriers'][name]:.2f}")
    every = [loss for losses in entry["lines"].values() for loss in losses]
    cover(axes, 0, 1, x=True)
    cover(axes, min(every), max(every))
    axes.set(xlabel="way from one model to the other", ylabel=f"test loss, median of {entry['pairs']} pairs")
    axes.legend(fontsize="small", frameon=False)
    return figure


def layers(content: Mapping[str, Any]) -> Figure:
    """Sparsity of each layer of twins at their last epoch."""
    figure, (axes,) = _figure(content)
    boxes = {name.removesuffix(".weight"): box for name, box in content["sparse"]["layers"].items() if box}
    draw_quantiles(axes, [box["quantiles"] for box in boxes.values()])
    name_places(axes, [plot_text(name) for name in boxes])
    cover(axes, 0, max((box["quantiles"][-1] for box in boxes.values()), default=1))
    axes.set(xlabel="layer", ylabel="share of weights that are zero")
    return figure


def _draw_epochs(axes: Axes, content: Mapping[str, Any], column: str) -> None:
    entry = content["epochs"][column]
    quantiles = [box["quantiles"] for box in entry["boxes"].values()]
    draw_quantiles(axes, quantiles)
    cover(axes, min(five[0] for five in quantiles), max(five[-1] for five in quantiles))
    axes.set(xlabel="epoch", ylabel=entry["label"], xlim=(-0.6, len(quantiles) - 0.4))
    name_places(axes, list(entry["boxes"]))


def _draw_map(axes: Axes, content: Mapping[str, Any], column: str) -> None:
    plane = content["map"]
    values = plane["columns"][column]
    x, y = np.array(plane["x"]), np.array(plane["y"])
    different = sorted({value for value in values if value is not None})
    if len(different) > _MOST_COLOURS and not isinstance(different[0], str):
        numbers = np.array([np.nan if value is None else value for value in values], float)
        points = axes.scatter(x, y, c=numbers, s=12, cmap="viridis", plotnonfinite=True, linewidths=0)
        axes.figure.colorbar(points, ax=axes, label=column)
    else:
        for value, colour in zip(different, COLOURS * (len(different) // len(COLOURS) + 1), strict=False):
            equal = np.array([other == value for other in values])
            axes.scatter(x[equal], y[equal], s=12, color=colour, label=plot_text(value), linewidths=0, alpha=0.85)
        axes.legend(title=column, fontsize="small", title_fontsize="small", frameon=False)
    _plane(axes, x, y)
    axes.set(xlabel=plane["labels"][0], ylabel=plane["labels"][1])


def _draw_effect(axes: Axes, effect: Mapping[str, Any]) -> None:
    quantiles = [box["quantiles"] for box in effect["boxes"].values()]
    draw_quantiles(axes, quantiles)
    cover(axes, min(five[0] for five in quantiles), max(five[-1] for five in quantiles))
    names = [plot_text(name[:_LONGEST_NAME]) for name in effect["boxes"]]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(xlim=(-0.6, len(names) - 0.4), ylabel="test accuracy")
    axes.set_title(f"{effect['hyperparameter']} (η² = {effect['explained']:.2f})", fontsize="small")


def _plane(axes: Axes, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> None:
    cover(axes, float(x.min()), float(x.max()), x=True)
    cover(axes, float(y.min()), float(y.max()))
    axes.grid(visible=False)


def _figure(content: Mapping[str, Any], columns: int = 1, *, shared: bool = True) -> tuple[Figure, Sequence[Axes]]:
    figure, panels = new_figure(max(5.6, _PANEL * columns), _HEIGHT, columns, shared=shared)
    figure.suptitle(plot_text(content.get("title", content["name"])), fontsize="medium")
    return figure, panels
