"""How the YAML of a card lists the data files of a config.

By pattern while the config's folder holds exactly the files of its manifest, which is short however many they are. A
`version` derived from the files changes with them: `datasets` keys its cache by the version and not by what the pattern
matches. By name while files come and go, so that a killed process leaves a repository that loads what it held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.errors import RepositoryError
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.places import LAYOUTS, META
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import LAYOUTS_SCHEMA, SPLITS

_MAGIC = frozenset("*?[")


def configs_by_pattern(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The YAML entries of a zoo and its light config; their folders must hold the files of the manifest alone."""
    return {
        config: {
            "version": version_of(shards),
            "data_files": [
                {"split": split, "path": f"{config}/{split}-*.parquet"} for split in shards_by_split(shards)
            ],
        }
        for config, shards in _parts(manifest).items()
    }


def configs_by_name(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The same entries, with each file by its name, so that other files in the folders are left alone."""
    return {
        config: {
            "version": version_of(shards),
            "data_files": [
                {"split": split, "path": [shard.path for shard in part]}
                for split, part in shards_by_split(shards).items()
            ],
        }
        for config, shards in _parts(manifest).items()
    }


def version_of(shards: Sequence[Shard]) -> str:
    """Three integers that change with the set of files, whose names hold the beginnings of their SHA-256."""
    digest = hashlib.sha256("\n".join(sorted(shard.path for shard in shards)).encode()).digest()
    return ".".join(str(int.from_bytes(digest[place : place + 2])) for place in (0, 2, 4))


def shards_by_split(shards: Iterable[Shard]) -> dict[str, list[Shard]]:
    """The shards of each split that has any, in the order of the splits."""
    by_split: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for shard in shards:
        by_split[shard.split].append(shard)
    return {split: part for split, part in by_split.items() if part}


def is_pattern(path: str) -> bool:
    """Whether a path of the YAML stands for any number of files."""
    return not _MAGIC.isdisjoint(path)


def by_pattern(config: Mapping[str, Any]) -> bool:
    """Whether an entry of the YAML lists any of its files by pattern."""
    return any(is_pattern(path) for _, path in files_of(config))


def files_of(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(split, path or pattern) of each line that an entry of the YAML lists, in its order."""
    listed = []
    for entry in config.get("data_files") or []:
        if isinstance(entry, Mapping):
            paths = entry.get("path")
            listed += [(str(entry.get("split")), str(path)) for path in (paths if isinstance(paths, list) else [paths])]
    return listed


def files_among(config: Mapping[str, Any], paths: Iterable[str]) -> list[tuple[str, str]]:
    """(split, path) of each file that an entry of the YAML lists; of `paths`, those that its patterns match.

    A `*` of a pattern matches no `/` and no hidden file, as in `datasets`.
    """
    available = sorted(paths)
    files = []
    for split, listed in files_of(config):
        files += (
            [(split, path) for path in available if _matches(path, listed)] if is_pattern(listed) else [(split, listed)]
        )
    return files


def with_names(repo: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the YAML with the names of the files of a local repository in the place of its patterns."""
    folders = {path.rpartition("/")[0] for _, path in files_of(config)}
    return named(config, [f"{folder}/{file.name}" for folder in folders for file in (repo / folder).glob("*")])


def named(config: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """An entry of the YAML with the names of those of `paths` that its patterns match in their place."""
    by_split: dict[str, list[str]] = {}
    for split, path in files_among(config, paths):
        by_split.setdefault(split, []).append(path)
    return {**config, "data_files": [{"split": split, "path": names} for split, names in by_split.items()]}


def outdated_files(repo: Path, manifest: Manifest) -> list[Path]:
    """Parquet files in the folders of a zoo that its manifest does not list; hidden ones do not count."""
    listed = {shard.path for shards in _parts(manifest).values() for shard in shards}
    files = [file for config in _parts(manifest) for file in sorted((repo / config).glob("[!.]*.parquet"))]
    return [file for file in files if file.relative_to(repo).as_posix() not in listed]


def differing_columns(repo: Path, shards: Sequence[Shard]) -> bool:
    """Whether the shards of a config have different columns; `datasets` takes those of the first for all.

    Raises:
        RepositoryError: if a shard cannot be read.
    """
    columns: dict[str, pa.DataType] | None = None
    for shard in shards:
        try:
            with (repo / shard.path).open("rb") as file:  # by its path, Arrow would look for a ~ elsewhere
                schema = pq.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise RepositoryError(f"{repo / shard.path} could not be read: {error}; build the zoo again") from error
        own = dict(zip(schema.names, schema.types, strict=True))
        if columns is not None and list(own.items()) != list(columns.items()):
            return True
        columns = own
    return False


def parts_of(manifest: Manifest) -> dict[str, tuple[tuple[Shard, ...], pa.Schema]]:
    """The files and columns of a zoo and of the configs beside it, by config; of those that have files."""
    parts = {
        manifest.config: (manifest.shards, manifest.schema),
        f"{manifest.config}{META}": (manifest.meta, manifest.light_schema),
        f"{manifest.config}{LAYOUTS}": (manifest.layouts, LAYOUTS_SCHEMA),
    }
    return {config: part for config, part in parts.items() if part[0]}


def _parts(manifest: Manifest) -> dict[str, tuple[Shard, ...]]:
    return {config: shards for config, (shards, _) in parts_of(manifest).items()}


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(
        fnmatchcase(part, each) and not (part.startswith(".") and not each.startswith("."))
        for part, each in zip(parts, wanted, strict=True)
    )
