"""Whether a repository's Parquet files hold the bytes that were written, and what they hold where they do not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.errors import RepositoryError
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.records import Shard
from zoo_datasets.repository.row import SPLITS
from zoo_datasets.storage.cores import cores
from zoo_datasets.storage.files import sha256_of
from zoo_datasets.storage.instead import BEGINNING, instead
from zoo_datasets.storage.remembered import digest_as_expected

# A shard's name holds its place in its split, unless it is the first one, and the beginning of its SHA-256. Sorted by
# name shards are in their places, as an s comes after all hexadecimal digits.
_NAME = re.compile(rf"({'|'.join(SPLITS)})-(?:s\d{{5,}}-)?([0-9a-f]{{16}})\.parquet")
_BUILD = "build the zoo again, or put a copy of the file there"


def shard_name(split: str, place: int, sha256: str) -> str:
    """The name of a shard's file; `place` counts the shards of the split from 0."""
    return f"{split}-{f's{place:05}-' if place else ''}{sha256[:16]}.parquet"


def is_shard_name(name: str) -> bool:
    """Whether a file's name is one that a build gives a shard."""
    return _NAME.fullmatch(name) is not None


def named_by_content(name: str, split: str, sha256: str) -> bool:
    """Whether a file's name is one of a shard of a split with this SHA-256."""
    match = _NAME.fullmatch(name)
    return match is not None and match.groups() == (split, sha256[:16])


def what_instead(path: Path) -> str | None:
    """What lies in the place of a binary file, and the remedy, if it is text of a well-known kind; else None."""
    try:
        with path.open("rb") as file:
            return instead(file.read(BEGINNING))
    except OSError:
        return None


class ShardDigests:
    """The digests that the files of a config have by its manifest, or else by their names.

    Args:
        manifest: None if the repository has none: digests then come from the files' names.
    """

    def __init__(self, manifest: Manifest | None) -> None:
        self._shards: dict[str, Shard] = {}
        if manifest is not None:
            self._shards = {shard.path: shard for shard in (*manifest.shards, *manifest.meta, *manifest.layouts)}

    def check(self, files: Mapping[str, Path], splits: Mapping[str, str], remedy: str = _BUILD) -> None:
        """Compare files with the digests of the bytes that were written.

        Args:
            files: where each lies, by its path in the repository.
            splits: the split that each is read as, by the same paths.
            remedy: what mends a broken one; `{file}` in it stands for the file.

        Raises:
            RepositoryError: naming the first that differs, how, and the remedy.
        """
        with ThreadPoolExecutor(min(cores(), max(1, len(files)))) as pool:
            for _ in pool.map(lambda path: self._check(path, files[path], splits[path], remedy), files):
                pass

    def without(self, paths: Sequence[str]) -> str | None:
        """The first of the files that has no digest; None if all have one."""
        return next((path for path in paths if path not in self._shards and not _NAME.fullmatch(Path(path).name)), None)

    def _check(self, path: str, file: Path, split: str, remedy: str) -> None:
        shard = self._shards.get(path)
        name = _NAME.fullmatch(Path(path).name)
        remedy = remedy.format(file=file)
        for origin, said in (("manifest", shard and shard.split), ("name", name and name[1])):
            if said not in (None, split):
                raise RepositoryError(
                    f"{file} is listed as a file of split {split!r}, by its {origin} it is of {said!r}; {_BUILD}"
                )
        expected = shard.sha256 if shard is not None else name[2] if name is not None else None
        if expected is None:
            return
        try:
            size = file.stat().st_size
            digest = digest_as_expected(file, expected) if shard is not None else _beginning_of_digest(file, expected)
        except OSError as error:
            raise RepositoryError(f"{file} could not be read: {error.strerror or error}; {remedy}") from error
        if digest == expected:
            return
        instead = what_instead(file)
        if instead is not None:
            raise RepositoryError(f"{file} {instead}")
        claim = f"{size:,} bytes found"
        if shard is not None and shard.bytes != size:
            claim += f", {shard.bytes:,} expected"
        raise RepositoryError(
            f"{file} is damaged: {claim}, with SHA-256 {digest[:16]}… where {expected[:16]}… was written; {remedy}"
        )


def check_listed(listed: Collection[str], shards: Sequence[Shard], origin: str) -> None:
    """Compare the files that a card's patterns match with those of a manifest.

    Args:
        listed: paths in the repository.

    Raises:
        RepositoryError: naming `origin` and the first file that is missing, or is none of the manifest's.
    """
    expected = {shard.path for shard in shards}
    for path in sorted(expected.symmetric_difference(listed)):
        if path in expected:
            raise RepositoryError(f"{origin}: {path} is missing; {_BUILD}")
        raise RepositoryError(
            f"{origin}: {path} is none of the files of its manifest; delete it, or build the zoo again"
        )


def check_left_out(repo: Path, shards: Sequence[Shard], epochs: Collection[int]) -> None:
    """Check by their footers that shards hold no rows of some epochs, as their manifest says.

    Raises:
        RepositoryError: naming the first that does.
    """
    for shard in shards:
        try:
            hidden = sorted(_epochs_of(pq.read_metadata(repo / shard.path)).intersection(epochs))
        except (OSError, ValueError, pa.ArrowException):  # nothing of it is read
            continue
        if hidden:
            raise RepositoryError(
                f"{repo / shard.path} holds rows of epoch {hidden[0]}, its manifest says that it does not; build the "
                "zoo again"
            )


def _epochs_of(footer: pq.FileMetaData) -> set[int]:
    """The epochs of a shard's row groups, each of which holds one; empty if the footer has no statistics."""
    column = footer.schema.names.index("epoch")
    statistics = [footer.row_group(number).column(column).statistics for number in range(footer.num_row_groups)]
    if not all(each is not None and each.has_min_max for each in statistics):
        return set()
    return {epoch for each in statistics for epoch in (each.min, each.max)}


def _beginning_of_digest(file: Path, expected: str) -> str:
    return digest_as_expected(file, expected, lambda path: sha256_of(path)[: len(expected)])
