"""From a source to a config of a dataset repository, committed so that it loads at every moment."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import filelock

from zoo_datasets.builders.from_pt import PtSource, is_pt
from zoo_datasets.builders.from_raw import RawSource, is_raw
from zoo_datasets.builders.from_run import RunSource
from zoo_datasets.builders.locations import locate
from zoo_datasets.builders.meta import with_meta
from zoo_datasets.builders.shards import ShardWriter, Written
from zoo_datasets.builders.source import Block, Reading, RowMaker, Source, without_nonfinite
from zoo_datasets.errors import RepositoryError, SourceError, StorageError
from zoo_datasets.files import remove_temporaries
from zoo_datasets.hub import write_card
from zoo_datasets.manifest import META, Count, LeftOut, Manifest, Shard, read_manifest
from zoo_datasets.remote import Fetched
from zoo_datasets.runs import Run
from zoo_datasets.schema import SPLITS
from zoo_datasets.specs import NAME

OnBad = Literal["leave out", "fail"]

LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceKind:
    """A kind of source: how to recognise it and how to open it."""

    name: str
    recognise: Callable[[Path], bool]
    open: Callable[[Path, Reading], Source]


SOURCE_KINDS: tuple[SourceKind, ...] = (
    SourceKind(name="run (a folder with zoo.json, made by `zoo train`)", recognise=Run.exists, open=RunSource.open),
    SourceKind(name="preprocessed dataset of the authors (.pt)", recognise=is_pt, open=PtSource.open),
    SourceKind(name="raw zoo (a folder of trials, or a .zip or .tar of one)", recognise=is_raw, open=RawSource.open),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build did.

    Attributes:
        rows, models: written, over all splits.
        epochs: of which there are rows, ascending.
        splits: rows of each split that has any.
        shards_written, shards_reused: new files, and files that were there already.
        bytes: of all shards.
    """

    config: str
    rows: int
    models: int
    epochs: tuple[int, ...]
    splits: Mapping[str, int]
    shards_written: int
    shards_reused: int
    bytes: int
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]


def open_source(location: Path | str, reading: Reading | None = None, fetched: Fetched | None = None) -> Source:
    """The source that lies at a path or behind a URL; of the latter, what will be read is fetched first.

    Args:
        location: a path, or a URL of http or fsspec, which may end with a checksum: `#md5=…`.
        fetched: called with what is being fetched, how much of it is done, and how much there is (0: not known).

    Raises:
        SourceError: where it is nothing that can be built from.
        DownloadError, StorageError: where it cannot be fetched or kept.
    """
    reading = reading or Reading()
    path = locate(location, whole=reading.everything, fetched=fetched)
    if not isinstance(path, Path):
        return RawSource(path, reading)
    for kind in SOURCE_KINDS:
        if kind.recognise(path):
            return kind.open(path, reading)
    kinds = "; ".join(kind.name for kind in SOURCE_KINDS)
    found = "is nothing that a repository can be built from" if path.exists() else "does not exist"
    raise SourceError(f"{path} {found}; expected: {kinds}")


def build_repository(
    source_path: Path | str,
    repo: Path,
    name: str | None = None,
    *,
    reading: Reading | None = None,
    replace: bool = False,
    keep_nonfinite: bool = False,
    on_bad: OnBad = "leave out",
    progress: Callable[[int, int], None] | None = None,
    fetched: Fetched | None = None,
) -> BuildResult:
    """Build a source into a config of a dataset repository, which is made where there is none.

    What was there stays loadable until the new README.md is renamed into place, whenever the process dies.

    Args:
        source_path: a run, or a raw zoo in a folder or an archive, also behind a URL.
        repo: the repository's folder.
        name: the config; the zoo's name unless given.
        reading: what is wanted of the source, and what it does not tell itself.
        replace: whether a config that was built from another source, or from more of this one, may be replaced.
        keep_nonfinite: whether states with NaN or infinite weights become rows too.
        on_bad: whether what cannot be a row is left out and listed, or stops the build.
        progress: called with (states done, states in all).
        fetched: as of `open_source`.

    Raises:
        SourceError, RunError, DownloadError: where the source cannot be read.
        RepositoryError: where the config holds another zoo, its name cannot be used, or another process builds it.
        StorageError: where a file cannot be written.
    """
    source = open_source(source_path, dataclasses.replace(reading or Reading(), name=name), fetched)
    return build_from(
        source, repo, name, replace=replace, keep_nonfinite=keep_nonfinite, on_bad=on_bad, progress=progress
    )


