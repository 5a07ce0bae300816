"""Configs made of other configs: a selection of rows, and the same rows under another name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo_datasets.builders.build import build_from
from zoo_datasets.builders.shards.building import BuildResult
from zoo_datasets.builders.sources.repository import RowChoice, open_config
from zoo_datasets.documents import StrPath
from zoo_datasets.errors import RepositoryError
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.removal import Removal, remove_local
from zoo_datasets.storage.folders import check_repository_folder


def select_rows(
    repo: StrPath,
    name: str,
    out: StrPath,
    choice: RowChoice,
    *,
    new_name: str | None = None,
    revision: str | None = None,
    replace: bool = False,
    num_proc: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> BuildResult:
    """Write rows of a config into a config of another repository, or into another one of the same.

    The new config has the networks, layouts, credit and notes of the old one, and each row the same split; its
    manifest says what was selected of what. An interrupted call goes on where it was.

    Args:
        repo: a local folder or the id of a dataset on the Hub.
        out: the folder of the repository to write into.
        new_name: of the new config; that of the old one unless given.
        revision: branch, tag or commit, on the Hub.
        replace, num_proc, progress: as of `build_repository`.

    Raises:
        RepositoryError, UnknownNameError, SpecError: if the rows cannot be read or chosen, or `out` holds others.
        StorageError: if a file cannot be written.
    """
    out = Path(out)
    check_repository_folder(out)
    new_name = new_name or name
    if new_name == name and Path(repo).is_dir() and out.resolve() == Path(repo).resolve():
        raise RepositoryError(f"{out} holds {name} already: give the selection another --name, or another --out")
    source = open_config(repo, name, choice, revision=revision)
    return build_from(
        source,
        out,
        new_name,
        replace=replace,
        keep_nonfinite=source.keeps_nonfinite,
        num_proc=num_proc,
        progress=progress,
    )


def rename_zoo(
    repo: StrPath,
    name: str,
    new_name: str,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Removal:
    """Give a zoo of a local repository another name; returns what it removes of the old one.

    Rows hold the name of their zoo, so they are written anew, and the old ones are removed when the new ones load:
    until then both lie on the disk. A renaming that was interrupted goes on with the same call.

    Args:
        dry_run: only return what would be removed.

    Raises:
        UnknownNameError: if there is no such zoo.
        RepositoryError: if it is in use or cannot be read, or there is another zoo of the new name.
        StorageError: if a file cannot be written.
    """
    repo = Path(repo)
    if not repo.is_dir():
        raise RepositoryError(f"{repo} is no folder here; rename in a local copy of the repository, then push it")
    source = open_config(repo, name)
    existing = read_manifest(repo, new_name)
    if new_name == name or (existing is not None and existing.source_id != source.source_id):
        raise RepositoryError(f"{repo} holds a zoo {new_name!r} already; choose another name, or remove it first")
    removal = remove_local(repo, name, dry_run=True)
    if dry_run:
        return removal
    build_from(source, repo, new_name, keep_nonfinite=source.keeps_nonfinite, progress=progress)
    return remove_local(repo, name, dry_run=False)
