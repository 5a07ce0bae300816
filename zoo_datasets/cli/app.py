"""The `zoo` command; nothing heavy is imported before a command needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo_datasets.cli.benchmark import benchmark
from zoo_datasets.cli.build import build
from zoo_datasets.cli.compare import compare
from zoo_datasets.cli.download import download_command
from zoo_datasets.cli.export import export
from zoo_datasets.cli.info import info
from zoo_datasets.cli.list import list_command
from zoo_datasets.cli.push import push
from zoo_datasets.cli.quickstart import quickstart_command
from zoo_datasets.cli.remove import remove
from zoo_datasets.cli.rename import rename
from zoo_datasets.cli.report import report
from zoo_datasets.cli.select import select
from zoo_datasets.cli.shell import hide_library_bars, make_app, run_app
from zoo_datasets.cli.show import show
from zoo_datasets.cli.sparsify import sparsify
from zoo_datasets.cli.train import train
from zoo_datasets.cli.verify import verify
from zoo_datasets.version import __version__


def print_version(asked: bool) -> None:
    """Print the version and exit, if it is asked for."""
    if asked:
        typer.echo(__version__)
        raise typer.Exit


app = make_app(
    name="zoo",
    help="Populations of neural networks as datasets: train, build, load, verify, publish.",
    no_args_is_help=True,
)


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Populations of neural networks as datasets: train, build, load, verify, publish."""
    hide_library_bars(uploads=context.invoked_subcommand == "push")


app.command("list")(list_command)
app.command()(train)
app.command()(sparsify)
app.command("download")(download_command)
app.command()(build)
app.command()(verify)
app.command()(info)
app.command()(push)
app.command()(select)
app.command()(rename)
app.command()(remove)
app.command()(export)
app.command()(benchmark)
app.command()(report)
app.command()(compare)
app.command()(show)
app.command("quickstart")(quickstart_command)


def main() -> None:
    """Entry point of the `zoo` command."""
    run_app(app)
