"""The plots of two zoos side by side, and of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from zoo_datasets.evaluation.report.plots import write_figures
from zoo_datasets.plotting import COLOURS, cover, draw_quantiles, name_places, new_figure, title_of
from zoo_datasets.text import plot_text

_SIDES = (COLOURS[5], COLOURS[4])
_SHIFT = 0.2  # of a box from its epoch
_WIDTH, _HEIGHT, _SQUARE = 6.4, 3.8, 4.4  # inches


def write_comparison(content: Mapping[str, Any], folder: Path, form: str) -> list[Path]:
    """Write the plots of what `zoo_datasets.evaluation.comparison.compare` gives; returns the files."""
    return write_figures(dict(_figures(content)), folder, form)


def _figures(content: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    for column, label in content["labels"].items():
        yield f"{column}_over_epochs", over_epochs(content, column, label)
        yield f"{column}_at_the_end", at_the_end(content, column, label)
        if content["pairs"] and column in content["pairs"]["figures"]:
            yield f"{column}_of_pairs", of_pairs(content, column, label)


def over_epochs(content: Mapping[str, Any], column: str, label: str) -> Figure:
    """A figure of both zoos over epochs, side by side where they share one: whiskers from 5 to 95 %."""
    sides = content["sides"]
    epochs = sorted({int(epoch) for side in sides for epoch in side["figures"][column]})
    place = {epoch: at for at, epoch in enumerate(epochs)}
    figure, (axes,) = new_figure(_WIDTH, _HEIGHT)
    values: list[float] = []
    for side, colour, shift in zip(sides, _SIDES, (-_SHIFT, _SHIFT), strict=True):
        boxes = {place[int(epoch)]: box["quantiles"] for epoch, box in side["figures"][column].items()}
        draw_quantiles(axes, list(boxes.values()), shift, colour, _name(side), list(boxes))
        values += [value for five in boxes.values() for value in five]
    name_places(axes, list(map(str, epochs)))
    cover(axes, min(values), max(values))
    axes.set(xlabel="epoch", ylabel=label, xlim=(-0.6, len(epochs) - 0.4))
    _legend(figure)
    return figure


def at_the_end(content: Mapping[str, Any], column: str, label: str) -> Figure:
    """How a figure of both zoos is distributed at their last epochs; no bins, which make combs of shares."""
    figure, (axes,) = new_figure(_WIDTH, _HEIGHT)
    values: list[float] = []
    for side, colour in zip(content["sides"], _SIDES, strict=True):
        percentiles = side["distribution"].get(column, [])
        shares = [place / max(len(percentiles) - 1, 1) for place in range(len(percentiles))]
        axes.step(percentiles, shares, where="post", color=colour, linewidth=1.8, label=_name(side))
        values += percentiles
    cover(axes, min(values), max(values), x=True)
    cover(axes, 0, 1)
    axes.set(xlabel=f"{label}, at the last epoch", ylabel="share of the models at or below")
    _legend(figure)
    return figure


def of_pairs(content: Mapping[str, Any], column: str, label: str) -> Figure:
    """A figure of each pair of models, the first zoo's against the second's; on the line both are equal."""
    x, y = content["pairs"]["figures"][column]["values"]
    low, high = min(*x, *y), max(*x, *y)
    figure, (axes,) = new_figure(_SQUARE, _SQUARE)
    axes.axline((low, low), slope=1, color=COLOURS[7], linewidth=0.8)
    axes.scatter(x, y, s=12, color=COLOURS[0], alpha=0.7, linewidths=0)
    for horizontal in (True, False):
        cover(axes, low, high, x=horizontal)
    first, second = (plot_text(side["name"]) for side in content["sides"])
    axes.set(xlabel=first, ylabel=second, aspect="equal")
    figure.suptitle(f"{label}: {content['pairs']['models']:,} pairs", fontsize="medium")
    return figure


def write_model(content: Mapping[str, Any], folder: Path, form: str) -> list[Path]:
    """Write the plots of what `zoo_datasets.evaluation.single.describe` gives; returns the files."""
    return write_figures({"training": training(content), "tensors": tensors(content)}, folder, form)


def training(content: Mapping[str, Any]) -> Figure:
    """Accuracies and losses of a model over its epochs."""
    figure, panels = new_figure(2 * _SQUARE, _HEIGHT, 2, shared=False)
    for axes, kind, label in zip(panels, ("acc", "loss"), ("accuracy", "loss"), strict=True):
        values: list[float] = []
        for part, colour in zip(("train", "val", "test"), COLOURS, strict=False):
            points = [(row["epoch"], row[f"{part}_{kind}"]) for row in content["states"]]
            points = [point for point in points if point[1] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1.2, color=colour, label=part)
                values += [value for _, value in points]
        axes.axvline(content["epoch"], color=COLOURS[7], linewidth=0.8)
        axes.set(xlabel="epoch", ylabel=label)
        if values:
            cover(axes, min(values), max(values))
            axes.legend(fontsize="small", frameon=False)
    figure.suptitle(_title(content), fontsize="medium")
    return figure


def tensors(content: Mapping[str, Any]) -> Figure:
    """The values of each tensor as a box plot: whiskers from 5 to 95 %."""
    boxes = {tensor["name"]: tensor["box"]["quantiles"] for tensor in content["tensors"] if tensor["box"]}
    figure, (axes,) = new_figure(_WIDTH, _HEIGHT)
    draw_quantiles(axes, list(boxes.values()))
    axes.set_xticks(range(len(boxes)), [plot_text(name) for name in boxes], rotation=40, ha="right")
    every = [value for five in boxes.values() for value in five]
    cover(axes, min(every, default=0), max(every, default=1))
    axes.set(ylabel="values", xlim=(-0.6, len(boxes) - 0.4))
    figure.suptitle(_title(content), fontsize="medium")
    return figure


def _title(content: Mapping[str, Any]) -> str:
    return plot_text(f"{content['zoo']}: model {content['model_id']}, epoch {content['epoch']}")


def _name(side: Mapping[str, Any]) -> str:
    epochs: Sequence[int] = side["epochs"]
    return plot_text(title_of(side["name"], side["models"], epochs))


def _legend(figure: Figure) -> None:
    """Above the axes, where it covers no data."""
    figure.legend(loc="outside upper center", fontsize="small", frameon=False)
