"""The `zoo` command: parses and calls; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_datasets.command_line import run_app, stoppable
from zoo_datasets.errors import RepositoryError
from zoo_datasets.training.command import train

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_datasets.manifest import LeftOut

# Rows of a table of things left out; the manifest has them all.
_SHOWN = 20
# Columns that the whole table of zoos needs.
_WIDE = 140


class OnBad(enum.StrEnum):
    """What a bad state does to a build."""

    leave_out = "leave-out"
    fail = "fail"


app = typer.Typer(
    name="zoo",
    help="Populations of neural networks as datasets: train, build, load, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(train)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects instead of a table.")] = False,
) -> None:
    """All zoos of the table, with their sparsified twins."""
    from zoo_datasets.zoos import list_zoos

    rows = [_listed(zoo) for zoo in list_zoos()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    terminal = Console()
    # A table cut to the 80 columns of a pipe would be hard to search.
    console = terminal if terminal.is_terminal else Console(width=_WIDE)
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
    from zoo_datasets.architectures import layout_of
    from zoo_datasets.images import get_image_spec
    from zoo_datasets.zoos import twins_of

    images = get_image_spec(zoo.images, zoo.architecture)
    return {
        "name": zoo.name,
        "images": zoo.images,
        "architecture": zoo.architecture,
        "parameters": layout_of(zoo.architecture, images.channels, images.classes).parameters,
        "models": zoo.models,
        "epochs": zoo.epochs,
        "twins": [twin.name for twin in twins_of(zoo)],
        "doi": zoo.doi,
    }


@app.command()
@stoppable("the repository is as it was before; the same command begins again")
def build(
    source: Annotated[
        Path, typer.Argument(help="A run made by `zoo train`, or a raw zoo: its folder, or a .zip or .tar of it.")
    ],
    out: Annotated[Path, typer.Option(help="The dataset repository, new or existing.")],
    name: Annotated[str | None, typer.Option(help="The config's name.", show_default="the zoo's name")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a config built from another source.")] = False,
    keep_nonfinite: Annotated[
        bool, typer.Option("--keep-nonfinite", help="Keep states whose weights are not finite as rows.")
    ] = False,
    on_bad: Annotated[OnBad, typer.Option(help="Leave bad states out and list them, or fail at the first.")] = (
        OnBad.leave_out
    ),
    epochs: Annotated[str | None, typer.Option(metavar="0,10,50", help="Raw zoos: only these epochs.")] = None,
    models: Annotated[int | None, typer.Option(min=1, metavar="N", help="Raw zoos: only N models, spread.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="""Raw zoos: as 'activation == "relu" and lr < 0.01'.""")
    ] = None,
    limit_train: Annotated[int | None, typer.Option(min=1, help="Raw zoos: images they were trained on.")] = None,
    limit_val: Annotated[int | None, typer.Option(min=1, help="Raw zoos: validation images of their figures.")] = None,
    limit_test: Annotated[int | None, typer.Option(min=1, help="Raw zoos: test images of their figures.")] = None,
    parents: Annotated[
        Path | None, typer.Option(help="Raw twins: the parents' raw zoo.", show_default="beside the source, if there")
    ] = None,
    keep_log_sigma2: Annotated[
        bool, typer.Option("--keep-log-sigma2", help="Raw twins: log σ² as a second column.")
    ] = False,
) -> None:
    """Turn a trained population, or a published raw zoo, into a config of a dataset repository."""
    from rich.console import Console

    from zoo_datasets.builders import Reading, build_repository
    from zoo_datasets.specs import Limits
    from zoo_datasets.where import parse_where

    reading = Reading(
        epochs=None if epochs is None else frozenset(_numbers(epochs)),
        models=models,
        where=None if where is None else parse_where(where),
        limits=Limits(train=limit_train, val=limit_val, test=limit_test),
        parents=parents,
        keep_log_sigma2=keep_log_sigma2,
    )
    console = Console(stderr=True)
    with _progress(console, "building", "states") as advance:
        result = build_repository(
            source,
            out,
            name,
            reading=reading,
            replace=replace,
            keep_nonfinite=keep_nonfinite,
            on_bad="fail" if on_bad is OnBad.fail else "leave out",
            progress=advance,
        )
    splits = ", ".join(f"{split} {rows:,}" for split, rows in result.splits.items())
    epochs = f"epochs {result.epochs[0]}–{result.epochs[-1]}" if result.epochs else "no epochs"
    console.print(
        f"{out} {result.config}: {result.models:,} models, {epochs}, {result.rows:,} rows ({splits}); "
        f"{result.shards_written} new shards, {result.shards_reused} kept, {result.bytes / 1e6:,.1f} MB",
        highlight=False,
        soft_wrap=True,
    )
    for warning in result.warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    if result.left_out:
        _print_left_out(console, result.left_out)
    console.print(f'load it: datasets.load_dataset("{out}", "{result.config}")', highlight=False, soft_wrap=True)


def _numbers(text: str) -> list[int]:
    """`0,10,50` and `0-10,50` as numbers."""
    numbers: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or len(low + high) > 12:
            raise typer.BadParameter(f"{text!r}: expected numbers as 0,10,50 or ranges as 0-10", param_hint="--epochs")
        numbers += range(int(low), int(high if dash else low) + 1)
    return numbers


def _print_left_out(console: Console, left_out: Sequence[LeftOut]) -> None:
    from rich.table import Table

    table = Table(title=f"left out ({len(left_out):,}; all in manifest.json)")
    for title in ("model", "epochs", "reason"):
        table.add_column(title, overflow="fold")
    for entry in left_out[:_SHOWN]:
        table.add_row(entry.model, _ranges(entry.epochs), entry.reason)
    if len(left_out) > _SHOWN:
        table.add_row("…", "…", f"and {len(left_out) - _SHOWN:,} more")
    console.print(table)


def _ranges(epochs: Sequence[int]) -> str:
    """1, 2, 3, 7 as `1–3, 7`."""
    spans: list[list[int]] = []
    for epoch in sorted(epochs):
        if spans and epoch == spans[-1][1] + 1:
            spans[-1][1] = epoch
        else:
            spans.append([epoch, epoch])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in spans)


@app.command()
@stoppable("nothing was changed")
def verify(
    repo: Annotated[Path, typer.Argument(help="A local dataset repository.")],
    name: Annotated[str, typer.Argument(help="The config to verify.")],
    images: Annotated[
        Path | None, typer.Option(help="A local folder with the images instead of the Hub.", show_default="the Hub")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Rows whose figures are recomputed.")] = 32,
    files_only: Annotated[bool, typer.Option("--files-only", help="Recompute nothing: no images needed.")] = False,
    limit_val: Annotated[
        int | None, typer.Option(min=1, help="Validation images, where an imported zoo had fewer.")
    ] = None,
    limit_test: Annotated[int | None, typer.Option(min=1, help="Test images, where an imported zoo had fewer.")] = None,
) -> None:
    """Check a config: checksums, splits, layouts, and figures recomputed from the weights alone."""
    from rich.console import Console

    from zoo_datasets.evaluation.verify import verify_repository
    from zoo_datasets.images import load_images
    from zoo_datasets.manifest import read_manifest
    from zoo_datasets.specs import Limits

    console = Console(stderr=True)
    data = None
    if not files_only and (repo / name).is_dir():
        manifest = read_manifest(repo, name)
        if manifest is None:
            raise RepositoryError(f"{repo / name} holds no manifest.json; build the config again with `zoo build`")
        with console.status(f"images: {images or manifest.zoo['images']}"):
            data = load_images(manifest.zoo["images"], manifest.architecture, images)
    with _progress(console, "verifying", "shards") as advance:
        limits = Limits(val=limit_val, test=limit_test)
        result = verify_repository(repo, name, images=data, limits=limits, sample=sample, progress=advance)
    for check in result.checks:
        mark = "ok  " if check.passed else "FAIL"
        console.print(f"{mark} {check.name}: {check.detail}", highlight=False, soft_wrap=True)
    for difference in result.differences:
        console.print(f"     {difference.check}: {difference.message}", highlight=False, soft_wrap=True)
    verdict = "all is as it says" if result.ok else f"{len(result.differences)} differences"
    console.print(f"{result.config}: {result.rows:,} rows, {result.recomputed} recomputed: {verdict}", highlight=False)
    if not result.ok:
        raise typer.Exit(1)


@app.command("quickstart")
@stoppable("every finished epoch is on disk; the same command goes on from there")
def quickstart_command(
    out: Annotated[Path, typer.Option(help="A folder for the run and the repository.")] = Path("quickstart"),
) -> None:
    """The main job on the embedded digits, from training to a restored model, in about a minute."""
    from rich.console import Console

    from zoo_datasets.quickstart import quickstart

    difference = quickstart(out, Console())
    if difference > 1e-6:
        raise RepositoryError(f"the restored model's accuracy is {difference:.6f} off the recorded one, expected 0")


@contextlib.contextmanager
def _progress(console: Console, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is advanced by calling it with (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def main() -> None:
    """Entry point of the `zoo` command."""
    run_app(app)


if __name__ == "__main__":
    main()