def build_from(
    source: Source,
    repo: Path,
    name: str | None = None,
    *,
    replace: bool = False,
    keep_nonfinite: bool = False,
    on_bad: OnBad = "leave out",
    progress: Callable[[int, int], None] | None = None,
) -> BuildResult:
    """`build_repository` of a source that is open already."""
    config = name or source.name
    if not NAME.fullmatch(config):
        raise RepositoryError(
            f"config name {config!r}: expected letters, digits, '_', '-' and '.', not beginning with a mark"
        )
    if config.endswith(META):
        raise RepositoryError(
            f"config name {config!r}: names that end in {META} are those of the configs without weights"
        )
    folder = repo / config
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} could not be made: {error.strerror or error}; choose another --out") from error
    with _locked(folder / LOCK, f"another process is building {folder}; wait for it, then run the command again"):
        remove_temporaries(folder)
        if not replace:
            _check_replaceable(source, repo, config)
        building = _Building(source=source, repo=repo, config=config, keep_nonfinite=keep_nonfinite, on_bad=on_bad)
        building.write_shards(progress or (lambda done, total: None))
        manifest = building.manifest()
        if not manifest.shards:
            raise SourceError(f"{source.name}: none of its {source.states:,} states can be a row; {_reasons(manifest)}")
        if not replace:
            try:
                _check_not_fewer(manifest, repo, config)
            except RepositoryError:
                building.discard()
                raise
        _commit(repo, manifest, {split: num_bytes for split, num_bytes in building.num_bytes.items() if num_bytes})
        return building.result(manifest)


@dataclass(kw_only=True)
class _Building:
    """One build under way: what was written and what was left out so far."""

    source: Source
    repo: Path
    config: str
    keep_nonfinite: bool
    on_bad: OnBad = "leave out"
    written: list[Written] = field(default_factory=list)
    left_out: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    states: int = 0
    states_left_out: int = 0
    num_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))

    def write_shards(self, progress: Callable[[int, int], None]) -> None:
        """Read the source once and write all shards."""
        rows = RowMaker(self.source, self.config)
        for block in self.source.blocks():
            with contextlib.ExitStack() as stack:
                writers = {split: ShardWriter(self.repo, self.config, split, rows.schema) for split in SPLITS}
                for writer in writers.values():
                    stack.enter_context(writer)
                self._write_block(block, rows, writers, progress)
                for writer in writers.values():
                    self._keep(writer.close())

    def _write_block(
        self, block: Block, rows: RowMaker, writers: Mapping[str, ShardWriter], progress: Callable[[int, int], None]
    ) -> None:
        for item in self.source.read(block):
            if isinstance(item, LeftOut):
                self._leave_out([item])
            else:
                states, dropped = (item, []) if self.keep_nonfinite else without_nonfinite(item)
                self._leave_out(dropped)
                self.states += len(states.models)
                self.models.update(model.model_id for model in states.models)
                for split, writer in writers.items():
                    chosen = [position for position, model in enumerate(states.models) if model.split == split]
                    if chosen:
                        self._keep(writer.add(states.epoch, rows.batch(states.select(chosen))))
            progress(self.states + self.states_left_out, self.source.states)

    def _keep(self, written: Iterable[Written]) -> None:
        for one in written:
            self.written.append(one)
            self.num_bytes[one.shard.split] += one.num_bytes

    def _leave_out(self, entries: Iterable[LeftOut]) -> None:
        for entry in entries:
            if self.on_bad == "fail":
                epochs = f" at epoch {', '.join(map(str, entry.epochs[:5]))}" if entry.epochs else ""
                raise SourceError(
                    f"{self.source.name}: {entry.model}{epochs}: {entry.reason}; nothing was written to {self.repo}. "
                    "Without --on-bad fail it would be left out and listed"
                )
            self.left_out.setdefault((entry.model, entry.reason), []).extend(entry.epochs)
            self.states_left_out += len(entry.epochs)

    def discard(self) -> None:
        """Remove the shards that this build added."""
        for one in self.written:
            if not one.reused:
                (self.repo / one.shard.path).unlink(missing_ok=True)

    def manifest(self) -> Manifest:
        """The manifest of what was written; its counts add up, or the source contradicts itself."""
        source = self.source
        if self.states + self.states_left_out != source.states:
            raise SourceError(
                f"{source.name}: {source.states:,} states were expected, but {self.states:,} were read and "
                f"{self.states_left_out:,} left out; was the source changed while it was read? Run the command again"
            )
        return Manifest(
            config=self.config,
            source_id=source.source_id,
            zoo=source.zoo,
            source=source.describe(),
            architecture=source.architecture,
            in_channels=source.in_channels,
            classes=source.classes,
            layout=source.layout,
            keep_nonfinite=self.keep_nonfinite,
            extras=tuple(source.extras),
            models=Count(found=source.models, written=len(self.models), left_out=source.models - len(self.models)),
            states=Count(found=source.states, written=self.states, left_out=self.states_left_out),
            shards=tuple(sorted((one.shard for one in self.written), key=_split_order)),
            left_out=tuple(
                LeftOut(model=model, epochs=tuple(epochs), reason=reason)
                for (model, reason), epochs in self.left_out.items()
            ),
        )

    def result(self, manifest: Manifest) -> BuildResult:
        """What to tell the user."""
        missing = [split for split in SPLITS if split not in manifest.splits]
        warnings = [
            f"split {split!r} of {self.config} is empty: none of its {manifest.models.written:,} models falls into it; "
            "load_dataset will not list it"
            for split in missing
        ]
        if manifest.states.left_out:
            states = manifest.states
            warnings.append(f"{states.left_out:,} of {states.found:,} states are left out: {_reasons(manifest)}")
        warnings += self.source.warnings()
        return BuildResult(
            config=self.config,
            rows=manifest.rows(),
            models=manifest.models.written,
            epochs=tuple(manifest.epochs),
            splits=manifest.splits,
            shards_written=sum(not one.reused for one in self.written),
            shards_reused=sum(one.reused for one in self.written),
            bytes=sum(shard.bytes for shard in manifest.shards),
            left_out=manifest.left_out,
            warnings=tuple(warnings),
        )


