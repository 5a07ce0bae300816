"""The files that a zoo is read from, compared with the digests of their manifest before any row of them is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetBuilder, DownloadManager

from zoo_datasets.errors import SpecError
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.shards import ShardDigests, check_left_out

_DOWNLOAD_AGAIN = "delete {file} and load again, which downloads it anew"


class FileCheck:
    """The check of the files of one config, as a builder lists them.

    Args:
        manifest: of the config; None where it has none.
    """

    def __init__(self, repo: str | Path, builder: DatasetBuilder, manifest: Manifest | None) -> None:
        self._folder = Path(repo).resolve() if Path(repo).is_dir() else None
        self._manifest = manifest
        self._digests = ShardDigests(manifest)
        self._files = {str(file): part for part, files in (builder.config.data_files or {}).items() for file in files}

    @property
    def local(self) -> bool:
        """Whether the repository is a folder."""
        return self._folder is not None

    def check_local(self, epochs: Sequence[int] | None) -> None:
        """See that the files of a folder are whole, and that no other shard of their splits holds rows of the epochs.

        Raises:
            RepositoryError: naming the first that is not, or does.
        """
        assert self._folder is not None
        self._check({file: Path(file) for file in self._files})
        if self._manifest is not None and epochs is not None:
            parts = {*self._files.values()}
            left = [shard for shard in self._manifest.shards if str(self._folder / shard.path) not in self._files]
            check_left_out(self._folder, [shard for shard in left if shard.split in parts], epochs)

    def check_downloaded(self, places: dict[str, str]) -> None:
        """See that downloaded files are whole.

        Args:
            places: where each lies in the local cache, by its address.

        Raises:
            RepositoryError: naming the first that is not.
        """
        self._check({file: Path(place) for file, place in places.items() if file in self._files}, _DOWNLOAD_AGAIN)

    def require_digests(self) -> None:
        """See that each file has a digest to compare with.

        Raises:
            SpecError: naming the first that has none.
        """
        unknown = self._digests.without([self._path(file) for file in self._files])
        if unknown is not None:
            raise SpecError(f"check=True: no manifest says what {unknown} holds; load with check=False")

    def _check(self, places: dict[str, Path], *remedy: str) -> None:
        paths = {self._path(file): file for file in places}
        self._digests.check(
            {path: places[file] for path, file in paths.items()},
            {path: self._files[file] for path, file in paths.items()},
            *remedy,
        )

    def _path(self, file: str) -> str:
        """The path in the repository of a file or an address of the Hub, hf://datasets/ORGANISATION/NAME@REVISION/…"""
        if self._folder is not None:
            return file.removeprefix(f"{self._folder}{os.sep}").replace(os.sep, "/")
        return file.partition("@")[2].partition("/")[2]


class CheckedDownloads(DownloadManager):  # type: ignore[misc]
    """Downloads whole files, and checks them before they are given."""

    def __init__(self, check: FileCheck, **options: Any) -> None:
        super().__init__(**options)
        self._check = check

    def download(self, url_or_urls: Any) -> Any:
        """See `DownloadManager`.

        Raises:
            RepositoryError: naming the first that is damaged.
        """
        places = super().download(url_or_urls)
        self._check.check_downloaded({str(url): str(place) for url, place in self.downloaded_paths.items()})
        return places
