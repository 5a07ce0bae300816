"""`zoo export`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_datasets.cli.options import Epochs, Models, Where
from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import numbers, stoppable
from zoo_datasets.errors import RepositoryError

if TYPE_CHECKING:
    from zoo_datasets.loading.exporting import ExportRows


class ExportFormat(enum.StrEnum):
    """What single models are written as."""

    safetensors = "safetensors"
    raw = "raw"


@stoppable("what was written stays; the same command goes on from there")
def export(
    source: Annotated[
        str, typer.Argument(help="A dataset repository here or on the Hub, or a run or another source of `zoo build`.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    name: Annotated[str | None, typer.Argument(help="The config, of a repository.")] = None,
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="One safetensors file a row, or a raw zoo as the original authors' tools read."),
    ] = ExportFormat.safetensors,
    epochs: Epochs = None,
    models: Models = None,
    where: Where = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, on the Hub.")] = None,
) -> None:
    """Write single models as files."""
    from zoo_datasets.builders.sources.raw.export import export_raw
    from zoo_datasets.loading.exporting import export_safetensors
    from zoo_datasets.terminal import Terminal, say, working

    console = Terminal(stderr=True)
    selected_epochs = None if epochs is None else sorted(set(numbers(epochs)))
    with working(console, f"{source}: what there is"):
        rows = _rows(source, name, selected_epochs, models, where, revision, extras=form is ExportFormat.raw)
    with progress_bar(console, "exporting", "states") as advance:
        if form is ExportFormat.raw:
            written = export_raw(rows, out, advance)
            where_to, states = f"{written.folder}: a raw zoo of {written.models:,} models, ", written.states
        else:
            where_to, states = f"{out}: ", len(export_safetensors(rows, out, advance))
    say(console, f"{where_to}{states:,} states of {rows.config}")
    if states != rows.total:
        missing = rows.total - states
        say(console, f"warning: {missing:,} states are missing or cannot be read; `zoo build` lists them")
    if form is ExportFormat.raw:
        say(console, f"build it: zoo build {written.folder} --out REPO")
    else:
        say(console, "load one: zoo_datasets.to_module(zoo_datasets.load_exported(FILE))")


def _rows(
    source: str,
    name: str | None,
    epochs: list[int] | None,
    models: int | None,
    where: str | None,
    revision: str | None,
    *,
    extras: bool,
) -> ExportRows:
    from zoo_datasets.builders import Reading, open_source
    from zoo_datasets.builders.sources.raw.export import source_rows
    from zoo_datasets.loading.exporting import repository_rows
    from zoo_datasets.repository.card import CARD, configs_of, read_card, zoos_of
    from zoo_datasets.repository.where import parse_where

    path = Path(source)
    if not path.exists() or (path / CARD).is_file():
        if name is None:
            configs = f" ({', '.join(zoos_of(configs_of(read_card(path))))})" if path.exists() else ""
            raise RepositoryError(f"{source}: say which of its configs{configs} to export: zoo export {source} NAME …")
        return repository_rows(
            source, name, epochs=epochs, where=where, models=models, extras=extras, revision=revision
        )
    reading = Reading(
        name=name,
        epochs=None if epochs is None else frozenset(epochs),
        models=models,
        where=None if where is None else parse_where(where),
    )
    return source_rows(open_source(path, reading), name, reading.selection())
