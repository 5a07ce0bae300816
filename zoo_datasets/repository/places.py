"""Where the files of a config lie in a repository."""

from __future__ import annotations

from pathlib import Path

from zoo_datasets.specs.bounds import NAME

MANIFEST = "manifest.json"
# `NAME-meta` is the config NAME without weights.
META = "-meta"
# `NAME-layouts` holds the layouts of the rows of an open config NAME.
LAYOUTS = "-layouts"
LIGHT_ENDINGS = (META, LAYOUTS)
# `_meta/NAME` holds what is no data of the config NAME, so that any reader of Parquet takes the folder NAME as it is.
META_FOLDER = "_meta"


def meta_path(config: str, file: str) -> str:
    """Where a file about a config lies, relative to the repository."""
    return f"{META_FOLDER}/{config}/{file}"


def folders_of(config: str) -> tuple[str, ...]:
    """The folders of a zoo: its shards, the configs beside it, and what is about it."""
    return config, *(f"{config}{end}" for end in LIGHT_ENDINGS), f"{META_FOLDER}/{config}"


def manifest_paths(config: str) -> tuple[str, str]:
    """Where the manifest of a config may lie; the first that exists counts, earlier versions wrote the second."""
    return meta_path(config, MANIFEST), f"{config}/{MANIFEST}"


def has_manifest(repo: Path, config: str) -> bool:
    """Whether a local repository has a manifest of a config."""
    return any((repo / path).is_file() for path in manifest_paths(config))


def configs_with_manifest(repo: Path) -> list[str]:
    """The configs of a local repository that have a manifest, by name."""
    files = [*repo.glob(f"{META_FOLDER}/*/{MANIFEST}"), *repo.glob(f"*/{MANIFEST}")]
    return sorted({file.parent.name for file in files} - {META_FOLDER})


def is_plain(path: str) -> bool:
    """Whether a path of a manifest, or of a build's notes, is one of plain names below the repository's folder."""
    return all(NAME.fullmatch(part) for part in path.split("/"))
