"""`zoo download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.progress import transfer_bar
from zoo_datasets.cli.shell import stoppable, zoo_names


@stoppable("what was fetched is kept; the same command goes on from there")
def download_command(
    name: Annotated[
        str, typer.Argument(help="A published zoo of `zoo list`, or one of its twins.", autocompletion=zoo_names)
    ],
    out: Annotated[Path, typer.Option(help="The folder to put it into.")] = Path(),
    file: Annotated[
        str | None, typer.Option(help="A file of its Zenodo record.", show_default="the zoo's raw archive")
    ] = None,
) -> None:
    """Fetch a published zoo from Zenodo or the authors' server, its checksum verified.

    Mirrors: ZOO_ZENODO and ZOO_FILES take the place of https://zenodo.org and https://ai.unisg.ch/files.
    """
    from zoo_datasets.builders.sources.raw.published import download_published
    from zoo_datasets.terminal import Terminal, say

    console = Terminal(stderr=True)
    with transfer_bar(console) as (fetched, _):
        path = download_published(name, out, file=file, fetched=fetched)
    size = sum(entry.stat().st_size for entry in (path.rglob("*") if path.is_dir() else [path]) if entry.is_file())
    say(console, f"{path}: {size / 1e6:,.1f} MB")
    say(console, f"build it: zoo build {path} --out model-zoos --name {name}")
