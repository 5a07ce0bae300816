"""Datasets on the Hub while it cannot be reached: which commits and files of them are in the cache of its client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]
from huggingface_hub.file_download import repo_folder_name

_DATASET = "dataset"


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """What a branch, tag or commit of a dataset stands for.

    Attributes:
        commits: the one that it names; out of reach, others in the cache may follow, the latest first.
        out_of_reach: why the Hub could not be asked, so that only the cache can be read; None if it answered.
    """

    commits: Sequence[str]
    out_of_reach: str | None = None

    @property
    def commit(self) -> str:
        """The commit that the revision names, as far as that is known."""
        return self.commits[0]


def resolve(repo_id: str, revision: str | None) -> Revision:
    """The commit of a revision, by the Hub, or by the cache while the Hub is out of reach.

    Args:
        revision: branch, tag or commit; None is the main branch.

    Raises:
        OSError, ValueError, HTTPError: of the Hub's client, if the Hub refuses, or if it is out of reach and the cache
            holds no such revision.
    """
    try:
        info = HfApi().dataset_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, expand=["sha"])
        return Revision(commits=[str(info.sha)])
    except (HTTPError, OSError) as error:
        reason = _out_of_reach(error)
        commits = [] if reason is None else cached_commits(repo_id, revision)
        if not commits:
            raise
        return Revision(commits=commits, out_of_reach=reason)


def _out_of_reach(error: Exception) -> str | None:
    """Why the Hub could not be asked; None if it did answer."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the Hub fails with status {status}" if status >= 500 or status == 429 else None
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
        return "the Hub is out of reach"
    return None


def cached_commits(repo_id: str, revision: str | None = None) -> list[str]:
    """The commits of a dataset of which the cache holds files: that of the revision first.

    Of the main branch, others follow, the latest in the cache first.
    """
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type=_DATASET))
    snapshots = {path.name: path for path in folder.glob("snapshots/*") if path.is_dir()}
    reference = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    named = reference.read_text().strip() if reference.is_file() else revision
    others = sorted(snapshots, key=lambda commit: snapshots[commit].stat().st_mtime, reverse=True)
    commits = [named, *(others if revision is None else ())]
    return [commit for commit in dict.fromkeys(commits) if commit in snapshots]


def cached_file(repo_id: str, path: str, commit: str) -> Path | None:
    """A file of a commit of a dataset in the cache; None if it is not there whole."""
    file = try_to_load_from_cache(repo_id, path, revision=commit, repo_type=_DATASET)
    return Path(file) if isinstance(file, str) else None


def cache_folder() -> str:
    """The folder of the cache, for messages."""
    return constants.HF_HUB_CACHE
