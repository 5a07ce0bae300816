"""From a source to a config of a dataset repository, committed so that it loads at every moment."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_datasets.builders.shards.building import Building, BuildResult, reasons
from zoo_datasets.builders.shards.meta import with_meta
from zoo_datasets.builders.shards.part import BuildJob, OnBad
from zoo_datasets.builders.sources.base import Reading, Source
from zoo_datasets.builders.sources.table import Locations, open_source
from zoo_datasets.documents import StrPath
from zoo_datasets.errors import RepositoryError, SourceError, StorageError, ZooError
from zoo_datasets.repository.card import listed_by_name, write_card
from zoo_datasets.repository.credit import Credit, Statements, credit_of
from zoo_datasets.repository.manifest import PLOTS, Manifest, read_manifest
from zoo_datasets.repository.places import LIGHT_ENDINGS, META_FOLDER, meta_path
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import KEY, id_problem
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.storage.files import check_files, remove_temporaries
from zoo_datasets.storage.folders import check_repository_folder
from zoo_datasets.storage.locks import locked_card, locked_zoo
from zoo_datasets.terminal import Fetched

_NOTES_SHOWN = 5
_TOGETHER = "build all parts of a zoo together (zoo build A.zip B.zip), "


def build_repository(
    source_path: Locations,
    repo: StrPath,
    name: str | None = None,
    *,
    reading: Reading | None = None,
    replace: bool = False,
    keep_nonfinite: bool = False,
    on_bad: OnBad = "leave out",
    strict: bool = False,
    statements: Statements | None = None,
    num_proc: int = 1,
    progress: Callable[[int, int], None] | None = None,
    fetched: Fetched | None = None,
) -> BuildResult:
    """Build a source into a config of a dataset repository, creating the repository if necessary.

    Existing content stays loadable until the new README.md is renamed into place, whenever the process dies; the next
    build of the same source goes on from the shards that were finished. The bytes of a shard depend on the source and
    the options alone: not on where a build was interrupted, nor on `num_proc`.

    Args:
        source_path: a run, or a raw zoo in a folder or an archive, also behind a URL; several if they are parts of one.
        repo: the repository's folder.
        name: the config; the zoo's name unless given.
        reading: what to read of the source, and what the source itself does not state.
        replace: whether a config that was built from another source, or from more of this one, may be replaced.
        keep_nonfinite: whether states with NaN or infinite weights become rows too.
        on_bad: whether what cannot be a row is left out and listed, or stops the build.
        strict: whether any note about the source, harmless or not, stops the build.
        statements: licence, citation and origin, as far as who builds states them.
        num_proc: threads of this process that list the source, and read and write a shard each at a time.
        progress: called with (states done, states in all).
        fetched: as of `open_source`.

    Raises:
        SourceError, RunError, DownloadError: if the source cannot be read.
        RepositoryError: if the config holds another zoo, its name cannot be used, or another process builds it.
        StorageError: if a file cannot be written.
    """
    repo = Path(repo)
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
            strict=strict,
            statements=statements,
            num_proc=num_proc,
            progress=progress,
        )


@contextlib.contextmanager
def _older_objects_left_alone() -> Iterator[None]:
    """Inside, the garbage collector scans only objects created since entry.

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
    strict: bool = False,
    statements: Statements | None = None,
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
    if config.endswith(LIGHT_ENDINGS):
        raise RepositoryError(
            f"config name {config!r}: names that end in {' or '.join(LIGHT_ENDINGS)} are those of configs beside others"
        )
    check_repository_folder(repo)
    _check_ids(source)
    folder = repo / config
    about = f"{META_FOLDER}/{config}"
    check_files(repo, [config, *(f"{config}{end}" for end in LIGHT_ENDINGS), META_FOLDER, about], links=False)
    try:
        for each in (folder, repo / about):
            each.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} could not be created: {error.strerror or error}; choose another --out") from error
    with locked_zoo(repo, config), listed_by_name(repo, config):
        for end in ("", *LIGHT_ENDINGS):
            remove_temporaries(repo / f"{config}{end}")
        if not replace:
            _check_replaceable(source, repo, config)
        source.credit = (statements or Statements()).applied(source.credit, _earlier_credit(source, repo, config))
        if strict:
            _check_no_notes(source, {})
        keep_nonfinite = keep_nonfinite or source.keeps_nonfinite
        job = BuildJob(source=source, repo=repo, config=config, keep_nonfinite=keep_nonfinite, on_bad=on_bad)
        building = Building(job=job, num_proc=num_proc)
        building.write_shards(progress or (lambda done, total: None))
        manifest = building.manifest()
        if not manifest.shards:
            building.discard()
            raise SourceError(f"{source.name}: none of its {source.states:,} states can be a row; {reasons(manifest)}")
        try:
            if strict:
                _check_no_notes(source, building.tallies)
            if not replace:
                _check_rows_kept(manifest, building, repo)
        except ZooError:
            building.discard()
            raise
        _commit(repo, manifest, building)
        building.journal.remove()
        return building.result(manifest)


def _earlier_credit(source: Source, repo: Path, config: str) -> Credit | None:
    """What an earlier build of the same source recorded."""
    try:
        existing = read_manifest(repo, config)
    except RepositoryError:  # broken, and about to be replaced
        return None
    return credit_of(existing.source) if existing is not None and existing.source_id == source.source_id else None


def _check_ids(source: Source) -> None:
    """Refuse ids that a row may not have.

    Raises:
        SourceError: for the first such id.
    """
    models = [model for block in source.blocks() for model in block.models]
    parents = {model.columns.get("parent_id"): None for model in models}
    problem = next(filter(None, map(id_problem, [*(model.model_id for model in models), *parents])), None)
    if problem is not None:
        raise SourceError(f"{source.name}: {problem}")


