"""The builder of `datasets` that reads a selection of a config, prepared into its cache or streamed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets import DatasetDict, DownloadConfig, IterableDatasetDict
from datasets.download.streaming_download_manager import StreamingDownloadManager
from datasets.exceptions import DatasetsError
from datasets.utils.file_utils import is_local_path

from zoo_datasets.errors import RepositoryError, StorageError, UnknownNameError, ZooError
from zoo_datasets.loading.caches import prepared
from zoo_datasets.loading.caches.checking import CheckedDownloads, FileCheck
from zoo_datasets.loading.repositories.location import Location
from zoo_datasets.loading.repositories.selection import Selection
from zoo_datasets.loading.row_groups import TableReading, read_schema
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import NAMES
from zoo_datasets.storage.files import is_full
from zoo_datasets.storage.secrets import without_secrets

if TYPE_CHECKING:
    from datasets import DatasetBuilder

# The Hub's file system reads 5 MiB past each range. The Parquet reader knows what it needs, and asks for it at once.
_EXACT_RANGES = {"hf": {"block_size": 1}}


def open_builder(
    location: Location, name: str, selection: Selection, files: dict[str, list[str]] | None, manifest: Manifest | None
) -> DatasetBuilder:
    """The Parquet builder of a config, with projection and filter.

    Args:
        files: those to read, by split; None means all that the card lists.
        manifest: of the zoo, which tells its columns if the card does not.

    Raises:
        RepositoryError: if `datasets` cannot open it, or it lists files elsewhere.
        UnknownNameError: if it lacks a column.
    """
    options: dict[str, Any] = {}
    if selection.columns_read is not None:
        options["columns"] = selection.columns_read
    if selection.filter is not None:
        options["filters"] = selection.filter
    if files:
        options["data_files"] = files
    options |= {
        "path": location.path,
        "name": name,
        "revision": location.revision,
        "storage_options": _EXACT_RANGES,
    }
    try:
        builder = prepared.opened(datasets.load_dataset_builder, Path(datasets.config.HF_DATASETS_CACHE), **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, DatasetsError) as error:
        if isinstance(error, StorageError):
            raise
        reason = " ".join(str(error).split())[:400]
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


def prepare(builder: DatasetBuilder, selection: Selection, checking: FileCheck | None) -> DatasetDict:
    """The splits that have rows, or the stored one asked for, from the cache; what it lacks is written there first.

    Raises:
        RepositoryError: if a file cannot be read, or is damaged.
        StorageError: if the cache cannot be written.
    """
    try:
        with contextlib.nullcontext() if checking is None else prepared.noting(builder):
            builder.download_and_prepare(
                dl_manager=_downloads(builder, selection, checking),
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


def _downloads(builder: DatasetBuilder, selection: Selection, checking: FileCheck | None) -> Any:
    """What fetches the files of a builder: parts of them, or whole ones that are checked; None is its own."""
    if all("://" not in file for file in files_of(builder)):
        return None
    options: dict[str, Any] = {"token": builder.token, "storage_options": builder.storage_options}
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
