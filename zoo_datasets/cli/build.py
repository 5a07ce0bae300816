"""`zoo build`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_datasets.cli.progress import transfer_bar
from zoo_datasets.cli.shell import numbers, stoppable

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_datasets.builders import BuildResult
    from zoo_datasets.repository.records import LeftOut
    from zoo_datasets.repository.where import Condition

# Rows of a table of things left out; the manifest has them all.
_SHOWN = 20
_LONGEST_CITATION = 100_000  # bytes


class OtherLayoutChoice(enum.StrEnum):
    """What becomes of files whose tensors are not those of most."""

    ragged = "ragged"
    leave_out = "leave-out"
    fail = "fail"


class CastChoice(enum.StrEnum):
    """What tensors become that float32 cannot hold."""

    float32 = "float32"


class OnBadChoice(enum.StrEnum):
    """What a bad state does to a build."""

    leave_out = "leave-out"
    fail = "fail"


@stoppable("the repository is as it was before; the same command goes on from the shards that are finished")
def build(
    source: Annotated[
        list[str],
        typer.Argument(
            help="A run made by `zoo train`; a raw zoo: its folder, a .zip or .tar of it, or a URL of either; "
            "the name of a published zoo; with --name state dicts (.safetensors, .pt, .npz and the like) in a folder, "
            ".zip, .tar, URL or hf:org/name@revision. Several are parts of one raw zoo."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The dataset repository, new or existing.")],
    name: Annotated[str | None, typer.Option(help="The config's name.", show_default="the zoo's name")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a config built from another source.")] = False,
    keep_nonfinite: Annotated[
        bool, typer.Option("--keep-nonfinite", help="Keep states whose weights are not finite as rows.")
    ] = False,
    on_bad: Annotated[OnBadChoice, typer.Option(help="Leave bad states out and list them, or fail at the first.")] = (
        OnBadChoice.leave_out
    ),
    strict: Annotated[
        bool, typer.Option("--strict", help="Whatever would be noted about the source is an error.")
    ] = False,
    epochs: Annotated[str | None, typer.Option(metavar="0,10,50", help="Only these epochs.")] = None,
    models: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N models, spread.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="""Only rows as 'activation == "relu" and lr < 0.01'.""")
    ] = None,
    limit_train: Annotated[int | None, typer.Option(min=1, help="Raw zoos: images they were trained on.")] = None,
    limit_val: Annotated[int | None, typer.Option(min=1, help="Raw zoos: validation images of their figures.")] = None,
    limit_test: Annotated[int | None, typer.Option(min=1, help="Raw zoos: test images of their figures.")] = None,
    parents: Annotated[
        str | None,
        typer.Option(help="Raw twins: the parents' raw zoo.", show_default="beside the source, if it exists"),
    ] = None,
    keep_log_sigma2: Annotated[
        bool, typer.Option("--keep-log-sigma2", help="Raw twins: log σ², means and recorded losses as columns too.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option(help="Raw twins: a folder with the images, to recompute cross-entropy.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="State dicts: CSV, TSV, JSON lines or Parquet with a row for each file, by `file` or what names say."
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="'{model_id}/epoch_{epoch}.pt'",
            help="State dicts: what names of files say: model_id, epoch, step, any column; * is anything.",
            show_default="a guess, which is printed",
        ),
    ] = None,
    columns_from: Annotated[
        str | None,
        typer.Option(
            metavar="adapter_config.json",
            help="State dicts: a JSON file beside each file of tensors, whose values are columns.",
        ),
    ] = None,
    split_column: Annotated[
        str | None,
        typer.Option(help="State dicts: column of the table with the authors' own split."),
    ] = None,
    parent_column: Annotated[
        str | None,
        typer.Option(help="State dicts: column of the table with the id of a model's parent."),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="State dicts: column of the table; models of one value lie in one split."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="State dicts: of all models: classification, field, regression, language, adapter."),
    ] = None,
    on_other_layout: Annotated[
        OtherLayoutChoice,
        typer.Option(
            help="State dicts: rows of several layouts, leave out files of all layouts but the usual one, or fail."
        ),
    ] = OtherLayoutChoice.ragged,
    on_missing: Annotated[
        OnBadChoice,
        typer.Option(help="State dicts: leave rows of the table out whose files are not there, or fail."),
    ] = OnBadChoice.fail,
    cast: Annotated[
        CastChoice | None,
        typer.Option(help="State dicts: convert float64 tensors, and large ones of whole numbers, to float32."),
    ] = None,
    layout: Annotated[
        Path | None,
        typer.Option(help="State dicts: JSON with names and shapes of the tensors in each row of .npy files."),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="The authors' split of each model or file, by index, path or id: CSV, or JSON."),
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="Draw the card's plots now; else `zoo push` draws them.")
    ] = False,
    license_: Annotated[
        str | None,
        typer.Option("--license", metavar="NAME", help="Of the models, as the Hub names it; or 'NAME https://…'."),
    ] = None,
    citation: Annotated[str | None, typer.Option(metavar="BIBTEX", help="What to cite; or a file with it.")] = None,
    origin: Annotated[str | None, typer.Option(metavar="TEXT", help="Where the models come from.")] = None,
    num_proc: Annotated[
        int, typer.Option(min=1, metavar="N", help="Shards read and written at a time; the result is the same.")
    ] = 1,
) -> None:
    """Turn a trained population, a published raw zoo, or anybody's state dicts, into a config of a repository."""
    from zoo_datasets.builders import Reading, StateDictOptions, build_repository
    from zoo_datasets.images.split import check_folder
    from zoo_datasets.repository.credit import Statements
    from zoo_datasets.specs.members import Limits
    from zoo_datasets.terminal import Terminal, say

    condition, open_condition = _conditions(where)
    reading = Reading(
        epochs=None if epochs is None else frozenset(numbers(epochs)),
        models=models,
        where=condition,
        limits=Limits(train=limit_train, val=limit_val, test=limit_test),
        parents=parents,
        keep_log_sigma2=keep_log_sigma2,
        images=images,
        splits=splits,
        state_dicts=StateDictOptions(
            table=table,
            pattern=pattern,
            columns_from=columns_from,
            split_column=split_column,
            parent_column=parent_column,
            group_column=group_column,
            task=task,
            on_other_layout=on_other_layout.value,
            on_missing="fail" if on_missing is OnBadChoice.fail else "leave-out",
            cast=cast is not None,
            where=open_condition,
            layout=layout,
        ),
    )
    statements = Statements(licence=license_, citation=_bibtex(citation), origin=origin)
    console = Terminal(stderr=True)
    if images is not None:
        check_folder(images)
    locations = []
    for one in source:
        location, name = _located(one, name)
        locations.append(location)
    with transfer_bar(console, "building", "states") as (fetched, advance):
        result = build_repository(
            locations,
            out,
            name,
            reading=reading,
            replace=replace,
            keep_nonfinite=keep_nonfinite,
            on_bad="fail" if on_bad is OnBadChoice.fail else "leave out",
            strict=strict,
            statements=statements,
            num_proc=num_proc,
            progress=advance,
            fetched=fetched,
        )
    print_result(console, out, result)
    if plots:
        from zoo_datasets.repository.card.plots import draw_plots

        draw_plots(out, result.config, lambda text: say(console, text))