def _split_order(shard: Shard) -> int:
    """Splits in their usual order; within one, shards stay in the order they were written."""
    return SPLITS.index(shard.split)


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
            f"{_reasons(manifest)}. The repository is unchanged; mend the source, or pass --replace"
        )


def _commit(repo: Path, manifest: Manifest, num_bytes: Mapping[str, int]) -> None:
    """Shards are in place; then the manifest, then README.md, which is what loaders read, then the old shards go."""
    with _locked(repo / LOCK, f"another process keeps the card of {repo} locked; run the command again", timeout=120):
        remove_temporaries(repo)
        manifest, meta_bytes = with_meta(repo, manifest)
        manifest.save(repo)
        write_card(repo, manifest, num_bytes, meta_bytes)
    referenced = {shard.path for shard in (*manifest.shards, *manifest.meta)}
    for file in sorted(file for end in ("", META) for file in (repo / f"{manifest.config}{end}").glob("*.parquet")):
        if file.relative_to(repo).as_posix() not in referenced:
            file.unlink(missing_ok=True)


def _reasons(manifest: Manifest) -> str:
    """States left out by reason, the most frequent first."""
    counts: dict[str, int] = {}
    for entry in manifest.left_out:
        counts[entry.reason] = counts.get(entry.reason, 0) + len(entry.epochs)
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = "; ".join(f"{count:,} × {reason}" for reason, count in ordered[:5])
    return shown + (f"; and {len(ordered) - 5} more reasons in manifest.json" if len(ordered) > 5 else "")


@contextlib.contextmanager
def _locked(path: Path, message: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock file; a process that dies lets go of it.

    Raises:
        RepositoryError: with `message`, where another process holds it longer than `timeout` seconds.
    """
    try:
        with filelock.FileLock(path, timeout=timeout):
            yield
    except filelock.Timeout as error:
        raise RepositoryError(message) from error
