"""`zoo show`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from zoo_datasets.cli.pictures import Pdf, Png, Svg, write_pictures
from zoo_datasets.cli.shell import stoppable

_WIDE = 120
_MOST_STATES = 12


@stoppable("nothing was changed")
def show(
    repo: Annotated[str, typer.Argument(help="A local dataset repository, or a dataset's id on the Hub.")],
    name: Annotated[str, typer.Argument(help="The zoo.")],
    model: Annotated[
        str | None, typer.Argument(help="A model's id, or its beginning.", show_default="--best is needed")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The model of the highest validation accuracy.")] = False,
    epoch: Annotated[int | None, typer.Option(min=0, help="The epoch.", show_default="the last, or the best")] = None,
    png: Png = None,
    svg: Svg = None,
    pdf: Pdf = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """One model: its recipe, its figures over epochs, and its tensors."""
    from zoo_datasets.evaluation.single import describe
    from zoo_datasets.terminal import Terminal

    if (model is None) == (not best):
        raise typer.BadParameter("give a model's id, or --best", param_hint="MODEL")
    content = describe(repo, name, model, epoch)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(content, repo)
    if png or svg or pdf:
        from zoo_datasets.evaluation.report.comparing import write_model

        console = Terminal(stderr=True)
        write_pictures(console, png, svg, pdf, lambda folder, form: write_model(content, folder, form))


def _print(content: dict[str, Any], repo: str) -> None:
    from rich.table import Table

    from zoo_datasets.terminal import say, tables

    console = tables(_WIDE)
    say(console, f"{content['zoo']}: model {content['model_id']} at epoch {content['epoch']}")
    say(console, ", ".join(f"{key} {_text(value)}" for key, value in content["recipe"].items()))
    states = Table(title="figures")
    shown = [name for name in content["states"][0] if any(row[name] is not None for row in content["states"])]
    for name in shown:
        states.add_column(name, justify="right")
    step = -(-len(content["states"]) // _MOST_STATES)
    for number, row in enumerate(content["states"]):
        if (len(content["states"]) - 1 - number) % step == 0 or row["epoch"] == content["epoch"]:
            states.add_row(*(_text(row[name]) for name in shown))
    console.print(states)
    tensors = Table(title=f"tensors at epoch {content['epoch']}")
    tensors.add_column("name")
    for heading in ("shape", "mean", "std", "least", "greatest", "zeros"):
        tensors.add_column(heading, justify="right")
    for tensor in content["tensors"]:
        box = tensor["box"] or {"low": None, "high": None}
        numbers = (tensor["mean"], tensor["std"], box["low"], box["high"], tensor["zeros"])
        tensors.add_row(tensor["name"], " × ".join(map(str, tensor["shape"])), *map(_text, numbers))
    console.print(tensors)
    condition = f'model_id == "{content["model_id"]}"'
    say(console, f"a file of it: zoo export {repo} {content['zoo']} --epochs {content['epoch']} --where '{condition}'")


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