def _bibtex(citation: str | None) -> str | None:
    """The text of a citation: itself, or that of the file that it names."""
    if citation is None or citation.lstrip().startswith("@"):
        return citation
    from zoo_datasets.documents import read_text
    from zoo_datasets.errors import SpecError

    try:
        return read_text(Path(citation), _LONGEST_CITATION)
    except (OSError, ValueError) as error:
        raise SpecError(f"citation {citation[:200]!r} is neither BibTeX nor a file of it: {error}") from error


def _conditions(where: str | None) -> tuple[Condition | None, str | None]:
    """A condition on columns that all zoos have; else one on those that some sources have besides, which are known when
    these are opened."""
    from zoo_datasets.errors import UnknownNameError
    from zoo_datasets.repository.where import parse_where

    try:
        return (None if where is None else parse_where(where)), None
    except UnknownNameError:
        return None, where


def print_result(console: Console, out: Path, result: BuildResult) -> None:
    """Say what a build did, and what it left out."""
    from zoo_datasets.builders.sources.run import NOT_TRAINED
    from zoo_datasets.terminal import say
    from zoo_datasets.text import counted

    splits = ", ".join(f"{split} {rows:,}" for split, rows in result.splits.items())
    epochs = f"epochs {result.epochs[0]}–{result.epochs[-1]}" if result.epochs else "no epochs"
    resumed = f" ({result.shards_resumed} by an interrupted build)" if result.shards_resumed else ""
    say(
        console,
        f"{out} {result.config}: {counted(result.models, 'model')}, {epochs}, "
        f"{counted(result.rows, 'row')} ({splits}); "
        f"{result.shards_written} new shards, {result.shards_reused} kept{resumed}, {result.bytes / 1e6:,.1f} MB",
    )
    for warning in result.warnings:
        code = f" [{result.codes[warning]}]" if warning in result.codes else ""
        say(console, f"warning: {warning}{code}")
    faults = [entry for entry in result.left_out if entry.reason != NOT_TRAINED]  # a warning counts the others
    if faults:
        _print_left_out(console, faults)
    say(console, f'load it: datasets.load_dataset("{out}", "{result.config}")')


def _located(source: str, name: str | None) -> tuple[Path | str, str | None]:
    """Where a source lies, and the config's name: a path, a URL, or else where the published zoo, or the population of
    others, of that name lies."""
    from zoo_datasets.builders.containers.hub import is_hub
    from zoo_datasets.builders.sources.raw.published import find_original
    from zoo_datasets.errors import SourceError, UnknownNameError
    from zoo_datasets.repository.populations import POPULATIONS
    from zoo_datasets.specs.bounds import NAME
    from zoo_datasets.storage.remote import is_url

    path = Path(source)
    if is_url(source) or is_hub(source):
        return source, name
    if path.exists() or not NAME.fullmatch(source):
        return path, name
    if source in POPULATIONS:
        return POPULATIONS[source].location, name or source
    if path.suffix:
        return path, name
    try:
        return find_original(source).location, name or source
    except UnknownNameError as error:
        known = UnknownNameError("zoo or population", source, {*error.names, *POPULATIONS}, error.remedy)
        raise SourceError(f"{source} does not exist, and {known}") from error


def _print_left_out(console: Console, left_out: Sequence[LeftOut]) -> None:
    """A table in which models that lack the same epochs for the same reason are counted on one line."""
    from rich.table import Table

    from zoo_datasets.text import counted, ranges

    models: dict[tuple[str, str], list[str]] = {}
    for entry in left_out:
        models.setdefault((ranges(sorted(entry.epochs)), entry.reason), []).append(entry.model)
    table = Table(title=f"left out ({len(left_out):,}; all in manifest.json)")
    for title in ("model", "epochs", "reason"):
        table.add_column(title, overflow="fold")
    for (epochs, reason), names in list(models.items())[:_SHOWN]:
        table.add_row(names[0] if len(names) == 1 else counted(len(names), "model"), epochs, reason)
    if len(models) > _SHOWN:
        table.add_row("…", "…", f"and {len(models) - _SHOWN:,} more")
    console.print(table)
