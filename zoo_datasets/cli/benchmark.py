"""`zoo benchmark`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import stoppable
from zoo_datasets.evaluation.features import NAMES

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_datasets.evaluation.benchmark.record import Record
    from zoo_datasets.evaluation.benchmark.run import Result

# Columns that the table of results needs.
_WIDE = 140


@stoppable("with --out the same command goes on from there; without, nothing was kept")
def benchmark(
    repo: Annotated[str, typer.Argument(help="A local dataset repository, or the id of one on the Hub.")],
    name: Annotated[str | None, typer.Argument(help="The config to learn from and to test on.")] = None,
    features: Annotated[str, typer.Option(help=f"Of {', '.join(NAMES)}.")] = "weights,statistics",
    targets: Annotated[str | None, typer.Option(help="Columns to predict.", show_default="the paper's")] = None,
    train: Annotated[str | None, typer.Option(metavar="A", help="Learn from this config.")] = None,
    test: Annotated[str | None, typer.Option(metavar="B,C", help="Test on these configs.")] = None,
    where: Annotated[str | None, typer.Option(metavar="CONDITION", help="Only these rows, as 'epoch >= 1'.")] = None,
    split_by: Annotated[
        str,
        typer.Option(
            metavar="model|seed|source|group:COLUMN",
            help="Keep models, or models of one seed or one value of a column, in one split; or take the authors' own.",
        ),
    ] = "model",
    protocol: Annotated[
        str,
        typer.Option(metavar="standard|paper", help="As the model zoo paper's code does it, or with better probes."),
    ] = "standard",
    class_rows: Annotated[
        int | None,
        typer.Option(min=2, help="Logistic regression learns from N training rows.", show_default="all"),
    ] = None,
    fit_rows: Annotated[int, typer.Option(min=2, help="PCA and the like are fitted on N training rows.")] = 10_000,
    iterations: Annotated[int, typer.Option(min=1, help="Of logistic regression's solver, at most.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Keep each result in this file, and go on from it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The results as JSON instead of a table.")] = False,
) -> None:
    """What simple probes predict from the weights of a zoo's models: figures and hyperparameters."""
    if name is None and train is None:
        raise typer.BadParameter("name a config, or give --train", param_hint="NAME")
    from zoo_datasets.evaluation.benchmark.record import run_benchmark
    from zoo_datasets.evaluation.benchmark.run import Settings
    from zoo_datasets.evaluation.benchmark.targets import DEFAULT_TARGETS
    from zoo_datasets.terminal import Terminal, tables

    settings = Settings(
        train=train or name or "",
        tests=tuple(_listed(test or name or train or "")),
        features=tuple(_listed(features)),
        targets=DEFAULT_TARGETS if targets is None else tuple(_listed(targets)),
        where=where,
        split_by=split_by,
        protocol=cast(Any, protocol),  # checked there
        class_rows=class_rows,
        fit_rows=fit_rows,
        iterations=iterations,
    )
    with progress_bar(Terminal(stderr=True), "benchmarking", "probes") as advance:
        record = run_benchmark(repo, settings, out=out, progress=advance)
    if as_json:
        typer.echo(json.dumps(record.to_dict(), indent=2))
        return
    print_record(record, tables(_WIDE))


def print_record(record: Record, console: Console) -> None:
    """A table of the results, with what stands below it."""
    from rich.table import Table

    from zoo_datasets.terminal import say

    table = Table(title=_title(record))
    for title in ("test zoo", "target", "feature", "probe", "R²", "Kendall's τ", "accuracy", "baseline"):
        table.add_column(title, no_wrap=title != "test zoo", justify="left" if title != "baseline" else "right")
    for result in record.results:
        scores = [str(result.scores.get(name, "")) for name in ("r2", "kendall", "accuracy")]
        table.add_row(
            result.test, target_label(result), result.feature, result.probe, *scores, f"{result.baseline:.3f}"
        )
    console.print(table)
    for target, reason in record.skipped.items():
        say(console, f"{target}: not predicted, {reason}")
    if record.left_out:
        say(console, f"{record.left_out:,} rows with weights that are not finite were left out")


def target_label(result: Result) -> str:
    """A target's name, with its scale where it is none of its own."""
    return f"log10 {result.target}" if result.scale == "log10" else result.target


def _title(record: Record) -> str:
    by = "the paper's protocol; " if record.settings.protocol == "paper" else ""
    return f"{by}{', '.join(map(_counts, record.rows))}; 95 % intervals over models"


def _counts(entry: Mapping[str, Any]) -> str:
    from zoo_datasets.text import counted

    groups = entry.get("groups", entry["models"])  # records of earlier versions do not tell them
    return f"{entry['zoo']} {entry['split']} {counted(entry['models'], 'model')} in {counted(groups, 'group')}"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
