"""`zoo push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import stoppable


@stoppable("the repository on the Hub is as it was; the same command goes on, and sends no finished file again")
def push(
    repo: Annotated[Path, typer.Argument(help="A local dataset repository, made by `zoo build`.")],
    repo_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The dataset on the Hub, new or existing.")],
    config: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Push this zoo; may be given again.", show_default="all")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new dataset private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; created if it is missing.", show_default="main")] = (
        None
    ),
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace zoos of the same name with other content, and what the card says."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Push to a dataset with data files of no config, which load_dataset gives.")
    ] = False,
) -> None:
    """Publish zoos on the Hub: checked first, sent once, in one commit beside the zoos that are there."""
    from zoo_datasets.hub.push import push_repository
    from zoo_datasets.terminal import Terminal, say

    console = Terminal(stderr=True)

    def tell(text: str) -> None:
        say(console, text)

    result = push_repository(
        repo, repo_id, config or (), private=private, revision=revision, create_pr=create_pr, replace=replace,
        force=force, progress=progress_bar(console, "checking", "files"), tell=tell,
    )  # fmt: skip
    for warning in result.warnings:
        tell(f"warning: {warning}")
    if not result.added and not result.removed:
        tell(f"{result.url} holds all of it already: nothing to do")
    else:
        removed = f", {len(result.removed)} removed" if result.removed else ""
        tell(f"{result.url}: {len(result.added)} files, {result.bytes / 1e6:,.1f} MB added{removed}; {result.commit}")
    if not create_pr:
        at = f', revision="{revision}"' if revision else ""
        for name in result.configs:
            tell(f'load it: datasets.load_dataset("{result.repo_id}", "{name}"{at})')
