"""Where a dataset repository is, in a folder or on the Hub, and what its card and manifests say."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]

from zoo_datasets.documents import MAX_JSON, MAX_YAML, StrPath, read_text
from zoo_datasets.errors import DocumentError, NotCachedError, OutsideError, RepositoryError, UnknownNameError
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.card import CARD, check_patterns, configs_of, parse_card, read_card, zoos_of
from zoo_datasets.repository.layouts import local_layouts, read_layouts_file
from zoo_datasets.repository.manifest import Manifest, parse_manifest, read_manifest
from zoo_datasets.repository.places import LIGHT_ENDINGS, manifest_paths
from zoo_datasets.repository.removal import gone_message, listed_but_gone, local_files
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.storage.files import check_files
from zoo_datasets.storage.folders import check_repository_folder, check_text
from zoo_datasets.storage.hub_address import check_no_revision, parse_address
from zoo_datasets.storage.hub_cache import cache_folder, cached_file, resolve
from zoo_datasets.storage.secrets import without_secrets

_DATASET = "dataset"


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A dataset repository.

    Attributes:
        repo: the folder's path or the dataset's id.
        folder: None if it is on the Hub.
        revision: branch, tag or commit, on the Hub; None is its main branch.
        commit: that of the revision; None until `resolved`, and of folders.
        out_of_reach: why the Hub could not be asked, so that only the cache is read.
    """

    repo: str
    folder: Path | None
    revision: str | None
    commit: str | None = None
    out_of_reach: str | None = None

    @classmethod
    def of(cls, repo: StrPath, revision: str | None) -> Location:
        """The folder of this name, else the dataset on the Hub.

        Raises:
            StorageError: if the path is no text.
            SpecError: if a revision of a folder is asked for, or the address of a dataset is not understood.
        """
        folder = Path(repo)
        check_text(folder)
        if folder.is_dir():
            check_no_revision(folder, revision)
            return cls(repo=str(repo), folder=folder, revision=None)
        repo_id, revision = parse_address(os.fspath(repo), revision)
        return cls(repo=repo_id, folder=None, revision=revision)

    def resolved(self) -> list[Location]:
        """The repository at its commit; while the Hub is out of reach, at each commit in the cache, the newest first.

        Raises:
            RepositoryError: if there is no such dataset, or it is not in the cache either.
        """
        if self.folder is not None or self.commit is not None:
            return [self]
        try:
            revision = resolve(self.repo, self.revision)
        except (OSError, ValueError, HTTPError) as error:  # not found, no access, no network
            reason = without_secrets(" ".join(str(error).split()))[:200]
            raise RepositoryError(
                f"{self.repo} is neither a folder here nor a dataset on the Hub that can be reached ({reason}), and "
                f"the cache ({cache_folder()}) has nothing of it; give the folder that `zoo build --out` wrote, or the "
                "id of a dataset"
            ) from error
        return [
            dataclasses.replace(self, commit=commit, out_of_reach=revision.out_of_reach) for commit in revision.commits
        ]

    @property
    def path(self) -> str:
        """What `datasets` takes for the repository; it takes "." and the like for something else than a folder."""
        return self.repo if self.folder is None else str(self.folder.resolve())

    @property
    def card_origin(self) -> str:
        """How messages name the card."""
        return f"{self.repo}: {CARD}" if self.folder is None else str(self.folder / CARD)

    def check_config(self, name: str) -> None:
        """See that the repository has a config, and that its card lists files of the repository alone.

        Raises:
            RepositoryError: if it is no dataset repository, or cannot be reached.
            UnknownNameError: if it has no such config.
            OutsideError: if the config lists files elsewhere.
        """
        configs = self._configs()
        check_patterns(configs.get(name, {}), self.card_origin)
        names = self.config_names()
        if name not in names and (names or self.out_of_reach is None):
            raise UnknownNameError("config", name, names)
        if self.folder is not None:
            zoo = next((name.removesuffix(end) for end in LIGHT_ENDINGS if name.endswith(end)), name)
            if zoo in listed_but_gone(read_card(self.folder), local_files(self.folder, zoos_of(configs))):
                raise RepositoryError(gone_message(self.repo, zoo))

    def config_names(self) -> list[str]:
        """The configs that the card lists, or that `datasets` finds if it lists none.

        Raises:
            RepositoryError: if this is no dataset repository, or cannot be reached.
        """
        configs = list(self._configs())
        if configs or self.folder is not None or self.out_of_reach is not None:
            return configs
        try:
            return list(datasets.get_dataset_config_names(self.repo, revision=self.commit))
        except (OSError, ValueError, DatasetsError) as error:
            reason = without_secrets(" ".join(str(error).split()))[:200]
            raise RepositoryError(f"{self.repo} could not be read as a dataset: {reason}") from error

    def version(self, name: str) -> str | None:
        """The version that the card gives a config, by which `datasets` keeps its rows; None if it gives none."""
        version = self._configs().get(name, {}).get("version")
        return None if version is None else str(version)

    def zoo_names(self) -> list[str]:
        """The configs that have weights."""
        return [name for name in self.resolved()[0].config_names() if not name.endswith(LIGHT_ENDINGS)]

    def zoo_manifest(self, name: str) -> Manifest | None:
        """The manifest of a zoo, also by the name of one of the configs beside it; else as `manifest`."""
        own = self.manifest(name)
        ending = next((end for end in LIGHT_ENDINGS if name.endswith(end)), "")
        return own if own is not None or not ending else self.manifest(name.removesuffix(ending))

    def layouts(self, manifest: Manifest) -> dict[str, NetworkRecord]:
        """The networks of open rows by hash, which this process knows from now on.

        Raises:
            RepositoryError: if they cannot be read.
            NotCachedError: if the Hub is out of reach, and the cache lacks them.
        """
        if self.folder is not None:
            return local_layouts(self.folder, manifest)
        records: dict[str, NetworkRecord] = {}
        for shard in manifest.layouts:
            records |= read_layouts_file(self.file(shard.path))
        return records

    def file(self, path: str) -> Path:
        """Where a file that a manifest lists lies on this machine; one on the Hub is fetched.

        Raises:
            NotCachedError: if it cannot be fetched, and the cache lacks it.
        """
        if self.folder is not None:
            return self.folder / path
        file = self.cached(path) if self.out_of_reach is not None else self._fetched(path)
        if file is None:
            reason = "it does not exist" if self.out_of_reach is None else f"{self.out_of_reach}"
            raise NotCachedError(f"{self.repo}: {path} could not be fetched: {reason}")
        return file

    def open_columns(self, manifest: Manifest | None) -> dict[str, pa.DataType]:
        """Types of the columns of open rows, whose layouts this process knows from now on; none of others."""
        if manifest is None or manifest.open is None:
            return {}
        self.layouts(manifest)
        return {column.name: column.type for column in manifest.open.narrow if column.type is not None}

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a config; None in a repository that `zoo build` did not write, or if the cache lacks it.

        Raises:
            RepositoryError: if it is broken.
        """
        if self.folder is not None:
            return read_manifest(self.folder, name)
        if not NAME.fullmatch(name):
            return None
        for path in manifest_paths(name):
            text = self._remote_text(path, MAX_JSON)
            if text is not None:
                return parse_manifest(text, f"{self.repo}: {path}", name)
        return None

    def cached(self, path: str) -> Path | None:
        """A file of the commit in the cache of the Hub's client; None if the cache lacks it."""
        assert self.commit is not None
        return cached_file(self.repo, path, self.commit)

    def cached_files(self, addresses: Iterable[str]) -> dict[str, str]:
        """The paths in the cache of files by their addresses.

        Raises:
            NotCachedError: if it lacks some.
        """
        files = {address: self.cached(self.relative(address)) for address in addresses}
        missing = [self.relative(address) for address, file in files.items() if file is None]
        if missing:
            raise NotCachedError(
                f"{self.repo}: {self.out_of_reach}, and the cache lacks {len(missing):,} of {len(files):,} files, "
                f"{', '.join(missing[:2])}{', …' if len(missing) > 2 else ''}, and rows prepared with these arguments; "
                "load it with the Hub in reach, not streaming, with these arguments or all of it"
            )
        return {address: str(file) for address, file in files.items()}

    def address(self, path: str) -> str:
        """The address of a file of the commit, as `datasets` writes it."""
        return f"{self._root}{self.commit}/{path}"

    def check_inside(self, files: Iterable[str]) -> None:
        """See that files, given by path or address, are the repository's own, whatever a card and a manifest say.

        Raises:
            OutsideError: naming the first that is not.
        """
        files = list(files)
        outside = next((file for file in files if not file.startswith(self._root) or ".." in file.split("/")), None)
        if outside is not None:
            raise OutsideError(f"{self.repo} lists {outside[:200]!a}, which is no file of its own; it was not read")
        if self.folder is not None:
            check_files(self.folder, [file.removeprefix(self._root) for file in files])

    def relative(self, file: str) -> str:
        """The path in the repository of a file, given by its path or its address."""
        if self.folder is not None:
            return file.removeprefix(self._root).replace(os.sep, "/")
        return file.partition("@")[2].partition("/")[2]

    @property
    def _root(self) -> str:
        """What the paths or addresses of its files begin with; a revision, which may hold slashes, is quoted there."""
        return f"hf://datasets/{self.repo}@" if self.folder is None else f"{self.path}{os.sep}"

    def _configs(self) -> dict[str, dict[str, Any]]:
        """What the card says of each config; of a dataset on the Hub that has no card nothing.

        Raises:
            RepositoryError: if a folder is no repository, or the card is broken.
            NotCachedError: if the Hub is out of reach, and the cache lacks the card.
        """
        if self.folder is None:
            text = self._remote_text(CARD, MAX_YAML)
            if text is None and self.out_of_reach is not None:
                raise NotCachedError(f"{self.repo}: {self.out_of_reach}, and the cache lacks its {CARD}")
            return configs_of(parse_card(text or "", self.card_origin))
        check_repository_folder(self.folder)
        if not (self.folder / CARD).is_file():
            raise RepositoryError(
                f"{self.repo} is no dataset repository: there is no {CARD} in it; `zoo build` makes one"
            )
        return configs_of(read_card(self.folder))

    def _remote_text(self, path: str, limit: int) -> str | None:
        """The text of a file of a dataset on the Hub; None if it has no such file, or the cache lacks it.

        Raises:
            RepositoryError: if it cannot be fetched, or is no text within the limit.
        """
        file = self.cached(path) if self.out_of_reach is not None else self._fetched(path)
        try:
            return None if file is None else read_text(file, limit)
        except DocumentError as error:
            raise RepositoryError(f"{self.repo}: {path} could not be read: {error}") from error

    def _fetched(self, path: str) -> Path | None:
        try:
            if path == CARD:  # so that the cache knows which commit the revision is
                hf_hub_download(self.repo, path, repo_type=_DATASET, revision=self.revision)
            return Path(hf_hub_download(self.repo, path, repo_type=_DATASET, revision=self.commit))
        except (HTTPError, OSError, ValueError) as error:
            if isinstance(error, EntryNotFoundError) and isinstance(error, HTTPError):
                return None
            reason = without_secrets(" ".join(str(error).split()))[:200]
            raise RepositoryError(f"{self.repo}: {path} could not be fetched: {reason}") from error
