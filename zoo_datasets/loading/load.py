"""From a dataset repository to datasets, and from a row back to a network."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DownloadConfig, IterableDataset, IterableDatasetDict
from datasets.download.streaming_download_manager import StreamingDownloadManager
from datasets.exceptions import DatasetsError
from datasets.utils.file_utils import is_local_path
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError  # type: ignore[attr-defined]

from zoo_datasets.documents import MAX_JSON, MAX_YAML, StrPath, brief, read_text
from zoo_datasets.errors import (
    DocumentError,
    OutsideError,
    RepositoryError,
    SpecError,
    StorageError,
    UnknownNameError,
    ZooError,
)
from zoo_datasets.loading.caches import prepared
from zoo_datasets.loading.caches.checking import CheckedDownloads, FileCheck
from zoo_datasets.loading.citing import citation_text, note_citation
from zoo_datasets.loading.cuts import Cut, check_cut, cut_rows, one_value, parse_cut
from zoo_datasets.loading.row_groups import StreamFiles, TableReading, read_schema, tell_source
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.card import CARD, check_patterns, configs_of, parse_card, read_card, zoos_of
from zoo_datasets.repository.layouts import local_layouts, read_layouts_file
from zoo_datasets.repository.manifest import (
    LAYOUTS,
    LIGHT_ENDINGS,
    META,
    Manifest,
    Shard,
    manifest_paths,
    parse_manifest,
    read_manifest,
)
from zoo_datasets.repository.removal import gone_message, listed_but_gone, local_files
from zoo_datasets.repository.row import NAMES, SPLITS
from zoo_datasets.repository.shards import check_listed
from zoo_datasets.repository.where import Condition, parse_where
from zoo_datasets.specs.spec import MAX_EPOCH, NAME
from zoo_datasets.storage.files import check_files, is_full
from zoo_datasets.storage.folders import check_repository_folder, check_text
from zoo_datasets.storage.secrets import without_secrets

if TYPE_CHECKING:
    from datasets import DatasetBuilder


SplitBy: TypeAlias = str


# The Hub's file system reads 5 MiB past each range. The Parquet reader knows what it needs, and asks for it at once.
_EXACT_RANGES = {"hf": {"block_size": 1}}


Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict


def load_zoo(
    repo: str | Path | Sequence[tuple[str | Path, str]],
    name: str | Sequence[str] | None = None,
    split: str | None = None,
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
        repo: a local folder or the id of a dataset on the Hub; or a list of pairs (repo, name).
        name: the config, which is the zoo's name; or a list of names. Lists give a dictionary by name, of zoos
            that `mixed_tokens` puts into one loader.
        split: train, validation or test; None gives a dictionary of all splits that have rows (streaming
            cannot know which are left by `where` without reading, and gives all that have the epochs).
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
        RepositoryError: where `repo` is no dataset repository, or a file of it is damaged.
        UnknownNameError: where it has no such config, split or column; says what is near.
        SpecError: where an epoch has no rows, or an argument makes no sense.
    """
    alike: Any = {"epochs": epochs, "where": where, "columns": columns, "steps": steps, "split_by": split_by,
                    "streaming": streaming, "revision": revision, "check": check}  # fmt: skip
    if isinstance(repo, os.PathLike):
        repo = Path(repo)
    if isinstance(repo, (str, Path)) and name is None:
        zoos = [config for config in _config_names(repo, revision) if not config.endswith(LIGHT_ENDINGS)]
        known = ", ".join(zoos) or "none"
        raise SpecError(f"load_zoo({str(repo)[:80]!r}) needs the name of a config; known are {known}")
    if not isinstance(repo, (str, Path)) or not isinstance(name, str):
        return {key: load_zoo(*pair, split, **alike) for key, pair in _pairs(repo, name).items()}
    cut = parse_cut(split_by)
    if columns is not None and (isinstance(columns, str) or not columns):
        raise SpecError(f"columns={columns!r}: expected a list of at least one column; known are {', '.join(NAMES)}")
    wanted = None if columns is None else list(dict.fromkeys(columns))
    read = wanted if wanted is None or cut is None or cut.column in wanted else [*wanted, cut.column]
    chosen = None if epochs is None else _epochs(epochs)
    _check_config(repo, name, revision)
    manifest = _manifest(repo, name, revision)
    whole = manifest if not name.endswith(LIGHT_ENDINGS) else _manifest(repo, _without_ending(name), revision)
    further = _open_columns(repo, whole, revision)
    condition = None if where is None else parse_where(where, further)
    parts = _Parts(chosen, condition, read, None if steps is None else _steps(steps, whole))
    if cut is not None:
        check_cut(cut, [*NAMES, *further])
    if chosen is not None:
        _check_epochs(manifest, name, chosen, split if cut is None else None)
    epochs_read = _epochs_that_can_match(manifest, parts)
    files = _files(manifest, split if cut is None else None, epochs_read)
    builder = _builder(repo, name, revision, parts, files, whole)
    _check_split(manifest, builder, name, split, cut)
    checking = None
    if check or (check is None and not streaming):
        checking = FileCheck(repo, builder, whole)
        if check:
            _require_check(checking, streaming or parts.some)
        if checking.local:
            checking.check_local(epochs_read if files else None)
    if whole is not None and not files:
        check_listed(_paths(repo, builder), _listed(whole, name), str(repo))
    if streaming:
        loaded = _streamed(builder)
    else:
        if checking is not None and prepared.renew(Path(builder.cache_dir), need_note=checking.local):
            builder = _builder(repo, name, revision, parts, files, manifest)
        _prepare(builder, parts, checking)
        # `datasets` refuses to open a split of which no row is left.
        held = [part for part, info in builder.info.splits.items() if info.num_examples]
        loaded = DatasetDict(
            {part: builder.as_dataset(split=part) for part in held if cut is not None or split in (None, part)}
        )
    if not loaded:
        raise SpecError(f"{name}: no row{_told(split)} has {parts.told()}")
    sources = _sources(builder, parts, streaming, list(loaded), cut, split)
    if cut is not None:
        if not streaming and not cut.named and one_value(loaded, cut.column):
            warnings.warn(
                f"{name}: all rows have the same {cut.column}, so that split_by={split_by!r} puts all into one split",
                stacklevel=2,
            )
        loaded = cut_rows(loaded, cut, split, drop=read != wanted)
    citation = citation_text(name, whole)
    note_citation(loaded, citation)
    for part, source in sources.items():
        if part in loaded:
            tell_source(loaded[part], dataclasses.replace(source, columns=wanted, citation=citation))
    if split is None:
        return cast(Loaded, loaded)
    if split not in loaded:
        raise SpecError(f"{name}: no row{_told(split)} has {parts.told()}")
    return cast(Loaded, loaded[split])


