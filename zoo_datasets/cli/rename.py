"""`zoo rename`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import stoppable


@stoppable("the zoo has its old name, or both until the same command goes on")
def rename(
    repo: Annotated[Path, typer.Argument(help="A local dataset repository.")],
    name: Annotated[str, typer.Argument(metavar="OLD", help="The zoo.")],
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Give a zoo of a local repository another name; its rows, which hold the name, are written anew."""
    from zoo_datasets.builders.select import rename_zoo
    from zoo_datasets.terminal import Terminal, say

    console = Terminal(stderr=True)
    with progress_bar(console, "renaming", "states") as advance:
        removal = rename_zoo(repo, name, new_name, dry_run=dry_run, progress=advance)
    size = f"{len(removal.files):,} files, {removal.bytes / 1e6:,.1f} MB"
    if dry_run:
        say(console, f"{repo}: {name} would be written anew as {new_name}, {size}; nothing was changed")
    else:
        say(console, f"{repo}: {name} is called {new_name} now; {size} of the old name are removed")
