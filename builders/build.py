"""From a source to a config of a dataset repository, committed so that it loads at every moment."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo_datasets.builders.shards.building import Building, BuildResult, reasons
from zoo_datasets.builders.shards.meta import with_meta
from zoo_datasets.builders.shards.part import Job, OnBad
from zoo_datasets.builders.sources.base import Reading, Source
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.errors import RepositoryError, SourceError, StorageError
from zoo_datasets.repository.card import write_card
from zoo_datasets.repository.manifest import META, PLOTS, Manifest, read_manifest
from zoo_datasets.repository.row import id_problem
from zoo_datasets.specs.spec import NAME
from zoo_datasets.storage.files import check_files, remove_temporaries
from zoo_datasets.storage.folders import check_repository_folder
from zoo_datasets.storage.locks import locked_card, locked_zoo
from zoo_datasets.storage.remote import Fetched


def build_repository(
    source_path: Path | str,
    repo: Path,
    name: str | None = None,
    *,
    reading: Reading | None = None,
    replace: bool = False,
    keep_nonfinite: bool = False,
    on_bad: OnBad = "leave out",
    num_proc: int = 1,
    progress: Callable[[int, int], None] | None = None,
    fetched: Fetched | None = None,
) -> BuildResult:
    """Build a source into a config of a dataset repository, which is made where there is none.

    What was there stays loadable until the new README.md is renamed into place, whenever the process dies; the next
    build of the same source goes on from the shards that were finished. The bytes of a shard depend on the source and
    the options alone: not on where a build was interrupted, nor on `num_proc`.

    Args:
        source_path: a run, or a raw zoo in a folder or an archive, also behind a URL.
        repo: the repository's folder.
        name: the config; the zoo's name unless given.
        reading: what is wanted of the source, and what it does not tell itself.
        replace: whether a config that was built from another source, or from more of this one, may be replaced.
        keep_nonfinite: whether states with NaN or infinite weights become rows too.
        on_bad: whether what cannot be a row is left out and listed, or stops the build.
        num_proc: threads of this process that list the source, and read and write a shard each at a time.
        progress: called with (states done, states in all).
        fetched: as of `open_source`.

    Raises:
        SourceError, RunError, DownloadError: where the source cannot be read.
        RepositoryError: where the config holds another zoo, its name cannot be used, or another process builds it.
        StorageError: where a file cannot be written.
    """
    check_repository_folder(repo)  # before anything is fetched
    reading = dataclasses.replace(reading or Reading(), name=name, num_proc=num_proc)
    with _older_objects_left_alone():
        return build_from(
            open_source(source_path, reading, fetched),
            repo,
            name,
            replace=replace,
            keep_nonfinite=keep_nonfinite,
            on_bad=on_bad,
            num_proc=num_proc,
            progress=progress,
        )


@contextlib.contextmanager
def _older_objects_left_alone() -> Iterator[None]:
    """The garbage collector goes over what is made meanwhile only.

    Names and places of a hundred thousand files make it look through all objects of all imported libraries, which
    takes longer than reading thousands of checkpoints.
    """
    if gc.get_freeze_count():  # somebody's own
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def build_from(
    source: Source,
    repo: Path,
    name: str | None = None,
    *,
    replace: bool = False,
    keep_nonfinite: bool = False,
    on_bad: OnBad = "leave out",
    num_proc: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> BuildResult:
    """`build_repository` of a source that is open already."""
    config = name or source.name
    if not NAME.fullmatch(config):
        raise RepositoryError(
            f"config name {config[:200]!r}: expected letters, digits, '_', '-' and '.', at most 128, not beginning "
            "with a mark"
        )
    if config.endswith(META):
        raise RepositoryError(
            f"config name {config!r}: names that end in {META} are those of the configs without weights"
        )
    check_repository_folder(repo)
    _check_ids(source)
    folder = repo / config
    check_files(repo, [config, f"{config}{META}"], links=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} could not be made: {error.strerror or error}; choose another --out") from error
    with locked_zoo(repo, config):
        remove_temporaries(folder)
        if not replace:
            _check_replaceable(source, repo, config)
        job = Job(source=source, repo=repo, config=config, keep_nonfinite=keep_nonfinite, on_bad=on_bad)
        building = Building(job=job, num_proc=num_proc)
        building.write_shards(progress or (lambda done, total: None))
        manifest = building.manifest()
        if not manifest.shards:
            building.discard()
            raise SourceError(f"{source.name}: none of its {source.states:,} states can be a row; {reasons(manifest)}")
        if not replace:
            try:
                _check_not_fewer(manifest, repo, config)
            except RepositoryError:
                building.discard()
                raise
        _commit(repo, manifest, building)
        building.journal.remove()
        return building.result(manifest)


def _check_ids(source: Source) -> None:
    """Refuse ids that no row may have.

    Raises:
        SourceError: with the first.
    """
    for model in (model for block in source.blocks() for model in block.models):
        problem = id_problem(model.model_id) or id_problem(model.columns.get("parent_id"))
        if problem is not None:
            raise SourceError(f"{source.name}: {problem}")


def _check_replaceable(source: Source, repo: Path, config: str) -> None:
    """Refuse to lose what is there.

    Raises:
        RepositoryError: saying what is there.
    """
    there = read_manifest(repo, config)
    if there is None:
        return
    held = (
        f"{repo / config} holds {there.models.written:,} models of epochs {there.epochs[0]} to {there.epochs[-1]} "
        f"of zoo {there.zoo.get('name', there.config)}"
        if there.shards
        else f"{repo / config} holds a config without rows"
    )
    remedy = "choose another --name, or replace it with --replace"
    if there.source_id != source.source_id:
        raise RepositoryError(f"{held}, built from another source (other recipe, limits or images); {remedy}")
    if source.models < there.models.found or source.states < there.states.found:
        raise RepositoryError(
            f"{held}, built from {there.models.found:,} models with {there.states.found:,} states, "
            f"more than the {source.models:,} with {source.states:,} that this source has; {remedy}"
        )


def _check_not_fewer(manifest: Manifest, repo: Path, config: str) -> None:
    """Refuse to put fewer rows in the place of more.

    Raises:
        RepositoryError: saying how many, and why the others are left out.
    """
    there = read_manifest(repo, config)
    if there is not None and manifest.states.written < there.states.written:
        raise RepositoryError(
            f"{repo / config} holds {there.states.written:,} rows and would keep {manifest.states.written:,}: "
            f"{reasons(manifest)}. The repository is unchanged; mend the source, or pass --replace"
        )


def _commit(repo: Path, manifest: Manifest, building: Building) -> None:
    """Shards are in place; then the manifest, then README.md, which is what loaders read, then the old files go."""
    with locked_card(repo):
        remove_temporaries(repo)
        manifest, meta_bytes = with_meta(repo, manifest, building.rows)
        manifest.save(repo)
        write_card(repo, manifest, building.num_bytes, meta_bytes)
    referenced = {shard.path for shard in (*manifest.shards, *manifest.meta)}
    for file in sorted(file for end in ("", META) for file in (repo / f"{manifest.config}{end}").glob("*.parquet")):
        if file.relative_to(repo).as_posix() not in referenced:
            file.unlink(missing_ok=True)
    for plot in {f"{manifest.config}/{name}.png" for name in PLOTS} - {*manifest.plots}:
        (repo / plot).unlink(missing_ok=True)
