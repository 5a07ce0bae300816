"""`zoo quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.shell import stoppable
from zoo_datasets.errors import RepositoryError


@stoppable("every finished epoch is on disk; the same command goes on from there")
def quickstart_command(
    out: Annotated[Path, typer.Option(help="A folder for the run and the repository.")] = Path("quickstart"),
) -> None:
    """The main job on the embedded digits, from training to a restored model, in about a minute."""
    from zoo_datasets.cli.quickstart_job import quickstart
    from zoo_datasets.terminal import Terminal

    difference = quickstart(out, Terminal())
    if difference > 1e-6:
        raise RepositoryError(f"the restored model's accuracy is {difference:.6f} off the recorded one, expected 0")
