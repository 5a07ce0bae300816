"""Data files of a dataset that no card lists: `datasets` finds them by itself, as long as no config is listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from datasets.data_files import FILES_TO_IGNORE
from datasets.packaged_modules import _EXTENSION_TO_MODULE

from zoo_datasets.repository.places import META_FOLDER, folders_of
from zoo_datasets.repository.shards import is_shard_name

# Files about a dataset, whose extensions are those of data too.
_ABOUT = frozenset({"license", "licence", "requirements", "citation", "notice", "changelog"})
_NO_DATA = frozenset({".md", ".toml"})


def is_parquet(path: str) -> bool:
    """Whether a path or pattern is one of Parquet files, as far as it has an ending."""
    return not PurePosixPath(path).suffix or path.lower().endswith(".parquet")


def loose_data(paths: Iterable[str], zoos: Sequence[str]) -> list[str]:
    """The data files among the paths of a dataset whose card lists no config, but for what pushes of zoos have left."""
    folders = {folder for zoo in zoos for folder in folders_of(zoo)} | {META_FOLDER}
    return sorted(
        str(path)
        for path in map(PurePosixPath, paths)
        if path.suffix.lower() in _EXTENSION_TO_MODULE
        and path.suffix.lower() not in _NO_DATA
        and path.stem.lower() not in _ABOUT
        and path.name not in FILES_TO_IGNORE
        and not any(part.startswith((".", "__")) for part in path.parts)
        and path.parts[0] not in folders
        and not is_shard_name(path.name)
    )
