"""Where a dataset repository is, in a folder or on the Hub, and what its card and manifests say."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError  # type: ignore[attr-defined]

from zoo_datasets.documents import MAX_JSON, MAX_YAML, StrPath, read_text
from zoo_datasets.errors import DocumentError, OutsideError, RepositoryError, UnknownNameError
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.card import CARD, check_patterns, configs_of, parse_card, read_card, zoos_of
from zoo_datasets.repository.layouts import local_layouts, read_layouts_file
from zoo_datasets.repository.manifest import (
    LIGHT_ENDINGS,
    Manifest,
    manifest_paths,
    parse_manifest,
    read_manifest,
)
from zoo_datasets.repository.removal import gone_message, listed_but_gone, local_files
from zoo_datasets.specs.spec import NAME
from zoo_datasets.storage.files import check_files
from zoo_datasets.storage.folders import check_repository_folder, check_text

_DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Location:
    """A dataset repository.

    Attributes:
        repo: as the user names it, for messages.
        folder: None if it is on the Hub.
        revision: branch, tag or commit, on the Hub; None is its main branch.
    """

    repo: str
    folder: Path | None
    revision: str | None

    @classmethod
    def of(cls, repo: StrPath, revision: str | None) -> Location:
        """The folder of this name, else the dataset on the Hub.

        Raises:
            StorageError: if the path is no text.
        """
        check_text(Path(repo))
        folder = Path(repo)
        return cls(str(repo), folder if folder.is_dir() else None, revision)

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
        names = self.config_names() if self.folder is None else list(configs)
        if name not in names:
            raise UnknownNameError("config", name, names)
        if self.folder is not None:
            zoo = next((name.removesuffix(end) for end in LIGHT_ENDINGS if name.endswith(end)), name)
            if zoo in listed_but_gone(read_card(self.folder), local_files(self.folder, zoos_of(configs))):
                raise RepositoryError(gone_message(self.repo, zoo))

    def config_names(self) -> list[str]:
        """The configs that `datasets` finds.

        Raises:
            RepositoryError: if this is no dataset repository, or cannot be reached.
        """
        if self.folder is not None:
            return list(self._configs())
        try:
            return list(datasets.get_dataset_config_names(self.repo, revision=self.revision))
        except (OSError, ValueError, DatasetsError) as error:  # not found, no access, no network, nothing to load
            raise RepositoryError(
                f"{self.repo} is neither a folder here nor a dataset on the Hub that can be reached "
                f"({' '.join(str(error).split())[:200]}); give the folder that `zoo build --out` wrote, or a Hub id"
            ) from error

    def zoo_names(self) -> list[str]:
        """The configs that have weights."""
        return [name for name in self.config_names() if not name.endswith(LIGHT_ENDINGS)]

    def zoo_manifest(self, name: str) -> Manifest | None:
        """The manifest of a zoo, also by the name of one of the configs beside it; else as `manifest`."""
        own = self.manifest(name)
        ending = next((end for end in LIGHT_ENDINGS if name.endswith(end)), "")
        return own if own is not None or not ending else self.manifest(name.removesuffix(ending))

    def layouts(self, manifest: Manifest) -> dict[str, NetworkRecord]:
        """The networks of open rows by hash, which this process knows from now on.

        Raises:
            RepositoryError: if they cannot be read.
        """
        if self.folder is not None:
            return local_layouts(self.folder, manifest)
        records: dict[str, NetworkRecord] = {}
        for shard in manifest.layouts:
            try:
                file = hf_hub_download(self.repo, shard.path, repo_type=_DATASET, revision=self.revision)
            except (HTTPError, OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise RepositoryError(f"{self.repo}: {shard.path} could not be fetched: {reason}") from error
            records |= read_layouts_file(Path(file))
        return records

    def open_columns(self, manifest: Manifest | None) -> dict[str, pa.DataType]:
        """Types of the columns of open rows, whose layouts this process knows from now on; none of others."""
        if manifest is None or manifest.open is None:
            return {}
        self.layouts(manifest)
        return {column.name: column.type for column in manifest.open.narrow if column.type is not None}

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a config; None in a repository that `zoo build` did not write.

        Raises:
            RepositoryError: if it is broken.
        """
        if self.folder is not None:
            return read_manifest(self.folder, name)
        if not NAME.fullmatch(name):
            return None
        for path in manifest_paths(name):
            try:
                text = self._remote_text(path, MAX_JSON)
            except EntryNotFoundError:
                continue
            return parse_manifest(text, f"{self.repo}: {path}", name)
        return None

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
        """What the card says of each config; of a repository on the Hub nothing if it has no card.

        Raises:
            RepositoryError: if a folder is no repository.
        """
        if self.folder is None:
            return configs_of(self._remote_card())
        check_repository_folder(self.folder)
        if not (self.folder / CARD).is_file():
            raise RepositoryError(
                f"{self.repo} is no dataset repository: there is no {CARD} in it; `zoo build` makes one"
            )
        return configs_of(read_card(self.folder))

    def _remote_card(self) -> DatasetCard:
        """The card of a dataset on the Hub; an empty one if it cannot be fetched, for which `datasets` says why."""
        try:
            text = self._remote_text(CARD, MAX_YAML)
        except (HTTPError, OSError, ValueError, HFValidationError) as error:
            if isinstance(error, RepositoryError):
                raise
            text = ""
        return parse_card(text, self.card_origin)

    def _remote_text(self, path: str, limit: int) -> str:
        file = hf_hub_download(self.repo, path, repo_type=_DATASET, revision=self.revision)
        try:
            return read_text(Path(file), limit)
        except DocumentError as error:
            raise RepositoryError(f"{self.repo}: {path} could not be read: {error}") from error
