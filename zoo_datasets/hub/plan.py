"""What a push would send, from the manifests alone: nothing is asked of the Hub, drawn, or written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.repository.card import CARD
from zoo_datasets.repository.card.text import citations_of
from zoo_datasets.repository.credit import UNKNOWN_LICENCE, credit_of
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.places import configs_with_manifest
from zoo_datasets.storage.files import check_files

_NO_LICENCE = "no licence is known: state it with `zoo build --license`, or ask whose models these are"
_KEY = re.compile(r"@\w+\{\s*([^\s,{}]+)\s*,")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedZoo:
    """A zoo that would be pushed.

    Attributes:
        repo, repo_id: the local repository, and the dataset that it goes to.
        files, bytes: of its shards, with and without weights.
        licence: as its card says.
        citations: keys of what its page cites.
        problems: what would stop the push.
        warnings: what should be mended before it.
    """

    repo: Path
    repo_id: str
    name: str
    models: int
    rows: int
    files: int
    bytes: int
    licence: str
    citations: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def repositories_in(folder: Path) -> list[Path]:
    """The dataset repositories directly in a folder, by name; the folder itself if it is one.

    Raises:
        RepositoryError: if there is none.
    """
    repos = [
        each for each in (folder, *sorted(folder.glob("*/"))) if (each / CARD).is_file() and configs_with_manifest(each)
    ]
    if not repos:
        raise RepositoryError(f"{folder} holds no dataset repository; `zoo build` makes one")
    return repos[:1] if repos[0] == folder else repos


def plan_push(repo: Path, repo_id: str, names: Sequence[str] = ()) -> list[PlannedZoo]:
    """The zoos of a local repository that a push would send, the smallest first: what fails, fails early.

    Raises:
        RepositoryError: if it holds no zoo, or a manifest is broken.
        UnknownNameError: if it has no zoo of a name.
    """
    configs = configs_with_manifest(repo)
    if not configs:
        raise RepositoryError(f"{repo} holds no zoo; `zoo build` makes one")
    for name in names:
        if name not in configs:
            raise UnknownNameError("config", name, configs)
    return sorted((_planned(repo, repo_id, name) for name in names or configs), key=lambda zoo: (zoo.bytes, zoo.name))


def _planned(repo: Path, repo_id: str, name: str) -> PlannedZoo:
    manifest = read_manifest(repo, name)
    assert manifest is not None, "configs_with_manifest lists those that have one"
    files = (*manifest.shards, *manifest.meta, *manifest.layouts)
    credit = credit_of(manifest.source)
    return PlannedZoo(
        repo=repo,
        repo_id=repo_id,
        name=name,
        models=manifest.models.written,
        rows=manifest.rows(),
        files=len(files),
        bytes=sum(file.bytes for file in files),
        licence=credit.licence,
        citations=tuple(dict.fromkeys(key for text in citations_of(manifest) for key in _KEY.findall(text))),
        problems=tuple(_problems(repo, manifest)),
        warnings=(_NO_LICENCE,) * (credit.licence == UNKNOWN_LICENCE),
    )


def _problems(repo: Path, manifest: Manifest) -> list[str]:
    """What a look at the files shows; their hashes are compared by the push itself."""
    files = (*manifest.shards, *manifest.meta, *manifest.layouts)
    check_files(repo, [file.path for file in files], links=False)
    problems = []
    for file in files:
        path = repo / file.path
        if not path.is_file():
            problems.append(f"{file.path} is missing: build {manifest.config} again")
        elif path.stat().st_size != file.bytes:
            size = path.stat().st_size
            problems.append(f"{file.path} has {size:,} bytes, its manifest says {file.bytes:,}: build it again")
    if not manifest.meta:
        problems.append("written by an earlier version: build it again, its shards stay")
    return problems
