"""From a dataset repository to datasets."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, DownloadConfig, IterableDataset, IterableDatasetDict

from zoo_datasets.documents import StrPath
from zoo_datasets.errors import NotCachedError, RepositoryError, SpecError
from zoo_datasets.loading.caches import prepared
from zoo_datasets.loading.caches.checking import FileCheck
from zoo_datasets.loading.repositories.builder import (
    files_of,
    is_prepared,
    open_builder,
    prepare,
    read_from_cache,
    stream,
)
from zoo_datasets.loading.repositories.citing import citation_text, note_citation
from zoo_datasets.loading.repositories.cuts import check_divides, cut_rows
from zoo_datasets.loading.repositories.location import Location
from zoo_datasets.loading.repositories.selection import Selection, SplitBy, is_expression
from zoo_datasets.loading.row_groups import StreamFiles, tell_source
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.places import LAYOUTS, META
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import SPLITS
from zoo_datasets.repository.shards import check_listed

if TYPE_CHECKING:
    from datasets import DatasetBuilder

__all__ = ["Loaded", "SplitBy", "load_zoo", "read_layouts"]

_LOGGER = logging.getLogger(__name__)

Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict


def load_zoo(
    repo: StrPath | Sequence[tuple[StrPath, str]],
    name: str | Sequence[str] | None = None,
    split: str | datasets.NamedSplit | datasets.ReadInstruction | None = None,
    *,
    epochs: Iterable[int] | None = None,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    split_by: SplitBy = "model",
    streaming: bool = False,
    revision: str | None = None,
    check: bool | None = None,
) -> Loaded | dict[str, Loaded]:
    """A zoo of a dataset repository, read with `datasets`; only what is asked for is read and prepared.

    Epochs, conditions and columns reach the Parquet reader: of a repository on the Hub, too, only the parts of
    the files that hold them are transferred.

    Args:
        repo: a local folder or the id of a dataset on the Hub, also as org/name@revision, hf://datasets/org/name or
            https://huggingface.co/datasets/org/name; or a list of pairs (repo, name).
        name: the config, which is the zoo's name; or a list of names. Lists give a dictionary by name, of zoos
            that `mixed_tokens` puts into one loader.
        split: train, validation or test; None gives a dictionary of all splits that have rows (streaming
            cannot know which are left by `where` without reading, and gives all that have the epochs). Slices and sums
            of prepared ones as `datasets` writes them: `train[:10%]`, `train[10:20]+test`.
        epochs: the epochs wanted, 0 being initialisation; None means all.
        where: a condition on the columns, `activation == "relu" and lr < 0.01`; see `zoo_datasets.repository.where`.
        columns: the columns wanted; None means all. `where` may use others.
        steps: the optimizer steps wanted, of zoos whose states have them; None means all.
        split_by: `model` is the repository's own split. `seed` cuts the same rows by a hash of the seed, so
            that models that started from the same weights are never in two splits; `group:COLUMN` by a hash of any
            column. `source` is the split in which the original authors had a row, by any names of theirs.
        streaming: whether to read while iterating and to keep nothing on disk.
        revision: branch, tag or commit, on the Hub.
        check: whether files that were read or downloaded whole are compared with their SHA-256 in the manifest first;
            each is hashed once, until it changes. None means unless streaming.

    Raises:
        RepositoryError: if `repo` is no dataset repository, or a file of it is damaged.
        UnknownNameError: if it has no such config, split or column; says what is near.
        SpecError: if an epoch has no rows, or an argument makes no sense.
    """
    if not isinstance(repo, (str, os.PathLike)) or not isinstance(name, (str, type(None))):
        options: Any = {"epochs": epochs, "where": where, "columns": columns, "steps": steps, "split_by": split_by,
                        "streaming": streaming, "revision": revision, "check": check}  # fmt: skip
        return {key: load_zoo(*pair, split, **options) for key, pair in _pairs(repo, name).items()}
    location = Location.of(repo, revision)
    if name is None:
        zoos = ", ".join(location.zoo_names()) or "none"
        raise SpecError(f"load_zoo({str(repo)[:80]!r}) needs the name of a config; this repository has {zoos}")
    selection = Selection.of(epochs, where, columns, steps, split, split_by)
    if selection.split is not None and is_expression(selection.split):
        return _load_parts(location, name, selection, streaming, check)
    return _load(location, name, selection, streaming, check)


def _load_parts(location: Location, name: str, selection: Selection, streaming: bool, check: bool | None) -> Dataset:
    """Slices and sums of splits, as `train[:10%]+test`.

    Raises:
        SpecError: if they are not understood, hold no row, or are to be streamed.
    """
    instruction = selection.instruction()
    if streaming:
        raise SpecError(
            f"split={selection.split!r}: parts of splits are taken of prepared rows; load without streaming, or stream "
            "one split and choose rows by epochs= and where="
        )
    rows: dict[str, Dataset] = {}
    for split in dict.fromkeys(part.partition("[")[0] for part in instruction.to_spec().split("+")):
        whole = dataclasses.replace(selection, split=split)
        rows[split] = cast(Dataset, _load(location, name, whole, streaming, check))
    try:
        slices = instruction.to_absolute({split: len(part) for split, part in rows.items()})
    except ValueError as error:
        raise SpecError(f"split={selection.split!r}: {' '.join(str(error).split())}") from None
    parts = [rows[part.splitname].select(range(part.from_, part.to)) for part in slices if part.from_ < part.to]
    if not parts:
        raise selection.no_rows(name)
    return datasets.concatenate_datasets(parts)


def _load(location: Location, name: str, selection: Selection, streaming: bool, check: bool | None) -> Loaded:
    """One zoo, read as `load_zoo` says; while the Hub is out of reach, of the newest commit that the cache holds."""
    missing: NotCachedError | None = None
    for candidate in location.resolved():
        try:
            loaded = _load_commit(candidate, name, selection, streaming, check)
        except NotCachedError as error:
            missing = missing or error
            continue
        if candidate.out_of_reach is not None:
            reason, commit = candidate.out_of_reach, candidate.commit
            _LOGGER.warning("%s: %s; reading commit %s from the cache", location.repo, reason, commit)
        return loaded
    assert missing is not None
    raise missing


def _load_commit(location: Location, name: str, selection: Selection, streaming: bool, check: bool | None) -> Loaded:
    location.check_config(name)
    whole = location.zoo_manifest(name)  # also if it is one of the configs beside a zoo
    selection = selection.within(whole, location.open_columns(whole))
    manifest = whole if whole is not None and whole.config == name else None
    selection.check_epochs(manifest, name)
    epochs = selection.epochs_to_read(manifest)
    files = selection.files(manifest, epochs)

    def opened() -> DatasetBuilder:
        shards = () if location.out_of_reach is None or whole is None else _listed(whole, name)
        return open_builder(location, name, selection, files, whole, shards)

    builder = opened()
    selection.check_split((builder.config.data_files or SPLITS) if manifest is None else manifest.splits, name)
    checking = None
    if check or (check is None and not streaming):
        checking = FileCheck(location, builder, whole)
        if check:
            _require_check(checking, streaming or selection.partial)
        if checking.local:
            checking.check_local(epochs if files else None)
    if whole is not None and not files:
        check_listed(list(map(location.relative, files_of(builder))), _listed(whole, name), location.repo)
    # Rows of the Hub are streamed from what is prepared, if nothing else can be read.
    if streaming:
        _check_streamed_cut(location, manifest, selection)
    from_files = streaming and (location.out_of_reach is None or not is_prepared(builder))
    if from_files:
        if location.out_of_reach is not None:
            read_from_cache(builder, location)
        splits = stream(builder)
    else:
        if checking is not None and prepared.renew(Path(builder.cache_dir), need_note=checking.local):
            builder = opened()
        splits = prepare(builder, location, selection, checking)
    if not splits:
        raise selection.no_rows(name)
    sources = _sources(builder, selection, list(splits)) if from_files else {}
    loaded = _chosen(splits, sources, selection, name, citation_text(name, whole))
    return _as_stream(loaded) if streaming and not from_files else loaded


def _check_streamed_cut(location: Location, manifest: Manifest | None, selection: Selection) -> None:
    """See that a cut of rows that are streamed divides them, by the light config of a folder.

    Raises:
        SpecError: if it does not.
    """
    cut = selection.cut
    if cut is None or cut.named or manifest is None or location.folder is None or selection.where is not None:
        return
    try:
        tables = [
            pq.read_table(location.file(shard.path), columns=[cut.column], partitioning=None) for shard in manifest.meta
        ]
    except (OSError, pa.ArrowException):  # rows are streamed without it
        return
    check_divides([table[cut.column] for table in tables], cut, manifest.config, chosen=False)


def _as_stream(loaded: Any) -> Loaded:
    """Prepared rows as a streamed zoo; `batches` reads them as they are prepared."""
    if isinstance(loaded, DatasetDict):
        return IterableDatasetDict({split: _as_stream(rows) for split, rows in loaded.items()})
    rows = loaded.to_iterable_dataset()
    tell_source(rows, loaded)
    return rows


def _listed(manifest: Manifest, name: str) -> tuple[Shard, ...]:
    """The files of a config, or of one of those beside it."""
    return manifest.meta if name.endswith(META) else manifest.layouts if name.endswith(LAYOUTS) else manifest.shards


def _chosen(
    splits: DatasetDict | IterableDatasetDict,
    sources: dict[str, StreamFiles],
    selection: Selection,
    name: str,
    citation: str,
) -> Loaded:
    """The split asked for, or all of them, cut anew if that is asked for; streamed ones know their files."""
    cut = selection.cut
    if cut is not None:
        if isinstance(splits, DatasetDict) and not cut.named:
            columns = (rows.select_columns(cut.column).with_format("arrow")[:][cut.column] for rows in splits.values())
            check_divides(columns, cut, name, chosen=selection.where is not None)
        splits = cut_rows(splits, cut, selection.split, drop=selection.columns_read != selection.columns)
    note_citation(splits, citation)
    for split, source in sources.items():
        if split in splits:
            tell_source(splits[split], dataclasses.replace(source, columns=selection.columns, citation=citation))
    if selection.split is None:
        return splits
    if selection.split not in splits:
        raise selection.no_rows(name)
    return cast(Loaded, splits[selection.split])


def read_layouts(repo: StrPath, name: str, revision: str | None = None) -> dict[str, NetworkRecord]:
    """The networks of the rows of an open config, by the hash that rows have in `layout`.

    This process knows them from now on: `to_state_dict` takes their rows however these were loaded. `load_zoo` does
    the same by itself.

    Raises:
        RepositoryError: if the config is missing or broken, or its rows are not open.
    """
    location = Location.of(repo, revision).resolved()[0]
    location.check_config(name)
    manifest = location.zoo_manifest(name)
    if manifest is None or manifest.open is None:
        raise RepositoryError(f"{location.repo}: {name} has no layouts of its own; its rows tell their architecture")
    return location.layouts(manifest)


def _pairs(repo: Any, name: Any) -> dict[str, tuple[StrPath, str]]:
    """Several zoos by their names, with their repositories in front if names are equal.

    Raises:
        SpecError: if the arguments of `load_zoo` are no such pairs, or name a zoo twice.
    """
    if isinstance(repo, (str, os.PathLike)):
        pairs = [(repo, one) for one in name or ()]
    else:
        pairs = list(repo) if name is None else []
    if not pairs or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise SpecError(
            f"load_zoo({str(repo)[:80]!r}, {str(name)[:80]!r}): expected a repository and a name, a repository and a "
            "list of names, or a list of pairs (repository, name)"
        )
    names = [one for _, one in pairs]
    keyed = {(one if names.count(one) == 1 else f"{origin}/{one}"): (origin, one) for origin, one in pairs}
    if len(keyed) != len(pairs):
        raise SpecError(f"a zoo is listed twice in {', '.join(names)}; expected each once")
    return keyed


def _sources(builder: DatasetBuilder, selection: Selection, splits: list[str]) -> dict[str, StreamFiles]:
    """What `batches` reads of each streamed split: the files themselves."""
    files = {split: tuple(map(str, paths)) for split, paths in builder.config.data_files.items() if split in splits}
    source = StreamFiles(
        files=tuple(path for paths in files.values() for path in paths),
        columns=selection.columns_read,
        filter=selection.filter,
        filter_columns=selection.filter_columns,
        cut=None,
        download=DownloadConfig(token=builder.token, storage_options=builder.storage_options),
    )
    if selection.cut is not None:
        names = SPLITS if selection.split is None else (selection.split,)
        return {split: dataclasses.replace(source, cut=(selection.cut, split)) for split in names}
    return {split: dataclasses.replace(source, files=paths) for split, paths in files.items()}


def _require_check(checking: FileCheck, in_parts: bool) -> None:
    """See that a check that was asked for is possible.

    Raises:
        SpecError: if it is not.
    """
    if in_parts and not checking.local:
        raise SpecError(
            "check=True: of files on the Hub only parts are read here, and these carry no checksums; load whole splits "
            "without streaming, or download the repository and load the folder"
        )
    checking.require_digests()
