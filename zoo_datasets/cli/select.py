"""`zoo select`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.build import print_result
from zoo_datasets.cli.options import Epochs, Where
from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import numbers, stoppable


@stoppable("the repository is as it was before; the same command goes on from the shards that are finished")
def select(
    repo: Annotated[str, typer.Argument(help="A local dataset repository, or a dataset's id on the Hub.")],
    config: Annotated[str, typer.Argument(metavar="NAME", help="The config whose rows are selected.")],
    out: Annotated[Path, typer.Option(help="The dataset repository to write into, new or existing.")],
    name: Annotated[
        str | None, typer.Option(metavar="NEW", help="Of the selection.", show_default="that of the config")
    ] = None,
    epochs: Epochs = None,
    steps: Annotated[str | None, typer.Option(metavar="0,1000", help="Only these optimizer steps.")] = None,
    where: Where = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="lr,rank", help="Only these columns keep their values, and those that make the network."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, on the Hub.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a config of other rows.")] = False,
    num_proc: Annotated[
        int, typer.Option(min=1, metavar="N", help="Shards read and written at a time; the result is the same.")
    ] = 1,
) -> None:
    """Write rows of a config into another one, with their networks, credit and notes."""
    from zoo_datasets.builders.select import select_rows
    from zoo_datasets.builders.sources.repository import RowChoice
    from zoo_datasets.terminal import Terminal

    choice = RowChoice(
        epochs=None if epochs is None else numbers(epochs),
        steps=None if steps is None else numbers(steps, "--steps"),
        where=where,
        columns=None if columns is None else [part for text in columns.split(",") if (part := text.strip())],
    )
    console = Terminal(stderr=True)
    with progress_bar(console, "selecting", "states") as advance:
        result = select_rows(
            repo, config, out, choice, new_name=name, revision=revision, replace=replace, num_proc=num_proc,
            progress=advance,
        )  # fmt: skip
    print_result(console, out, result)
