"""The builder of `datasets` that reads a selection of a config, prepared into its cache or streamed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets import DatasetDict, DownloadConfig, IterableDatasetDict
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.download.streaming_download_manager import StreamingDownloadManager
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.parquet.parquet import Parquet, ParquetConfig
from datasets.utils.file_utils import is_local_path

from zoo_datasets.errors import NotCachedError, RepositoryError, StorageError, UnknownNameError, ZooError
from zoo_datasets.loading.caches import prepared
from zoo_datasets.loading.caches.checking import CachedDownloads, CheckedDownloads, FileCheck
from zoo_datasets.loading.repositories.location import Location
from zoo_datasets.loading.repositories.selection import Selection
from zoo_datasets.loading.row_groups import TableReading, read_schema
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import NAMES
from zoo_datasets.storage.files import is_full
from zoo_datasets.storage.secrets import without_secrets

if TYPE_CHECKING:
    from datasets import DatasetBuilder

# The Hub's file system reads 5 MiB past each range. The Parquet reader knows what it needs, and asks for it at once.
_EXACT_RANGES = {"hf": {"block_size": 1}}


def open_builder(
    location: Location,
    name: str,
    selection: Selection,
    files: dict[str, list[str]] | None,
    manifest: Manifest | None,
    shards: Sequence[Shard] = (),
) -> DatasetBuilder:
    """The Parquet builder of a config, with projection and filter.

    Args:
        files: those to read, by split; None means all that the card lists.
        manifest: of the zoo, which tells its columns if the card does not.
        shards: all of the config, as far as a manifest tells.

    Raises:
        RepositoryError: if `datasets` cannot open it, or it lists files elsewhere.
        UnknownNameError: if it lacks a column.
    """
    options: dict[str, Any] = {"storage_options": _EXACT_RANGES}
    if selection.columns_read is not None:
        options["columns"] = selection.columns_read
    if selection.filter is not None:
        options["filters"] = selection.filter
    if location.out_of_reach is not None and shards:
        make: Callable[..., DatasetBuilder] = functools.partial(
            _builder_of_shards, location, name, files, shards, version=location.version(name)
        )
    else:
        make = datasets.load_dataset_builder
        options |= {"path": location.path, "name": name, "revision": location.commit}
        options |= {"data_files": files} if files else {}
    try:
        builder = prepared.opened(make, Path(datasets.config.HF_DATASETS_CACHE), **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, DatasetsError) as error:
        if isinstance(error, StorageError):
            raise
        reason = " ".join(str(error).split())[:400]
        if location.out_of_reach is not None:
            raise NotCachedError(f"{location.repo}: {location.out_of_reach}, and of the cache: {reason}") from error
        raise RepositoryError(f"{location.repo}: config {name!r} could not be opened: {reason}") from error
    builder._generate_tables = TableReading(builder._generate_tables)
    location.check_inside(files_of(builder))
    columns = builder.info.features or _columns_of(manifest)
    for column in selection.columns_read or ():
        if column not in columns:
            raise UnknownNameError("column", column, columns)
    return builder


def _columns_of(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return list(NAMES)
    return [*NAMES, *manifest.extras] if manifest.open is None else [field.name for field in manifest.open.fields()]


def _builder_of_shards(
    location: Location,
    name: str,
    files: dict[str, list[str]] | None,
    shards: Sequence[Shard],
    *,
    storage_options: dict[str, Any],
    cache_dir: str | None = None,
    version: str | None = None,
    **config: Any,
) -> DatasetBuilder:
    """What `datasets.load_dataset_builder` makes of a config on the Hub, made without it: with the same place in the
    cache.

    Args:
        version: as the card has it.
        config: columns and filters.
    """
    stored: dict[str, list[str]] = {}
    for shard in shards:
        stored.setdefault(shard.split, []).append(shard.path)
    origin = (location.repo, location.commit)
    data_files = DataFilesDict({
        split: DataFilesList([location.address(path) for path in paths], [origin] * len(paths))
        for split, paths in (files or stored).items()
    })  # fmt: skip
    whole = config | ({"data_files": data_files} if files else {})
    return Parquet(
        cache_dir=cache_dir,
        dataset_name=location.repo.split("/")[-1],
        config_name=name,
        config_id=ParquetConfig(name).create_config_id(whole),
        hash=location.commit,
        base_path=location.address("").rstrip("/"),
        repo_id=location.repo,
        data_files=data_files,
        storage_options=storage_options,
        **({} if version is None else {"version": version}),
        **config,
    )


def is_prepared(builder: DatasetBuilder) -> bool:
    """Whether the cache of `datasets` holds the rows of a builder."""
    return Path(builder.cache_dir, datasets.config.DATASET_INFO_FILENAME).is_file()


def read_from_cache(builder: DatasetBuilder, location: Location) -> None:
    """Have a builder that streams read the files that were downloaded whole.

    Raises:
        NotCachedError: if the cache lacks some.
    """
    paths = location.cached_files(files_of(builder))
    builder.config.data_files = DataFilesDict({
        split: DataFilesList([paths[address] for address in addresses], addresses.origin_metadata)
        for split, addresses in builder.config.data_files.items()
    })  # fmt: skip


def files_of(builder: DatasetBuilder) -> list[str]:
    """The files that a builder reads: paths, or addresses."""
    return [str(file) for files in (builder.config.data_files or {}).values() for file in files]


def stream(builder: DatasetBuilder) -> IterableDatasetDict:
    """The splits of a builder, read while they are iterated.

    Raises:
        RepositoryError: if a file that tells the columns cannot be read.
    """
    first = [str(files[0]) for files in builder.config.data_files.values() if files]
    for file in filter(is_local_path, first):  # before `datasets` does, which logs what it cannot read
        read_schema(file)
    try:
        return builder.as_streaming_dataset()
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        reason = without_secrets(str(error))[:200]
        raise RepositoryError(f"a file of {builder.config.name} could not be read: {reason}") from error


def prepare(
    builder: DatasetBuilder, location: Location, selection: Selection, checking: FileCheck | None
) -> DatasetDict:
    """The splits that have rows, or the stored one asked for, from the cache; what it lacks is written there first.

    Raises:
        RepositoryError: if a file cannot be read, or is damaged.
        StorageError: if the cache cannot be written.
    """
    try:
        with contextlib.nullcontext() if checking is None else prepared.noting(builder):
            builder.download_and_prepare(
                dl_manager=_downloads(builder, location, selection, checking),
                # The card records the rows of whole splits, which a selection does not have.
                verification_mode="no_checks" if selection.partial else "basic_checks",
            )
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        ours = error if isinstance(error, ZooError) else error.__cause__
        if isinstance(ours, ZooError):
            raise ours from None
        if not is_full(error):
            raise RepositoryError(
                f"a file of {builder.config.name} could not be read: "
                f"{without_secrets(str(error.__cause__ or error))[:200]}; if the repository is a folder here, "
                "`zoo verify` says which, and building it again mends it"
            ) from error
        raise StorageError(
            f"{builder.cache_dir} could not be written: the disk is full; free space, point HF_HOME elsewhere, or load "
            "less (epochs=, columns=, where=) or with streaming=True"
        ) from error
    # `datasets` refuses to open a split of which no row is left.
    splits = [split for split, info in builder.info.splits.items() if info.num_examples]
    wanted = [split for split in splits if selection.stored_split in (None, split)]
    return DatasetDict({split: builder.as_dataset(split=split) for split in wanted})


def _downloads(builder: DatasetBuilder, location: Location, selection: Selection, checking: FileCheck | None) -> Any:
    """What fetches the files of a builder: parts of them, or whole ones that are checked; None is its own."""
    if all("://" not in file for file in files_of(builder)):
        return None
    options: dict[str, Any] = {"token": builder.token, "storage_options": builder.storage_options}
    if location.out_of_reach is not None:
        return CachedDownloads(
            location,
            checking,
            dataset_name=builder.dataset_name,
            download_config=DownloadConfig(**options),
            base_path=builder.base_path,
        )
    # The usual manager fetches whole files; this one lets the reader ask for the parts it needs.
    if selection.partial:
        return StreamingDownloadManager(
            base_path=builder.base_path,
            download_config=DownloadConfig(**options),
            dataset_name=builder.dataset_name,
        )
    if checking is None:
        return None
    return CheckedDownloads(
        checking,
        dataset_name=builder.dataset_name,
        download_config=DownloadConfig(cache_dir=builder._cache_downloaded_dir, use_etag=False, **options),
        base_path=builder.base_path,
    )
