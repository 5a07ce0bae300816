"""A repository on the Hub as a container: listed once, and only the files that are needed are fetched."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from zoo_datasets.builders.checkpoints.zips import check_name
from zoo_datasets.builders.containers.folder import FetchedFiles
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.hub.client import hub_errors
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.remote import Halt, in_parallel
from zoo_datasets.terminal import Fetched

_PREFIX = "hf:"
_LOCATION = re.compile(
    r"hf:(?:(?P<kind>models|datasets)/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/[\w.-]+/[\w.-]+|[^/]+))?"
    r"(?:/(?P<under>.+))?"
)


def is_hub(location: object) -> bool:
    """Whether a location is `hf:org/name`, with `@revision` and a folder behind it if need be."""
    return isinstance(location, str) and location.startswith(_PREFIX) and not location.startswith("hf://")


class HubFolder(FetchedFiles):
    """A model or dataset repository of the Hub at one commit, or a folder in it."""

    notes: Sequence[Note] = ()

    def __init__(
        self, repo: str, kind: str, commit: str, under: str, sizes: dict[str, int], fetched: Fetched | None
    ) -> None:
        self.name = (under or repo).rstrip("/").rpartition("/")[2]
        self._repo, self._kind, self._commit, self._under = repo, kind, commit, under
        self._fetched = fetched or (lambda what, done, total: None)
        reasons = {path: reason for path in sizes if (reason := check_name(path)) is not None}
        self.refused = reasons
        self._sizes = {path: size for path, size in sizes.items() if path not in reasons}
        self.entries: Sequence[str] = sorted(self._sizes)
        self._local: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, location: str, fetched: Fetched | None = None) -> HubFolder:
        """The repository of a location; a model is looked for first, then a dataset, unless the location says which.

        Raises:
            SourceError: if the location cannot be understood.
            HubError: if there is no such repository or revision, or the Hub cannot be reached.
        """
        match = _LOCATION.fullmatch(location)
        if match is None:
            raise SourceError(
                f"{location[:200]!r} is no place on the Hub; expected hf:org/name, with @revision and /folder behind "
                "it if need be, and datasets/ in front of org for a dataset"
            )
        repo, revision = match["repo"], match["revision"]
        under = f"{match['under'].strip('/')}/" if match["under"] else ""
        kinds = [match["kind"].removesuffix("s")] if match["kind"] else ["model", "dataset"]
        with hub_errors(f"{location[:200]}: could not be read from the Hub", repo):
            kind, commit = _found(repo, revision, kinds)
            tree = HfApi().list_repo_tree(
                repo, under.rstrip("/") or None, recursive=True, revision=commit, repo_type=kind
            )
            sizes = {item.path.removeprefix(under): item.size for item in tree if isinstance(item, RepoFile)}
        return cls(repo, kind, commit, under, sizes, fetched)

    def prepare(self, paths: Iterable[str], limit: int) -> None:
        """Fetch files into the Hub's cache, several at a time."""
        wanted = [
            path
            for path in dict.fromkeys(paths)
            if path not in self._local and self._sizes.get(path, limit + 1) <= limit
        ]
        count = 0

        def fetch(path: str, halt: Halt) -> None:
            nonlocal count
            if halt.is_set():
                return
            with hub_errors(f"{self._repo}: {path[:200]} could not be fetched", self._repo):
                file = hf_hub_download(self._repo, f"{self._under}{path}", repo_type=self._kind, revision=self._commit)
            with self._lock:
                # Its cache holds links to the files.
                self._local[path] = str(Path(file).resolve())
                count += 1
                self._fetched("files", count, len(wanted))

        if wanted:
            in_parallel(fetch, wanted)

    def _at_hand(self, path: str, limit: int) -> str:
        """Where the Hub's cache has a file."""
        size = self._sizes.get(path)
        if size is None:
            raise CheckpointError(self.refused.get(path, "there is no such file"))
        if size > limit:
            raise CheckpointError(f"it has {size:,} bytes, at most {limit:,} expected")
        self.prepare([path], limit)
        return self._local[path]

    def fingerprint(self) -> str:
        """Digest of the repository and its commit."""
        return digest_of(["hub", self._kind, self._repo, self._commit, self._under])


def _found(repo: str, revision: str | None, kinds: Sequence[str]) -> tuple[str, str]:
    """The kind of a repository and the commit that a revision means."""
    for number, kind in enumerate(kinds, 1):
        try:
            return kind, str(HfApi().repo_info(repo, repo_type=kind, revision=revision).sha)
        except RepositoryNotFoundError:
            if number == len(kinds):
                raise
    raise AssertionError("some kind of repository is looked for")
