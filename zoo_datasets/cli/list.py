"""`zoo list`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

# Columns that the whole table of zoos needs.
_WIDE = 172


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects instead of a table.")] = False,
) -> None:
    """All zoos of the table, with their sparsified twins, and the populations of others that `zoo build` knows."""
    from zoo_datasets.repository.populations import list_populations
    from zoo_datasets.specs.zoos import list_zoos

    zoos = [_listed(zoo) for zoo in list_zoos()]
    populations = [_listed_population(one) for one in list_populations()]
    rows = zoos + populations
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    from zoo_datasets.terminal import tables

    console = tables(_WIDE)
    models = sum(row["models"] for row in zoos)
    table = Table(title=f"{len(zoos)} zoos, {models:,} models; {len(populations)} populations of others")
    # The name says images and architecture as well; what is left fits 80 columns.
    wide = console.width >= _WIDE
    table.add_column("name", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    if wide:
        table.add_column("images", no_wrap=True)
        table.add_column("architecture", no_wrap=True)
    counts = ("parameters", "models", "epochs") if wide else ("models", "epochs")
    for title in counts:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("twins", overflow="fold", min_width=8)
    if wide:
        table.add_column("doi", no_wrap=True)
    for row in rows:
        names = [row["name"], row["kind"], *([row["images"], row["architecture"]] if wide else [])]
        numbers = ["–" if row[name] is None else f"{row[name]:,}" for name in counts]
        table.add_row(*names, *numbers, _twins(row), *([row["doi"] or "–"] if wide else []))
    console.print(table)


def _twins(row: dict[str, Any]) -> str:
    """The twins' suffixes; a row of magnitudes is told by its ends."""
    suffixes = [name.removeprefix(row["name"]) for name in row["twins"]]
    return ", ".join(suffixes) if len(suffixes) <= 2 else f"{suffixes[0]}, {suffixes[1]} … {suffixes[-1]}"


def _listed(zoo: Any) -> dict[str, Any]:
    from zoo_datasets.images.table import get_image_spec
    from zoo_datasets.networks.kind import NetworkKind
    from zoo_datasets.specs.zoos import twins_of

    images = get_image_spec(zoo.images, zoo.architecture)
    return {
        "name": zoo.name,
        "kind": "paper" if zoo.published or zoo.doi else "ours",
        "images": zoo.images,
        "architecture": zoo.architecture,
        "parameters": NetworkKind.on(zoo.architecture, images).layout.parameters,
        "models": zoo.models,
        "epochs": zoo.epochs,
        "twins": [twin.name for twin in twins_of(zoo)],
        "doi": zoo.doi,
    }


def _listed_population(population: Any) -> dict[str, Any]:
    own = {name: getattr(population, name) for name in ("images", "architecture", "parameters", "models", "epochs")}
    return {"name": population.name, "kind": "population", **own, "twins": [], "doi": None}
