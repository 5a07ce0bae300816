"""`zoo compare`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from zoo_datasets.cli.pictures import Pdf, Png, Svg, write_pictures
from zoo_datasets.cli.shell import stoppable

_WIDE = 140


@stoppable("nothing was changed")
def compare(
    first: Annotated[str, typer.Argument(metavar="REPO/ZOO", help="A repository, here or on the Hub, and its zoo.")],
    second: Annotated[str, typer.Argument(metavar="REPO/ZOO", help="Another one, as the sparse twins of the first.")],
    png: Png = None,
    svg: Svg = None,
    pdf: Pdf = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Two zoos side by side, twins with their parents among them: figures at the last epoch, and of each pair."""
    from zoo_datasets.evaluation.comparison import compare as compare_zoos
    from zoo_datasets.terminal import Terminal, working

    console = Terminal(stderr=True)
    with working(console, "figures of both zoos"):
        content = compare_zoos(first, second)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(content)
    if png or svg or pdf:
        from zoo_datasets.evaluation.report.comparing import write_comparison

        write_pictures(console, png, svg, pdf, lambda folder, form: write_comparison(content, folder, form))


def _print(content: dict[str, Any]) -> None:
    from rich.table import Table

    from zoo_datasets.terminal import say, tables

    console = tables(_WIDE)
    table = Table(title="medians at the last epoch (5 to 95 %)")
    table.add_column("")
    for side in content["sides"]:
        table.add_column(side["name"], justify="right")
    pairs = content["pairs"]
    if pairs:
        table.add_column("second − first", justify="right")
    blank = [""] * bool(pairs)
    table.add_row("models", *(f"{side['models']:,}" for side in content["sides"]), *blank)
    table.add_row("last epoch", *(str(side["epochs"][-1]) for side in content["sides"]), *blank)
    for column, label in content["labels"].items():
        cells = [_range(side["last"].get(column)) for side in content["sides"]]
        paired = pairs["figures"].get(column) if pairs else None
        table.add_row(
            label.partition(" (")[0], *cells, *([_range(paired["difference"] if paired else None)] if pairs else [])
        )
    table.add_row("best by validation", *(_best(side["best"]) for side in content["sides"]), *blank)
    console.print(table)
    say(console, "no pairs of models" if not pairs else f"{pairs['models']:,} pairs: {pairs['how']}")


def _range(box: dict[str, Any] | None) -> str:
    if box is None:
        return "–"
    low, _, middle, _, high = box["quantiles"]
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def _best(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    tested = "" if row["test_acc"] is None else f": test {row['test_acc']:.4f}"
    return f"{row['model_id'][:12]} at epoch {row['epoch']}{tested}"
