"""`zoo remove`."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo_datasets.cli.shell import stoppable

# Files that are named; more are counted.
_SHOWN = 20


@stoppable("the same command goes on")
def remove(
    repo: Annotated[str, typer.Argument(help="A local dataset repository, or a dataset's id on the Hub.")],
    name: Annotated[str, typer.Argument(help="The zoo; its config without weights goes with it.")],
    revision: Annotated[str | None, typer.Option(help="The branch, on the Hub.", show_default="main")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Take a zoo out of a repository: off the card, and its files; on the Hub by a commit that says so."""
    from zoo_datasets.hub.remove import remove_zoo
    from zoo_datasets.terminal import Terminal, say

    console = Terminal(stderr=True)

    def tell(text: str) -> None:
        say(console, text)

    removal = remove_zoo(repo, name, revision=revision, dry_run=dry_run, tell=tell)
    for path in removal.files[:_SHOWN]:
        tell(f"{'would remove' if dry_run else 'removed'} {path}")
    if len(removal.files) > _SHOWN:
        tell(f"… and {len(removal.files) - _SHOWN:,} more files")
    size = f"{len(removal.files):,} files, {removal.bytes / 1e6:,.1f} MB"
    if dry_run:
        tell(f"{removal.location}: {name} would go from the card, with {size}; nothing was changed")
    else:
        at = f"; {removal.commit}; its files stay in the dataset's history" if removal.commit else ""
        tell(f"{removal.location}: {name} is removed, with {size}{at}")
