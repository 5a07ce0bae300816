"""Take a zoo out of a dataset repository, here or on the Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile

from zoo_datasets.documents import StrPath
from zoo_datasets.hub.client import DATASET, hub_errors, remote_card
from zoo_datasets.hub.retries import retried
from zoo_datasets.repository.card import CARD, card_without
from zoo_datasets.repository.removal import Removal, check_removable, files_of_zoo, remove_local
from zoo_datasets.terminal import Tell


def remove_zoo(
    repo: StrPath, name: str, *, revision: str | None = None, dry_run: bool = False, tell: Tell | None = None
) -> Removal:
    """Take a zoo and its light config out of a repository: off the card, and its files; other zoos stay.

    On the Hub it is one commit, and what was there stays in the history.

    Args:
        repo: a local folder or the id of a dataset on the Hub.
        revision: the branch, on the Hub.
        dry_run: only return what would be removed.
        tell: called with each step, a line of text.

    Raises:
        UnknownNameError: if the card lists no such zoo.
        RepositoryError: if the zoo is in use, or not one of `zoo build`.
        HubError: if the Hub cannot be reached or refuses.
        StorageError: if a folder cannot be written to.
    """
    if Path(repo).is_dir():
        return remove_local(Path(repo), name, dry_run=dry_run)
    with hub_errors(f"{name} could not be removed from {repo}", str(repo)):
        return retried(
            lambda: _remove_remote(HfApi(), str(repo), name, revision, dry_run),
            tell or (lambda text: None),
            lambda: True,
        )


def _remove_remote(api: HfApi, repo_id: str, name: str, revision: str | None, dry_run: bool) -> Removal:
    info = api.dataset_info(repo_id, revision=revision)
    repo_id, head = str(info.id), str(info.sha)
    card = remote_card(repo_id, head)
    check_removable(card, name, f"{repo_id}: {CARD}")
    paths = files_of_zoo(name, (file.rfilename for file in info.siblings or ()))
    sizes = [file.size for file in api.get_paths_info(repo_id, paths, revision=head, repo_type=DATASET)
             if isinstance(file, RepoFile)] if paths else []  # fmt: skip
    commit = None
    if not dry_run:
        text = card_without(card, name, repo_id)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(path_in_repo=path) for path in paths
        ]
        operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=text.encode()))
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=f"Remove {name}",
            repo_type=DATASET,
            revision=revision,
            parent_commit=head,
        ).oid
    return Removal(location=repo_id, name=name, files=tuple(paths), bytes=sum(sizes), commit=commit)
