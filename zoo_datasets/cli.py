"""The `zoo` command; nothing heavy is imported before a command needs it."""

from __future__ import annotations

from zoo_datasets.command_line import make_app, run_app
from zoo_datasets.commands.benchmark import benchmark
from zoo_datasets.commands.build import build
from zoo_datasets.commands.download import download_command
from zoo_datasets.commands.export import export
from zoo_datasets.commands.info import info
from zoo_datasets.commands.list import list_command
from zoo_datasets.commands.push import push
from zoo_datasets.commands.quickstart import quickstart_command
from zoo_datasets.commands.report import report
from zoo_datasets.commands.verify import verify
from zoo_datasets.training.command import train
from zoo_datasets.training.sparsify_command import sparsify

app = make_app(
    name="zoo",
    help="Populations of neural networks as datasets: train, build, load, verify, publish.",
    no_args_is_help=True,
)
app.command("list")(list_command)
app.command()(train)
app.command()(sparsify)
app.command("download")(download_command)
app.command()(build)
app.command()(verify)
app.command()(info)
app.command()(push)
app.command()(export)
app.command()(benchmark)
app.command()(report)
app.command("quickstart")(quickstart_command)


def main() -> None:
    """Entry point of the `zoo` command."""
    run_app(app)


if __name__ == "__main__":
    main()
