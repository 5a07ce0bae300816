"""`zoo benchmark`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import seconds_of, stoppable
from zoo_datasets.evaluation.features import NAMES
from zoo_datasets.predictors import PREDICTORS

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_datasets.evaluation.benchmark.model_record import ModelRecord
    from zoo_datasets.evaluation.benchmark.model_results import ModelResult
    from zoo_datasets.evaluation.benchmark.record import Record
    from zoo_datasets.evaluation.benchmark.run import Result

# Columns that the tables of results need.
_WIDE, _WIDEST = 140, 220
_METRICS = {"r2": "R²", "kendall": "Kendall's τ", "accuracy": "accuracy"}


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
    models: Annotated[
        str | None, typer.Option(help=f"Train models that read weights, of {', '.join(PREDICTORS)}, instead of probes.")
    ] = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="Of a model in a zoo, with targets, seeds and choice: 90s, 3m, 1h.")
    ] = "3m",
    seeds: Annotated[int, typer.Option(min=1, help="Each model is trained so many times.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="A training ends after N, if not before.")] = None,
    augment: Annotated[
        str, typer.Option(help="Change training networks by any of permute, scale, noise.", show_default="none")
    ] = "",
    device: Annotated[str, typer.Option(help="Where models are trained, as cuda.")] = "cpu",
    save: Annotated[Path | None, typer.Option(help="Save the trained models into this folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep each result in this file, and go on from it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The results as JSON instead of a table.")] = False,
) -> None:
    """What simple probes, or models that read weights, predict of a zoo's models: figures and hyperparameters."""
    if name is None and train is None:
        raise typer.BadParameter("name a config, or give --train", param_hint="NAME")
    from zoo_datasets.evaluation.benchmark.record import run_benchmark
    from zoo_datasets.evaluation.benchmark.run import Settings
    from zoo_datasets.evaluation.benchmark.targets import DEFAULT_TARGETS
    from zoo_datasets.terminal import Terminal, tables

    zoos: Any = {
        "train": train or name or "", "tests": tuple(_listed(test or name or train or "")), "where": where,
        "split_by": split_by,
    }  # fmt: skip
    if models is not None:
        trained = {
            "models": tuple(_listed(models)), "budget": seconds_of(budget), "seeds": seeds, "epochs": epochs,
            "augment": tuple(_listed(augment)), "device": device,
        }  # fmt: skip
        columns = ("test_acc",) if targets is None else tuple(_listed(targets))
        _benchmark_models(repo, {**zoos, **trained, "targets": columns}, out, save, as_json)
        return
    settings = Settings(
        **zoos,
        features=tuple(_listed(features)),
        targets=DEFAULT_TARGETS if targets is None else tuple(_listed(targets)),
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


def _benchmark_models(repo: str, settings: dict[str, Any], out: Path | None, save: Path | None, as_json: bool) -> None:
    from zoo_datasets.evaluation.benchmark.model_record import run_models
    from zoo_datasets.evaluation.benchmark.models import ModelSettings
    from zoo_datasets.terminal import Terminal, tables

    with progress_bar(Terminal(stderr=True), "training models", "thousandths") as advance:
        record = run_models(repo, ModelSettings(**settings), out=out, save=save, progress=advance)
    if as_json:
        typer.echo(json.dumps(record.to_dict(), indent=2))
        return
    print_models(record, tables(_WIDEST))


def print_models(record: ModelRecord, console: Console) -> None:
    """A table of the models' scores, and how far the best of each target is ahead on the same test networks."""
    from rich.table import Table

    from zoo_datasets.terminal import say

    table = Table(title=_title(record.rows, "groups"))
    heads = ("test zoo", "target", "model", "R²", "Kendall's τ", "at most", "accuracy", "seeds", "baseline",
             "parameters", "seconds", "MB", "stays under")  # fmt: skip
    for title in heads:
        table.add_column(title, no_wrap=title not in ("test zoo", "stays under"))
    for result in record.results:
        values = [str(result.scores.get(name, "")) for name in ("r2", "kendall", "accuracy")]
        ceiling = "" if result.ceiling is None else f"{result.ceiling:.3f}"
        first = next(iter(result.by_seed.values()))
        table.add_row(
            result.test, target_label(result), result.model, *values[:2], ceiling, values[2],
            " ".join(f"{value:.3f}" for value in first), f"{result.baseline:.3f}", f"{result.parameters:,}",
            f"{result.seconds:,.0f}", f"{result.memory / 1e6:,.0f}", result.invariant,
        )  # fmt: skip
    console.print(table)
    pairs = Table(
        title="the best of each target less the others, on the same test networks; 95 % intervals over groups"
    )
    for title in ("test zoo", "target", "score", "best", "other", "difference"):
        pairs.add_column(title, no_wrap=title != "test zoo")
    for pair in record.comparisons:
        pairs.add_row(pair.test, pair.target, _METRICS[pair.metric], pair.best, pair.other, str(pair.difference))
    if record.comparisons:
        console.print(pairs)
    for refusal in record.refused:
        say(console, f"{refusal['model']}, {refusal['task']}: not trained, {refusal['reason']}")
    _say_left_out(record, console)


def print_record(record: Record, console: Console) -> None:
    """A table of the results, with what stands below it."""
    from rich.table import Table

    by = "the paper's protocol; " if record.settings.protocol == "paper" else ""
    table = Table(title=f"{by}{_title(record.rows, 'models')}")
    for title in ("test zoo", "target", "feature", "probe", "R²", "Kendall's τ", "accuracy", "baseline"):
        table.add_column(title, no_wrap=title != "test zoo", justify="left" if title != "baseline" else "right")
    for result in record.results:
        scores = [str(result.scores.get(name, "")) for name in ("r2", "kendall", "accuracy")]
        table.add_row(
            result.test, target_label(result), result.feature, result.probe, *scores, f"{result.baseline:.3f}"
        )
    console.print(table)
    _say_left_out(record, console)


def _say_left_out(record: Record | ModelRecord, console: Console) -> None:
    from zoo_datasets.terminal import say

    for target, reason in record.skipped.items():
        say(console, f"{target}: not predicted, {reason}")
    if record.left_out:
        say(console, f"{record.left_out:,} rows with weights that are not finite were left out")


def target_label(result: Result | ModelResult) -> str:
    """A target's name, with its scale where it is none of its own."""
    return f"log10 {result.target}" if result.scale == "log10" else result.target


def _title(rows: Sequence[Mapping[str, Any]], over: str) -> str:
    return f"{', '.join(map(_counts, rows))}; 95 % intervals over {over}"


def _counts(entry: Mapping[str, Any]) -> str:
    from zoo_datasets.text import counted

    groups = entry.get("groups", entry["models"])  # records of earlier versions do not tell them
    return f"{entry['zoo']} {entry['split']} {counted(entry['models'], 'model')} in {counted(groups, 'group')}"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
