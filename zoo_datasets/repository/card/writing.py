"""Writing the card: each build lists its zoo anew, and leaves the others as they are."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCard, DatasetCardData

from zoo_datasets.repository.card.document import CARD, configs_of, read_card
from zoo_datasets.repository.card.entries import Entry, card_with, entry_in
from zoo_datasets.repository.card.text import PAGE, citations_of, page_of, table_line
from zoo_datasets.repository.listing import (
    by_pattern,
    configs_by_name,
    configs_by_pattern,
    differing_columns,
    outdated_files,
    parts_of,
    shards_by_split,
    with_names,
)
from zoo_datasets.repository.manifest import Manifest, read_manifest, remove_beside_shards, with_moved_plots
from zoo_datasets.repository.places import LIGHT_ENDINGS, MANIFEST, META, meta_path
from zoo_datasets.repository.records import Shard
from zoo_datasets.storage.files import write_bytes
from zoo_datasets.storage.locks import locked_card, locked_zoo


def write_card(repo: Path, manifest: Manifest, num_bytes: Mapping[str, int], meta_bytes: Mapping[str, int]) -> None:
    """Write a zoo's page, manifest and README.md, so that the card lists its files; other zoos stay as they are.

    Files of the zoo's folders that the manifest does not list are deleted. Until then the card lists those of the
    manifest by name, and then by pattern. The card must be locked.

    Args:
        num_bytes, meta_bytes: size of each split in memory, as `datasets` records it.

    Raises:
        RepositoryError: if the present card, or a shard, cannot be read.
        StorageError: if a file cannot be written.
    """
    sizes = {manifest.config: num_bytes, f"{manifest.config}{META}": meta_bytes}
    infos: dict[str, dict[str, Any]] = {}
    for config, (shards, schema) in parts_of(manifest).items():
        if differing_columns(repo, shards):
            columns = Features.from_arrow_schema(schema)
            infos[config] = {"config_name": config, **_info(shards, sizes[config], columns)}
    card = read_card(repo)
    _write_about(repo, manifest)
    outdated = outdated_files(repo, manifest)
    if outdated:
        _write_entry(repo, card, manifest, configs_by_name(manifest), infos)
        for file in outdated:
            file.unlink(missing_ok=True)
    _write_entry(repo, card, manifest, configs_by_pattern(manifest), infos)
    remove_beside_shards(repo, manifest.config)


def write_line(repo: Path, manifest: Manifest) -> None:
    """Write a zoo's page and its line of README.md, in which its files stay listed as they are, then the manifest.

    Raises:
        RepositoryError: if the present card cannot be read.
        StorageError: if a file cannot be written.
    """
    card = read_card(repo)
    write_bytes(repo / meta_path(manifest.config, PAGE), page_of(manifest).encode())
    _write(repo, card_with(card, [dataclasses.replace(entry_in(card, manifest.config), line=table_line(manifest))]))
    # Last: until it lists new plots they count as missing, and are drawn again.
    manifest.save(repo)


def move_beside_shards(repo: Path, config: str) -> None:
    """Put the manifest and plots of a config that an earlier version wrote beside its shards where they belong now.

    Raises:
        RepositoryError: if the zoo or the card is in use, or cannot be read.
        StorageError: if the repository cannot be written to.
    """
    if (repo / meta_path(config, MANIFEST)).is_file() or not (repo / config / MANIFEST).is_file():
        return
    with locked_zoo(repo, config), locked_card(repo):
        manifest = read_manifest(repo, config)
        if manifest is not None:
            write_line(repo, with_moved_plots(repo, manifest))
            remove_beside_shards(repo, config)


@contextlib.contextmanager
def listed_by_name(repo: Path, config: str) -> Iterator[None]:
    """Inside, files may be added to a zoo's folders: the card lists those of before by name, and not by pattern.

    Afterwards it lists them by pattern again, unless there are others now. The zoo must be locked.

    Raises:
        RepositoryError: if the card cannot be read.
        StorageError: if the card cannot be written.
    """
    by_patterns = _entries_by_pattern(repo, config)
    named = {name: with_names(repo, entry) for name, entry in by_patterns.items()}
    if not named:
        yield
        return
    _relist(repo, config, named)
    try:
        yield
    finally:
        unchanged = named == {name: with_names(repo, entry) for name, entry in by_patterns.items()}
        if unchanged and not _entries_by_pattern(repo, config):
            _relist(repo, config, by_patterns)


def _entries_by_pattern(repo: Path, config: str) -> dict[str, dict[str, Any]]:
    """The entries of a zoo and its light config, of those that list files by pattern."""
    entries = configs_of(read_card(repo))
    own = [f"{config}{end}" for end in ("", *LIGHT_ENDINGS)]
    names = [name for name in own if by_pattern(entries.get(name, {}))]
    return {name: {**entries[name]} for name in names}


def _relist(repo: Path, config: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    with locked_card(repo):
        card = read_card(repo)
        entry = entry_in(card, config)
        _write(repo, card_with(card, [dataclasses.replace(entry, configs=entries)]))


def _write_about(repo: Path, manifest: Manifest) -> None:
    write_bytes(repo / meta_path(manifest.config, PAGE), page_of(manifest).encode())
    manifest.save(repo)


def _write_entry(
    repo: Path,
    card: DatasetCard,
    manifest: Manifest,
    configs: Mapping[str, Mapping[str, Any]],
    infos: Mapping[str, Mapping[str, Any]],
) -> None:
    entry = Entry(
        name=manifest.config,
        configs=configs,
        infos=infos,
        line=table_line(manifest),
        citations=citations_of(manifest),
    )
    _write(repo, card_with(card, [entry]))


def _write(repo: Path, text: str) -> None:
    """Write README.md, unless that is its content."""
    file = repo / CARD
    if not (file.is_file() and file.read_bytes() == text.encode()):
        write_bytes(file, text.encode())


def _info(shards: Sequence[Shard], num_bytes: Mapping[str, int], columns: Features) -> dict[str, Any]:
    splits = SplitDict()
    for split, held in shards_by_split(shards).items():
        rows = sum(shard.rows for shard in held)
        splits.add(SplitInfo(name=split, num_bytes=num_bytes[split], num_examples=rows))
    data = DatasetCardData()
    info = DatasetInfo(
        features=columns,
        splits=splits,
        download_size=sum(shard.bytes for shard in shards),
        dataset_size=sum(num_bytes.values()),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return dict(data["dataset_info"])
