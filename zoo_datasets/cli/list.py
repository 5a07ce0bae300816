"""`zoo list`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

# Columns that the whole table of zoos needs.
_WIDE = 140


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects instead of a table.")] = False,
) -> None:
    """All zoos of the table, with their sparsified twins."""
    from zoo_datasets.specs.zoos import list_zoos

    rows = [_listed(zoo) for zoo in list_zoos()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    from zoo_datasets.terminal import tables

    console = tables(_WIDE)
    table = Table(title=f"{len(rows)} zoos, {sum(row['models'] for row in rows):,} models")
    # The name says images and architecture as well; what is left fits 80 columns.
    wide = console.width >= _WIDE
    table.add_column("name", no_wrap=True)
    if wide:
        table.add_column("images", no_wrap=True)
        table.add_column("architecture", no_wrap=True)
    for title in ("parameters", "models", "epochs"):
        table.add_column(title if wide else title[:6], justify="right", no_wrap=True)
    table.add_column("twins", overflow="fold", min_width=8)
    if wide:
        table.add_column("doi", no_wrap=True)
    for row in rows:
        names = [row["name"], row["images"], row["architecture"]] if wide else [row["name"]]
        numbers = [f"{row[name]:,}" for name in ("parameters", "models", "epochs")]
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
        "images": zoo.images,
        "architecture": zoo.architecture,
        "parameters": NetworkKind.on(zoo.architecture, images).layout.parameters,
        "models": zoo.models,
        "epochs": zoo.epochs,
        "twins": [twin.name for twin in twins_of(zoo)],
        "doi": zoo.doi,
    }
