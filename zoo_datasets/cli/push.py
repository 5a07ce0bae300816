"""`zoo push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import stoppable

if TYPE_CHECKING:
    from zoo_datasets.hub.plan import PlannedZoo
    from zoo_datasets.hub.push import PushResult
    from zoo_datasets.terminal import Tell

_WIDE = 150


@stoppable("the repository on the Hub is as it was; the same command goes on, and sends no finished file again")
def push(
    repo: Annotated[
        Path, typer.Argument(help="A local dataset repository, made by `zoo build`; with --all a folder of them.")
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="The dataset on the Hub, new or existing; with --all ORG alone.")
    ],
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
    everything: Annotated[
        bool, typer.Option("--all", help="Push each repository to ORG/FOLDER, zoo by zoo, the smallest first.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, with licences and citations; send nothing.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.01, help="Megabytes a second, for the hours of a dry run.")] = 10.0,
) -> None:
    """Publish zoos on the Hub: checked first, sent once, in one commit beside the zoos that are there."""
    from zoo_datasets.hub.plan import plan_push, repositories_in
    from zoo_datasets.hub.push import push_repository
    from zoo_datasets.terminal import Terminal, say

    if everything == ("/" in repo_id):
        expected = "ORG, as each folder names a dataset" if everything else "ORG/NAME"
        raise typer.BadParameter(f"{repo_id!r}: expected {expected}", param_hint="ORG/NAME")
    targets = (
        [(each, f"{repo_id}/{each.resolve().name}") for each in repositories_in(repo)]
        if everything
        else [(repo, repo_id)]
    )
    if dry_run:
        _print_plan([zoo for each, target in targets for zoo in plan_push(each, target, config or ())], rate)
        return
    console = Terminal(stderr=True)

    def tell(text: str) -> None:
        say(console, text)

    parts = [(repo, repo_id, config or [])]
    if everything:  # one zoo a commit where there are many: each loads as soon as it has arrived
        planned = [zoo for each, target in targets for zoo in plan_push(each, target, config or ())]
        parts = [(zoo.repo, zoo.repo_id, [zoo.name]) for zoo in planned]
    for each, target, names in parts:
        result = push_repository(
            each, target, names, private=private, revision=revision, create_pr=create_pr, replace=replace,
            force=force, progress=progress_bar(console, "checking", "files"), tell=tell,
        )  # fmt: skip
        _tell_result(result, tell, None if create_pr else revision or "")


def _tell_result(result: PushResult, tell: Tell, revision: str | None) -> None:
    """Say what was pushed; None in the place of a branch means a pull request, from which nothing loads yet."""
    for warning in result.warnings:
        tell(f"warning: {warning}")
    if not result.added and not result.removed:
        tell(f"{result.url} holds all of it already: nothing to do")
    else:
        removed = f", {len(result.removed)} removed" if result.removed else ""
        tell(f"{result.url}: {len(result.added)} files, {result.bytes / 1e6:,.1f} MB added{removed}; {result.commit}")
    if revision is not None:
        at = f', revision="{revision}"' if revision else ""
        for name in result.configs:
            tell(f'load it: datasets.load_dataset("{result.repo_id}", "{name}"{at})')


def _print_plan(zoos: list[PlannedZoo], rate: float) -> None:
    from rich.table import Table

    from zoo_datasets.terminal import say, tables

    console = tables(_WIDE)
    table = Table(title=f"to push, in this order, at {rate:g} MB/s")
    for heading in ("", "zoo", "to"):
        table.add_column(heading, no_wrap=True)
    for heading in ("models", "rows", "files", "MB", "hours"):
        table.add_column(heading, justify="right")
    table.add_column("licence")
    table.add_column("cites")
    for number, zoo in enumerate(zoos, 1):
        table.add_row(
            str(number), zoo.name, zoo.repo_id, f"{zoo.models:,}", f"{zoo.rows:,}", f"{zoo.files:,}",
            f"{zoo.bytes / 1e6:,.1f}", f"{zoo.bytes / 1e6 / rate / 3600:,.2f}", zoo.licence,
            ", ".join(zoo.citations) or "–",
        )  # fmt: skip
    console.print(table)
    total = sum(zoo.bytes for zoo in zoos) / 1e6
    problems = [f"{zoo.name}: {problem}" for zoo in zoos for problem in zoo.problems]
    for warning in [f"{zoo.name}: {warning}" for zoo in zoos for warning in zoo.warnings]:
        say(console, f"warning: {warning}")
    for problem in problems:
        say(console, f"to mend: {problem}")
    say(
        console,
        f"{len(zoos)} zoos, {sum(zoo.rows for zoo in zoos):,} rows, {total:,.1f} MB, {total / rate / 3600:,.2f} hours; "
        "what the Hub holds already is not sent again",
    )
    say(console, "nothing was sent, and the Hub was not asked; without --dry-run each zoo is verified and pushed")
    if problems:
        raise typer.Exit(1)
