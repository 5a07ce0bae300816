"""The files that a zoo is read from, compared with the digests of their manifest before any row of them is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetBuilder, DownloadManager

from zoo_datasets.errors import SpecError
from zoo_datasets.loading.repositories.location import Location
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.shards import ShardDigests, check_left_out

_DOWNLOAD_AGAIN = "delete {file} and load again, which downloads it anew"


class FileCheck:
    """The check of the files of one config, as a builder lists them.

    Args:
        manifest: of the config; None if it has none.
    """

    def __init__(self, location: Location, builder: DatasetBuilder, manifest: Manifest | None) -> None:
        self._location = location
        self._manifest = manifest
        self._digests = ShardDigests(manifest)
        self._files = {str(file): part for part, files in (builder.config.data_files or {}).items() for file in files}

    @property
    def local(self) -> bool:
        """Whether the repository is a folder."""
        return self._location.folder is not None

    def check_local(self, epochs: Sequence[int] | None) -> None:
        """Compare the files of a folder with their digests; no other shard of their splits may hold rows of the epochs.

        Raises:
            RepositoryError: naming the first that is damaged, or holds such rows.
        """
        folder = self._location.folder
        assert folder is not None
        self._check({file: Path(file) for file in self._files})
        if self._manifest is not None and epochs is not None:
            splits = {*self._files.values()}
            paths = set(map(self._location.relative, self._files))
            unread = [shard for shard in self._manifest.shards if shard.path not in paths and shard.split in splits]
            check_left_out(folder, unread, epochs)

    def check_downloaded(self, places: dict[str, str]) -> None:
        """Compare downloaded files with their digests.

        Args:
            places: where each lies in the local cache, by its address.

        Raises:
            RepositoryError: naming the first that is damaged.
        """
        self._check({file: Path(place) for file, place in places.items() if file in self._files}, _DOWNLOAD_AGAIN)

    def require_digests(self) -> None:
        """See that each file has a digest to compare with.

        Raises:
            SpecError: naming the first that has none.
        """
        unknown = self._digests.without([self._location.relative(file) for file in self._files])
        if unknown is not None:
            raise SpecError(f"check=True: no manifest says what {unknown} holds; load with check=False")

    def _check(self, places: dict[str, Path], *remedy: str) -> None:
        paths = {self._location.relative(file): file for file in places}
        self._digests.check(
            {path: places[file] for path, file in paths.items()},
            {path: self._files[file] for path, file in paths.items()},
            *remedy,
        )


class CachedDownloads(DownloadManager):  # type: ignore[misc]
    """Takes whole files from the cache of the Hub's client, while the Hub is out of reach."""

    def __init__(self, location: Location, check: FileCheck | None, **options: Any) -> None:
        super().__init__(**options)
        self._location = location
        self._check = check

    def download(self, url_or_urls: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """The paths of files, by split.

        Raises:
            NotCachedError: naming files that the cache lacks.
            RepositoryError: naming the first that is damaged.
        """
        addresses = [address for files in url_or_urls.values() for address in files]
        paths = self._location.cached_files(addresses)
        if self._check is not None:
            self._check.check_downloaded(paths)
        return {split: [paths[address] for address in files] for split, files in url_or_urls.items()}


class CheckedDownloads(DownloadManager):  # type: ignore[misc]
    """Downloads whole files, and compares them with their digests before any row is read."""

    def __init__(self, check: FileCheck, **options: Any) -> None:
        super().__init__(**options)
        self._check = check

    def download(self, url_or_urls: Any) -> Any:
        """See `DownloadManager`.

        Raises:
            RepositoryError: naming the first that is damaged.
        """
        paths = super().download(url_or_urls)
        self._check.check_downloaded({str(url): str(place) for url, place in self.downloaded_paths.items()})
        return paths
