"""Drawing of populations, for cards and reports: matplotlib figures without pyplot.

So no figure stays open, no window system is needed, and the same data gives the same picture. Cards, reports and
comparisons share one style.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from zoo_datasets.text import counted

# Okabe and Ito's colours, told apart by most eyes; the report's page has the same.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#8c8c8c")
INK, SOFT, FILL = "#222222", "#8a8a8a", "#9ccbe8"
FORMATS = ("png", "svg", "pdf")

_MOST_TICKS = 12
_LEAST_TICKS = 3
_BEYOND = 0.02  # of an axis, so that marks at its ends are whole
# Letters of SVG are curves and those of PDF TrueType, which publishers ask for; no date and no random names.
_RENDERING = {"svg.fonttype": "path", "svg.hashsalt": "zoo-datasets", "pdf.fonttype": 42}
_UNDATED: Mapping[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def new_figure(
    width: float, height: float, columns: int = 1, margins: Mapping[str, float] | None = None, *, shared: bool = True
) -> tuple[Figure, list[Axes]]:
    """An empty figure with a row of axes, which share their y axis where that is asked for.

    Args:
        width, height: in inches.
        margins: `left`, `right`, `bottom`, `top` of the axes as shares of the figure; None fits them to the labels.
    """
    figure = Figure(figsize=(width, height), layout="constrained" if margins is None else None)
    if margins is not None:
        figure.subplots_adjust(**margins)
    panels = list(figure.subplots(1, columns, sharey=shared, squeeze=False)[0])
    for axes in panels:
        set_style(axes)
    return figure, panels


def title_of(name: str, models: int, epochs: Sequence[int]) -> str:
    """What a picture is of: the zoo, how many models, and from which epoch to which."""
    span = (
        f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}" if epochs else "no epochs"
    )
    return f"{name}: {counted(models, 'model')}, {span}"


def set_style(axes: Axes) -> None:
    """Light lines at the ticks of the y axis, and no frame but the lines that carry ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(color=SOFT, labelcolor=INK, labelsize="small")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.title.set_fontsize("medium")


def cover(axes: Axes, low: float, high: float, *, x: bool = False) -> None:
    """Make the ticks of the y axis, or the x axis, begin at or below `low` and end at or above `high`."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=_LEAST_TICKS)
    ticks = locator.tick_values(low, high)
    first = max(int(np.searchsorted(ticks, low, side="right")) - 1, 0)
    last = min(int(np.searchsorted(ticks, high)), len(ticks) - 1)
    ticks = ticks[first : last + 1]
    beyond = _BEYOND * (ticks[-1] - ticks[0])
    (axes.set_xticks if x else axes.set_yticks)(ticks)
    (axes.set_xlim if x else axes.set_ylim)(ticks[0] - beyond, ticks[-1] + beyond)


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


def draw_quantiles(
    axes: Axes,
    quantiles: Sequence[Sequence[float]],
    shift: float = 0.0,
    colour: str = FILL,
    label: str | None = None,
    places: Sequence[int] | None = None,
) -> None:
    """A box plot of each five ascending values: whisker, quartile, median, quartile, whisker.

    Args:
        shift: of all boxes from their places.
        label: in a legend.
        places: where the boxes stand; None means 0, 1, ….
    """
    keys = ("whislo", "q1", "med", "q3", "whishi")
    stats = [dict(zip(keys, five, strict=True)) for five in quantiles]
    thin = {"linewidth": 0.8, "color": INK}
    drawn = axes.bxp(
        stats, positions=[place + shift for place in places or range(len(stats))], showfliers=False, patch_artist=True,
        widths=1.5 * abs(shift) or 0.6, boxprops={"facecolor": colour, "edgecolor": INK, "linewidth": 0.8},
        medianprops={"color": INK, "linewidth": 1.4}, whiskerprops=thin, capprops=thin, manage_ticks=False,
    )  # fmt: skip
    if label is not None and drawn["boxes"]:
        drawn["boxes"][0].set_label(label)


def draw_histogram(
    axes: Axes, counts: Sequence[int], edges: Sequence[float], colour: str = FILL, label: str | None = None
) -> None:
    """Counted values between edges, of which there is one more."""
    axes.stairs(counts, edges, fill=True, facecolor=colour, edgecolor=INK, linewidth=0.5, alpha=0.75, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=_LEAST_TICKS, steps=[1, 2, 2.5, 5, 10]))


def name_places(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, … of the x axis, every second or later one alone if there are more than twelve."""
    step = max(-(-len(names) // _MOST_TICKS), 1)
    axes.set_xticks(range(0, len(names), step), list(names)[::step])


def render(figure: Figure, form: str, dpi: int) -> bytes:
    """A figure as png, svg or pdf; the same figure gives the same bytes on one version of matplotlib."""
    buffer = io.BytesIO()
    with mpl.rc_context(_RENDERING):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=_UNDATED[form])
    return buffer.getvalue()