def _pairs(
    repo: str | Path | Sequence[tuple[str | Path, str]], name: str | Sequence[str] | None
) -> dict[str, tuple[str | Path, str]]:
    """Several zoos by their names, with their repositories in front where names are equal."""
    if isinstance(repo, (str, Path)):
        pairs: list[Any] = [(repo, one) for one in name or ()]
    else:
        pairs = list(repo) if name is None else []
    if not pairs or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise SpecError(
            f"load_zoo({str(repo)[:80]!r}, {str(name)[:80]!r}): expected a repository and a name, a repository and a "
            "list of names, or a list of pairs (repository, name)"
        )
    names = [one for _, one in pairs]
    keyed = {(one if names.count(one) == 1 else f"{place}/{one}"): (place, one) for place, one in pairs}
    if len(keyed) != len(pairs):
        raise SpecError(f"a zoo stands twice in {', '.join(names)}; expected each once")
    return keyed


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is read of a config: epochs, rows, columns and steps; None means all."""

    epochs: list[int] | None
    where: Condition | None
    columns: list[str] | None
    steps: list[int] | None = None

    @property
    def some(self) -> bool:
        """Whether anything is left out."""
        return self != _Parts(None, None, None)

    @property
    def filter(self) -> pc.Expression | None:
        """The rows wanted."""
        conditions = [] if self.epochs is None else [pc.field("epoch").isin(self.epochs)]
        conditions += [] if self.steps is None else [pc.field("step").isin(self.steps)]
        conditions += [] if self.where is None else [self.where.expression()]
        return reduce(operator.and_, conditions) if conditions else None

    def told(self) -> str:
        """The rows wanted, for a message."""
        told = [] if self.epochs is None else [f"epoch {' or '.join(map(str, self.epochs))}"]
        told += [] if self.steps is None else [f"step {' or '.join(map(str, self.steps))}"]
        return " and ".join(told + ([] if self.where is None else [str(self.where)])) or "been written"


def _sources(
    builder: DatasetBuilder, parts: _Parts, streaming: bool, loaded: list[str], cut: Cut | None, split: str | None
) -> dict[str, StreamFiles]:
    """What `batches` reads of each streamed split: the files themselves."""
    if not streaming:
        return {}
    files = {part: tuple(map(str, paths)) for part, paths in builder.config.data_files.items() if part in loaded}
    by_key = [*([] if parts.epochs is None else ["epoch"]), *([] if parts.steps is None else ["step"])]
    source = StreamFiles(
        files=tuple(path for paths in files.values() for path in paths),
        columns=parts.columns,
        filter=parts.filter,
        filter_columns=(*by_key, *(() if parts.where is None else sorted(parts.where.columns))),
        cut=None,
        download=DownloadConfig(token=builder.token, storage_options=builder.storage_options),
    )
    if cut is not None:
        return {part: dataclasses.replace(source, cut=(cut, part)) for part in ([split] if split else SPLITS)}
    return {part: dataclasses.replace(source, files=paths) for part, paths in files.items()}


def _told(split: str | None) -> str:
    return f" of split {split!r}" if split else ""


def _epochs_that_can_match(manifest: Manifest | None, parts: _Parts) -> list[int] | None:
    """The epochs that hold the rows wanted, as far as the condition alone tells; None where it may be any."""
    if manifest is None or parts.epochs is not None or parts.where is None:
        return parts.epochs
    epochs = pa.array(manifest.epochs, pa.int32())
    possible = epochs.take(pa.array(parts.where.possible(pa.table({"epoch": epochs})))).to_pylist()
    # Rows of none are an empty zoo, and that has the columns of one that is not.
    return possible if 0 < len(possible) < len(manifest.epochs) else None


def _files(manifest: Manifest | None, split: str | None, epochs: list[int] | None) -> dict[str, list[str]] | None:
    """The shards that can hold the rows wanted, by split; None where these are all, or nothing says."""
    if manifest is None or (split is None and epochs is None):
        return None
    files: dict[str, list[str]] = {}
    for shard in manifest.shards:
        if split in (None, shard.split) and (epochs is None or not set(epochs).isdisjoint(shard.epochs)):
            files.setdefault(shard.split, []).append(shard.path)
    return files


def _require_check(checking: FileCheck, in_parts: bool) -> None:
    """See that a check that was asked for can be made.

    Raises:
        SpecError: where it cannot.
    """
    if in_parts and not checking.local:
        raise SpecError(
            "check=True: of files on the Hub only parts are read here, and these carry no checksums; load whole splits "
            "without streaming, or download the repository and load the folder"
        )
    checking.require_digests()


def _streamed(builder: DatasetBuilder) -> IterableDatasetDict:
    """The splits of a builder, read while they are iterated.

    Raises:
        RepositoryError: where a file that tells the columns cannot be read.
    """
    first = [str(files[0]) for files in builder.config.data_files.values() if files]
    for file in filter(is_local_path, first):  # before `datasets` does, which logs what it cannot read
        read_schema(file)
    try:
        return builder.as_streaming_dataset()
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        reason = without_secrets(str(error))[:200]
        raise RepositoryError(f"a file of {builder.config.name} could not be read: {reason}") from error


def _prepare(builder: DatasetBuilder, parts: _Parts, checking: FileCheck | None) -> None:
    """Write the rows wanted into the cache, unless they are there.

    Raises:
        RepositoryError: where a file cannot be read, or is damaged.
        StorageError: where the cache cannot be written.
    """
    remote = any("://" in str(file) for files in builder.config.data_files.values() for file in files)
    # The usual manager fetches whole files; this one lets the reader ask for the parts it needs.
    manager: Any = None
    options: dict[str, Any] = {"token": builder.token, "storage_options": builder.storage_options}
    if remote and parts.some:
        manager = StreamingDownloadManager(
            base_path=builder.base_path,
            download_config=DownloadConfig(**options),
            dataset_name=builder.dataset_name,
        )
    elif remote and checking is not None:
        manager = CheckedDownloads(
            checking,
            dataset_name=builder.dataset_name,
            download_config=DownloadConfig(cache_dir=builder._cache_downloaded_dir, use_etag=False, **options),
            base_path=builder.base_path,
        )
    try:
        with contextlib.nullcontext() if checking is None else prepared.noting(builder):
            builder.download_and_prepare(
                dl_manager=manager,
                # The card records the rows of whole splits, which a selection does not have.
                verification_mode="no_checks" if parts.some else "basic_checks",
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


def _dropout(value: Any) -> float:
    try:
        rate = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        rate = math.nan
    if not 0 <= rate <= 1:
        raise SpecError(f"dropout={brief(value)}: expected a rate from 0 to 1")
    return rate


def _epochs(epochs: Iterable[int]) -> list[int]:
    listed: set[int] = set()
    with contextlib.suppress(TypeError):
        for epoch in epochs:
            number = operator.index(epoch)
            if not 0 <= number <= MAX_EPOCH:
                listed.clear()
                break
            listed.add(number)
        else:
            if listed:
                return sorted(listed)
    raise SpecError(
        f"epochs={brief(epochs)}: expected a list of whole numbers from 0 to {MAX_EPOCH:,}, or None for all epochs"
    )


def _steps(steps: Iterable[int], manifest: Manifest | None) -> list[int]:
    listed = []
    with contextlib.suppress(TypeError):
        listed = sorted({operator.index(step) for step in steps})
    if not listed or listed[0] < 0:
        raise SpecError(f"steps={brief(steps)}: expected a list of whole numbers from 0 on, or None for all steps")
    if manifest is not None and manifest.open is None:
        raise SpecError(f"{manifest.config}: its states are whole epochs and have no steps; choose by epochs=")
    return listed


def _without_ending(name: str) -> str:
    return next(name.removesuffix(end) for end in LIGHT_ENDINGS if name.endswith(end))


def _layouts_of(repo: str | Path, manifest: Manifest, revision: str | None) -> dict[str, NetworkRecord]:
    """The networks of open rows by hash, which this process knows from now on.

    Raises:
        RepositoryError: if they cannot be read.
    """
    if Path(repo).is_dir():
        return local_layouts(Path(repo), manifest)
    records: dict[str, NetworkRecord] = {}
    for shard in manifest.layouts:
        try:
            file = hf_hub_download(str(repo), shard.path, repo_type="dataset", revision=revision)
        except (HTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RepositoryError(f"{repo}: {shard.path} could not be fetched: {reason}") from error
        records |= read_layouts_file(Path(file))
    return records


def _open_columns(repo: str | Path, manifest: Manifest | None, revision: str | None) -> dict[str, pa.DataType]:
    """Types of the columns of open rows, whose layouts this process knows from now on; none of others."""
    if manifest is None or manifest.open is None:
        return {}
    _layouts_of(repo, manifest, revision)
    return {column.name: column.type for column in manifest.open.narrow if column.type is not None}


def read_layouts(repo: StrPath, name: str, revision: str | None = None) -> dict[str, NetworkRecord]:
    """The networks of the rows of an open config, by the hash that rows have in `layout`.

    This process knows them from now on: `to_state_dict` takes their rows however these were loaded. `load_zoo` does
    the same by itself.

    Raises:
        RepositoryError: if the config is missing or broken, or its rows are not open.
    """
    place = repo if isinstance(repo, str) else Path(repo)
    _check_config(place, name, revision)
    manifest = _manifest(place, name, revision)
    if manifest is None or manifest.open is None:
        raise RepositoryError(f"{str(repo)[:80]}: {name} has no layouts of its own; its rows tell their architecture")
    return _layouts_of(place, manifest, revision)


def _builder(
    repo: str | Path,
    name: str,
    revision: str | None,
    parts: _Parts,
    files: dict[str, list[str]] | None,
    manifest: Manifest | None,
) -> DatasetBuilder:
    """The Parquet builder of a config, with projection and filter, of the files that are needed."""
    options: dict[str, Any] = {}
    if parts.columns is not None:
        options["columns"] = parts.columns
    if parts.filter is not None:
        options["filters"] = parts.filter
    if files:
        options["data_files"] = files
    # `datasets` takes "." and the like for something else than a folder.
    location = str(Path(repo).resolve()) if Path(repo).is_dir() else str(repo)
    options |= {"path": location, "name": name, "revision": revision, "storage_options": _EXACT_RANGES}
    try:
        builder = prepared.opened(datasets.load_dataset_builder, Path(datasets.config.HF_DATASETS_CACHE), **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, DatasetsError) as error:
        if isinstance(error, StorageError):
            raise
        reason = " ".join(str(error).split())[:400]
        raise RepositoryError(f"{repo}: config {name!r} could not be opened: {reason}") from error
    builder._generate_tables = TableReading(builder._generate_tables)
    _check_inside(repo, builder)
    known = builder.info.features or _columns_of(manifest)
    for column in parts.columns or ():
        if column not in known:
            raise UnknownNameError("column", column, known)
    return builder


def _columns_of(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return list(NAMES)
    return [*NAMES, *manifest.extras] if manifest.open is None else [field.name for field in manifest.open.fields()]


def _listed(manifest: Manifest, name: str) -> tuple[Shard, ...]:
    """The files of a config, or of one of those beside it."""
    return manifest.meta if name.endswith(META) else manifest.layouts if name.endswith(LAYOUTS) else manifest.shards


def _paths(repo: str | Path, builder: DatasetBuilder) -> list[str]:
    """The files of a builder, relative to the repository."""
    files = [str(file) for paths in (builder.config.data_files or {}).values() for file in paths]
    if Path(repo).is_dir():
        return [file.removeprefix(f"{Path(repo).resolve()}{os.sep}").replace(os.sep, "/") for file in files]
    return [file.partition("@")[2].partition("/")[2] for file in files]


def _check_inside(repo: str | Path, builder: DatasetBuilder) -> None:
    """Whatever a card and a manifest say, the files that will be read are the repository's own.

    Raises:
        OutsideError: naming the first that is not.
    """
    files = [str(file) for paths in (builder.config.data_files or {}).values() for file in paths]
    local = Path(repo).is_dir()
    # A revision may hold slashes; it is quoted in these addresses.
    own = f"{Path(repo).resolve()}{os.sep}" if local else f"hf://datasets/{repo}@"
    outside = next((file for file in files if not file.startswith(own) or ".." in file.split("/")), None)
    if outside is not None:
        raise OutsideError(f"{repo} lists {outside[:200]!a}, which is no file of its own; it was not read")
    if local:
        check_files(Path(repo), [file.removeprefix(own) for file in files])


def _check_config(repo: str | Path, name: str, revision: str | None) -> None:
    configs = _configs(repo, revision)
    origin = str(Path(repo) / CARD) if Path(repo).is_dir() else f"{repo}: {CARD}"
    check_patterns(configs.get(name, {}), origin)
    known = list(configs) if Path(repo).is_dir() else _config_names(repo, revision)
    if name not in known:
        raise UnknownNameError("config", name, known)
    zoo = name.removesuffix(META)
    if Path(repo).is_dir() and zoo in listed_but_gone(read_card(Path(repo)), local_files(Path(repo), zoos_of(configs))):
        raise RepositoryError(gone_message(repo, zoo))


def _configs(repo: str | Path, revision: str | None) -> dict[str, dict[str, Any]]:
    """What the card says of each config; of a repository on the Hub nothing where it has no card.

    Raises:
        RepositoryError: where a folder is no repository.
    """
    folder = Path(repo)
    check_text(folder)
    if not folder.is_dir():
        return configs_of(_remote_card(str(repo), revision))
    check_repository_folder(folder)
    if not (folder / CARD).is_file():
        raise RepositoryError(f"{repo} is no dataset repository: there is no {CARD} in it; `zoo build` makes one")
    return configs_of(read_card(folder))


def _config_names(repo: str | Path, revision: str | None) -> list[str]:
    """The configs that `datasets` finds.

    Raises:
        RepositoryError: where there is no repository, or it cannot be reached.
    """
    if Path(repo).is_dir():
        return list(_configs(repo, revision))
    try:
        return list(datasets.get_dataset_config_names(str(repo), revision=revision))
    except (OSError, ValueError, DatasetsError) as error:  # not found, no access, no network, nothing to load
        raise RepositoryError(
            f"{repo} is neither a folder here nor a dataset on the Hub that can be reached "
            f"({' '.join(str(error).split())[:200]}); give the folder that `zoo build --out` wrote, or a Hub id"
        ) from error


def _remote_card(repo: str, revision: str | None) -> DatasetCard:
    """The card of a dataset on the Hub; an empty one where it cannot be fetched, for which `datasets` says why."""
    try:
        file = hf_hub_download(repo, CARD, repo_type="dataset", revision=revision)
    except (HTTPError, OSError, ValueError, HFValidationError):
        return parse_card("", f"{repo}: {CARD}")
    try:
        text = read_text(Path(file), MAX_YAML)
    except DocumentError as error:
        raise RepositoryError(f"{repo}: {CARD} could not be read: {error}") from error
    return parse_card(text, f"{repo}: {CARD}")


def _check_split(
    manifest: Manifest | None, builder: DatasetBuilder, name: str, split: str | None, cut: Cut | None
) -> None:
    if split is None or (cut is not None and (cut.named or split in SPLITS)):
        return
    held = list(builder.config.data_files) if manifest is None else list(manifest.splits)
    known = list(SPLITS) if cut is not None else held
    if split not in known:
        empty = split in SPLITS
        raise UnknownNameError("split", split, known, f"In {name} this split has no rows" if empty else "")


def _manifest(repo: str | Path, name: str, revision: str | None) -> Manifest | None:
    """The config's manifest; None in a repository that was not written by `builders`."""
    if Path(repo).is_dir():
        return read_manifest(Path(repo), name)
    if not NAME.fullmatch(name):
        return None
    for path in manifest_paths(name):
        try:
            file = hf_hub_download(str(repo), path, repo_type="dataset", revision=revision)
        except EntryNotFoundError:
            continue
        try:
            text = read_text(Path(file), MAX_JSON)
        except DocumentError as error:
            raise RepositoryError(f"{repo}: {path} could not be read: {error}") from error
        return parse_manifest(text, f"{repo}: {path}", name)
    return None


def _check_epochs(manifest: Manifest | None, name: str, epochs: list[int], split: str | None) -> None:
    if manifest is None:
        return
    held = sorted({epoch for shard in manifest.shards if split in (None, shard.split) for epoch in shard.epochs})
    missing = [epoch for epoch in epochs if epoch not in held]
    if missing:
        raise SpecError(
            f"{name}{f', split {split!r},' if split else ''} has no rows of epoch {', '.join(map(str, missing))}; "
            f"it holds {len(held)} epochs from {held[0]} to {held[-1]}"
        )
