"""`zoo build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_datasets.cli import build_options as option
from zoo_datasets.cli.build_options import OnBadChoice, OtherLayoutChoice
from zoo_datasets.cli.options import Epochs, Models, Where
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


@stoppable("the repository is as it was before; the same command goes on from the shards that are finished")
def build(
    source: option.Source,
    out: option.Out,
    name: option.Name = None,
    replace: option.Replace = False,
    keep_nonfinite: option.KeepNonfinite = False,
    on_bad: option.OnBad = OnBadChoice.leave_out,
    strict: option.Strict = False,
    epochs: Epochs = None,
    models: Models = None,
    where: Where = None,
    limit_train: option.LimitTrain = None,
    limit_val: option.LimitVal = None,
    limit_test: option.LimitTest = None,
    parents: option.Parents = None,
    keep_log_sigma2: option.KeepLogSigma2 = False,
    images: option.Images = None,
    table: option.Table = None,
    pattern: option.Pattern = None,
    columns_from: option.ColumnsFrom = None,
    split_column: option.SplitColumn = None,
    parent_column: option.ParentColumn = None,
    group_column: option.GroupColumn = None,
    task: option.Task = None,
    on_other_layout: option.OnOtherLayout = OtherLayoutChoice.ragged,
    on_missing: option.OnMissing = OnBadChoice.fail,
    cast: option.Cast = None,
    layout: option.Layout = None,
    splits: option.Splits = None,
    plots: option.Plots = False,
    license_: option.License = None,
    citation: option.Citation = None,
    origin: option.Origin = None,
    num_proc: option.NumProc = 1,
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
    locations, name = _all_located(source, name)
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


def _all_located(sources: Sequence[str], name: str | None) -> tuple[list[Path | str], str | None]:
    locations = []
    for source in sources:
        location, name = _located(source, name)
        locations.append(location)
    return locations, name


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
