"""The plots of a card: drawn when a zoo is published, of its light config, and kept until that changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.errors import RepositoryError
from zoo_datasets.repository.card.writing import write_line
from zoo_datasets.repository.manifest import PLOTS, Manifest, existing_plots, read_manifest
from zoo_datasets.repository.places import META_FOLDER, meta_path
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import meta_schema
from zoo_datasets.storage.files import remove_temporaries, sha256_of, write_bytes
from zoo_datasets.storage.locks import locked_card, locked_zoo
from zoo_datasets.text import plot_text

_COLUMNS = ["epoch", "train_acc", "test_acc", "sparsity"]


def draw_plots(repo: Path, name: str, tell: Callable[[str], None] | None = None) -> tuple[str, ...]:
    """Draw the plots of a zoo and put them into its manifest and its page, unless it has them.

    A build drops the plots of a light config that it changes, so those that are listed belong to the present rows.

    Args:
        repo: a local dataset repository.
        name: of the zoo.
        tell: called with a line of text before anything is drawn.

    Returns:
        The paths of what was drawn, relative to the repository; empty if nothing was to be done.

    Raises:
        RepositoryError: if there is no such zoo, its light config is not what its manifest says, or another process
            writes into it.
        StorageError: if the repository cannot be written to.
    """
    manifest = _manifest(repo, name)
    if existing_plots(repo, manifest):
        return ()
    pictures = _pictures(repo, manifest, tell or (lambda text: None))
    if not pictures and not manifest.plots:
        return ()
    # Drawing takes a while, so that nobody has to wait for it the locks are held for the writing alone.
    with locked_zoo(repo, name), locked_card(repo):
        current = _manifest(repo, name)
        if current.meta != manifest.meta:
            raise RepositoryError(f"{repo / name} was built again while its plots were drawn; run the command again")
        for folder in (repo, repo / META_FOLDER / name):
            remove_temporaries(folder)
        for path, picture in pictures.items():
            write_bytes(repo / path, picture)
        drawn = dataclasses.replace(current, plots=tuple(pictures))
        write_line(repo, drawn)
    return drawn.plots


def _manifest(repo: Path, name: str) -> Manifest:
    manifest = read_manifest(repo, name)
    if manifest is None:
        raise RepositoryError(f"{repo / name} holds no zoo; `zoo build` makes one")
    return manifest


def _pictures(repo: Path, manifest: Manifest, tell: Callable[[str], None]) -> dict[str, bytes]:
    """PNGs by path, of the plots for which there are figures."""
    table = pa.concat_tables([_columns(repo, manifest.config, file) for file in manifest.meta])
    due = [name for name, column in PLOTS.items() if table[column].null_count < table.num_rows]
    if not due:
        return {}
    tell(f"drawing plots of {manifest.config}")
    from zoo_datasets.plotting import render, title_of
    from zoo_datasets.repository.card.figures import DPI, accuracy_over_epochs, sparsity_over_epochs

    draw = {"accuracy": accuracy_over_epochs, "sparsity": sparsity_over_epochs}
    title = plot_text(title_of(manifest.config, manifest.models.written, manifest.epochs))
    return {meta_path(manifest.config, f"{name}.png"): render(draw[name](table, title), "png", DPI) for name in due}


def _columns(repo: Path, name: str, file: Shard) -> pa.Table:
    """The columns that are drawn, of a file of the light config."""
    path = repo / file.path
    schema = pa.schema([meta_schema().field(column) for column in _COLUMNS])
    try:
        digest = sha256_of(path)
        table = pq.read_table(path, columns=_COLUMNS, partitioning=None).cast(schema) if digest == file.sha256 else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RepositoryError(f"{path} could not be read: {error}; build {name} again") from error
    if table is None:
        raise RepositoryError(
            f"{path} has SHA-256 {digest[:16]}…, its manifest says {file.sha256[:16]}…; build {name} again"
        )
    return table