def _check_replaceable(source: Source, repo: Path, config: str) -> None:
    """Refuse to replace a config that this source would shrink or contradict.

    Raises:
        RepositoryError: if it would; the message describes the existing config.
    """
    existing = read_manifest(repo, config)
    if existing is None:
        return
    held = (
        f"{repo / config} holds {existing.models.written:,} models of epochs {existing.epochs[0]} to "
        f"{existing.epochs[-1]} of zoo {existing.zoo.get('name', existing.config)}"
        if existing.shards
        else f"{repo / config} holds a config without rows"
    )
    remedy = "choose another --name, or replace it with --replace"
    if existing.source_id != source.source_id:
        raise RepositoryError(f"{held}, built from another source (other recipe, limits or images); {remedy}")
    if source.models < existing.models.found or source.states < existing.states.found:
        raise RepositoryError(
            f"{held}, built from {existing.models.found:,} models with {existing.states.found:,} states, "
            f"more than the {source.models:,} with {source.states:,} that this source has; {remedy}"
        )
    _check_models_kept(source, repo, existing)


def _check_no_notes(source: Source, tallies: Mapping[str, int]) -> None:
    """Refuse a source that has any note.

    Raises:
        SourceError: listing the texts and codes.
    """
    lines = source.notes(tallies).lines()
    if lines:
        said = "; ".join(f"{line} [{code}]" for line, code in list(lines.items())[:_NOTES_SHOWN])
        more = f"; and {len(lines) - _NOTES_SHOWN} more" if len(lines) > _NOTES_SHOWN else ""
        raise SourceError(f"{source.name}: {said}{more}. The repository is unchanged; --strict makes notes errors")


def _check_rows_kept(manifest: Manifest, building: Building, repo: Path) -> None:
    """Refuse to drop existing rows.

    Raises:
        RepositoryError: stating how many would be dropped, and why states were left out.
    """
    existing = read_manifest(repo, manifest.config)
    if existing is None:
        return
    paths, earlier = {shard.path for shard in manifest.shards}, {shard.path for shard in existing.shards}
    left_out = f": {reasons(manifest)}" if manifest.states.left_out else ""
    try:
        old = [_keys(repo, shard, None) for shard in existing.shards if shard.path not in paths]
    except (OSError, pa.ArrowException):  # what cannot be read is not lost now
        old = []
        if manifest.states.written < existing.states.written:
            raise RepositoryError(
                f"{repo / manifest.config} holds {existing.states.written:,} rows, not all of which can be read, and "
                f"would keep {manifest.states.written:,}{left_out}. The repository is unchanged; "
                "mend the source, or pass --replace"
            ) from None
    if not old:
        return
    new = [
        _keys(repo, shard, building.rows.get(shard.path)) for shard in manifest.shards if shard.path not in earlier
    ] or [old[0].slice(0, 0)]
    lost = pa.concat_tables(old).join(pa.concat_tables(new), list(KEY), join_type="left anti")
    if lost.num_rows:
        one = lost.slice(0, 1).to_pylist()[0]
        raise RepositoryError(
            f"{repo / manifest.config} holds {existing.states.written:,} rows and would keep "
            f"{existing.states.written - lost.num_rows:,}: {lost.num_rows:,} are not among the "
            f"{manifest.states.written:,} of this build, as model {one['model_id'][:16]}… at epoch {one['epoch']}"
            f"{left_out}. The repository is unchanged; {_TOGETHER}mend the source, or pass --replace"
        )


def _keys(repo: Path, shard: Shard, rows: pa.Table | None) -> pa.Table:
    """model_id, epoch and step of a shard's rows, read from its file unless `rows` has them; −1 for no step."""
    if rows is None:
        file = repo / shard.path
        names = [name for name in KEY if name in pq.read_schema(file).names]
        rows = pq.read_table(file, columns=names, partitioning=None)
    step = pc.fill_null(rows["step"], -1) if "step" in rows.column_names else pa.array([-1] * len(rows), pa.int64())
    return pa.table({"model_id": rows["model_id"], "epoch": rows["epoch"], "step": step})


def _check_models_kept(source: Source, repo: Path, existing: Manifest) -> None:
    """Refuse early where whole models would be lost: one part of a zoo in the place of another.

    Raises:
        RepositoryError: stating how many.
    """
    if source.refused():  # which of them is not known by id
        return
    models = {model.model_id for block in source.blocks() for model in block.models}
    try:
        held = [_keys(repo, shard, None)["model_id"] for shard in existing.shards]
    except (OSError, pa.ArrowException):
        return
    lost = {model for column in held for model in pc.unique(column).to_pylist()} - models
    if lost:
        raise RepositoryError(
            f"{repo / existing.config} holds {existing.models.written:,} models, and {len(lost):,} of them are not in "
            f"this source; {_TOGETHER}choose another --name, or pass --replace"
        )


def _commit(repo: Path, manifest: Manifest, building: Building) -> None:
    """Shards are in place; then the manifest, then README.md, which is what loaders read, then the old files go."""
    with locked_card(repo):
        for folder in (repo, repo / META_FOLDER / manifest.config):
            remove_temporaries(folder)
        source = building.job.source
        records = {} if source.open_columns is None else source.open_columns.records
        manifest, meta_bytes = with_meta(repo, manifest, building.rows, records)
        write_card(repo, manifest, building.num_bytes, meta_bytes)
    for plot in {meta_path(manifest.config, f"{name}.png") for name in PLOTS} - {*manifest.plots}:
        (repo / plot).unlink(missing_ok=True)
