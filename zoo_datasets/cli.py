"""The `zoo` command: parses and calls; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_datasets.command_line import run_app
from zoo_datasets.training.command import train

app = typer.Typer(
    name="zoo",
    help="Populations of neural networks as datasets: train, build, load, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(train)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects instead of a table.")] = False,
) -> None:
    """All zoos of the table, with their sparsified twins."""
    from zoo_datasets.zoos import list_zoos

    rows = [_listed(zoo) for zoo in list_zoos()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(rows)} zoos, {sum(row['models'] for row in rows):,} models")
    for title, justify in (("name", "left"), ("images", "left"), ("architecture", "left"), ("parameters", "right"),
                           ("models", "right"), ("epochs", "right"), ("twins", "left"), ("doi", "left")):  # fmt: skip
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        numbers = [f"{row[name]:,}" for name in ("parameters", "models", "epochs")]
        twins = ", ".join(name.removeprefix(row["name"]) for name in row["twins"])
        table.add_row(row["name"], row["images"], row["architecture"], *numbers, twins, row["doi"] or "–")
    console = Console()
    # A table cut to a pipe's 80 columns would lose names.
    console.print(table, width=None if console.is_terminal else 160)


def _listed(zoo: Any) -> dict[str, Any]:
    from zoo_datasets.architectures import layout_of
    from zoo_datasets.images import get_image_spec
    from zoo_datasets.zoos import twins_of

    images = get_image_spec(zoo.images, zoo.architecture)
    return {
        "name": zoo.name,
        "images": zoo.images,
        "architecture": zoo.architecture,
        "parameters": layout_of(zoo.architecture, images.channels, images.classes).parameters,
        "models": zoo.models,
        "epochs": zoo.epochs,
        "twins": [twin.name for twin in twins_of(zoo)],
        "doi": zoo.doi,
    }


def main() -> None:
    """Entry point of the `zoo` command."""
    run_app(app)


if __name__ == "__main__":
    main()
