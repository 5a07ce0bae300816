"""Push a local dataset repository to the Hub, so that the dataset loads at every moment.

1. Check: plots that are missing are drawn, and every zoo to push is what its manifest says (the checks of `zoo verify`
   that need no images).
2. Plan: read the Hub's newest card, manifests and listings; merge the card; find the files that differ.
3. Send: files whose names are hashes of their content first, which no card mentions yet.
4. Commit: manifests, plots and the card, on condition that the repository is still the one that was read.
   If it is not, begin again at 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from zoo_datasets.documents import StrPath
from zoo_datasets.errors import HubError, RepositoryError
from zoo_datasets.hub.client import DATASET, hub_errors, in_parallel, remote_card, remote_manifest, remote_text
from zoo_datasets.hub.local_zoo import LocalZoo, local_zoos
from zoo_datasets.hub.loose import is_parquet, loose_data
from zoo_datasets.hub.retries import retried, status_of
from zoo_datasets.repository.card import (
    CARD,
    LICENCE_KEYS,
    Entry,
    card_with,
    configs_of,
    entry_in,
    licence_is_computed,
    read_card,
    texts_in,
)
from zoo_datasets.repository.card.text import citations_of, table_line, yours
from zoo_datasets.repository.listing import by_pattern, configs_by_pattern, files_among, named
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.places import MANIFEST, folders_of, manifest_paths, meta_path
from zoo_datasets.repository.removal import listed_but_gone
from zoo_datasets.terminal import Advance, Tell

FILES_PER_COMMIT = 100  # the Hub's advice
_LISTED_ALONE = 4  # zoos whose folders are listed one by one


@dataclass(frozen=True, kw_only=True, slots=True)
class PushResult:
    """What a push did.

    Attributes:
        commit: of the repository's state with everything in it; of a new pull request, that of its branch.
        url: of the pull request, if one was opened, else of the repository.
        repo_id: the dataset's id, which is another one if it was renamed.
        added, removed: paths of the files that were added or replaced, and of those that went. Neither: nothing to do.
        bytes: of the files added; those that an earlier push had sent are not sent again.
        warnings: what a person should know.
    """

    commit: str
    url: str
    repo_id: str
    configs: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    bytes: int
    warnings: tuple[str, ...]


def push_repository(
    repo: StrPath,
    repo_id: str,
    names: Sequence[str] = (),
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    replace: bool = False,
    force: bool = False,
    progress: AbstractContextManager[Advance] | None = None,
    tell: Tell | None = None,
) -> PushResult:
    """Push zoos of a local repository to a dataset on the Hub, creating it if necessary.

    Plots of the local card that are missing are drawn first; a build drops those of a zoo whose figures it changes.
    Zoos that the Hub has and that are not pushed stay as they are. What stands on the Hub's card between the marks,
    its licence and its other keys stay too, unless `replace` is given.

    Args:
        repo: the local repository.
        repo_id: the dataset's id, `organisation/name`.
        names: the zoos to push; none means all.
        private: whether a new dataset is private.
        revision: branch to push to; created from the main one if it does not exist.
        create_pr: open a pull request instead of writing to the branch.
        replace: whether zoos of the same name with other content may be replaced.
        force: whether to push to a dataset with data files of no config, which `load_dataset` then gives no longer.
        progress: a bar that is shown while checking, called with (files checked, files in all) for each zoo.
        tell: called with each step, a line of text.

    Raises:
        RepositoryError: if the local repository is not what it says, or the Hub holds other content.
        StorageError: if plots have to be drawn and the local repository cannot be written to.
        UnknownNameError: if it has no zoo of a name.
        HubError: if the Hub cannot be reached or refuses; says what to do. Running again goes on.
    """
    repo = Path(repo)
    if create_pr and revision not in (None, "main"):
        raise RepositoryError("a pull request goes to the main branch: give either --create-pr or --revision")
    tell = tell or (lambda text: None)
    zoos = local_zoos(repo, names, tell)
    # Closed before anything is sent: then the Hub's client shows bars of its own.
    with progress or nullcontext(lambda done, total: None) as advance:
        for zoo in zoos:
            tell(f"checking {zoo.name}")
            zoo.verify(advance)
    pushing = _Pushing(
        card=read_card(repo),
        zoos=zoos,
        repo_id=repo_id,
        revision=revision,
        create_pr=create_pr,
        replace=replace,
        force=force,
    )
    with hub_errors(f"{repo_id} could not be opened", repo_id):
        pushing.open(private, tell)
    with hub_errors(f"{repo} could not be pushed to {repo_id}", repo_id):
        return pushing.push(tell)


@dataclass(kw_only=True, slots=True)
class _CommitPlan:
    """What one commit on top of `head` has to do.

    Attributes:
        card: README.md, if it changes.
        meanwhile: README.md for the time in which the files of a zoo that the card lists by pattern arrive in parts.
    """

    head: str
    card: str | None
    meanwhile: str | None = None
    add: dict[str, LocalZoo] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return self.card is None and not self.add and not self.remove


@dataclass(kw_only=True)
class _Pushing:
    """One push under way."""

    card: DatasetCard
    zoos: Sequence[LocalZoo]
    repo_id: str
    revision: str | None
    create_pr: bool
    replace: bool
    force: bool
    api: HfApi = field(default_factory=HfApi)
    url: str = ""
    added: dict[str, int] = field(default_factory=dict)

    def open(self, private: bool, tell: Tell) -> None:
        """Create the repository and the branch unless they exist."""
        try:
            info = self.api.repo_info(self.repo_id, repo_type=DATASET)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            self._create(private, tell)
        else:
            if private and not info.private:
                raise RepositoryError(
                    f"{self.repo_id} exists and is public; make it private in its settings, or push to another name"
                )
            if str(info.id) != self.repo_id:
                tell(f"{self.repo_id} is named {info.id} now")
                self.repo_id = str(info.id)
        self.url = f"{self.api.endpoint}/datasets/{self.repo_id}"
        if self.revision is not None:
            try:
                self.api.repo_info(self.repo_id, repo_type=DATASET, revision=self.revision)
            except RevisionNotFoundError:
                self.api.create_branch(self.repo_id, repo_type=DATASET, branch=self.revision, exist_ok=True)
                tell(f"created branch {self.revision}")

    def _create(self, private: bool, tell: Tell) -> None:
        """Create the repository, unless it exists: then somebody has just created it, or the token may not see it."""
        try:
            created = self.api.create_repo(self.repo_id, repo_type=DATASET, private=private or None)
        except HfHubHTTPError as error:
            if status_of(error) != 409:
                raise
            try:
                self.api.repo_info(self.repo_id, repo_type=DATASET)
            except RepositoryNotFoundError:
                raise HubError(
                    f"{self.repo_id} exists, but the token may not see it; use one that may, or push to another name"
                ) from None
        else:
            self.repo_id = created.repo_id
            tell(f"created {created}")

    def push(self, tell: Tell) -> PushResult:
        """Plan, send and commit until it is done.

        Raises:
            The Hub's client's errors, where trying again does not help.
        """
        # If a pull request may have been opened, another try would open a second one.
        return retried(lambda: self._attempt(tell), tell, lambda: not self.create_pr)

    def _attempt(self, tell: Tell) -> PushResult:
        plan = self._plan()
        return self._result(plan, None if plan.empty else self._commit(plan, tell))

    def _plan(self) -> _CommitPlan:
        """Compare with the newest state of the branch.

        Raises:
            RepositoryError: if a zoo of the same name has other content.
        """
        info = self.api.dataset_info(self.repo_id, revision=self.revision)
        head, paths = str(info.sha), [file.rfilename for file in info.siblings or ()]
        card = remote_card(self.repo_id, head)
        configs = configs_of(card)
        listing = self._listing(head)
        plan = _CommitPlan(head=head, card=None)
        loose = [] if configs else loose_data(paths, [zoo.name for zoo in self.zoos])
        if loose:
            self._check_loose(loose, plan)
        self._check_kinds(configs, plan)
        gone = listed_but_gone(card, paths)
        for zoo, theirs in zip(self.zoos, self._their_manifests(listing, head), strict=True):
            if not self.replace:
                zoo.check_continues(theirs, zoo.name in configs and zoo.name not in gone, self.repo_id)
            plan.add |= {path: zoo for path in zoo.files if not zoo.same(path, listing.get(path))}
            plan.remove += [path for path in _outdated(zoo, theirs, listing) if path in listing]
        plan.meanwhile = self._card_by_name(card, listing)
        written, warnings = _merge_written(card, self.card, self.replace)
        plan.warnings += warnings
        text = card_with(card, [self._entry(zoo) for zoo in self.zoos], written, self.repo_id)
        plan.card = None if text == remote_text(self.repo_id, CARD, head) else text
        return plan

    def _check_loose(self, loose: Sequence[str], plan: _CommitPlan) -> None:
        """Data files that no config lists are what `load_dataset` gives without a name, until a card lists configs.

        Raises:
            RepositoryError: unless it is known that they will not be.
        """
        more = f" and {len(loose) - 3:,} more" if len(loose) > 3 else ""
        what = f"{self.repo_id} holds data files of no config ({', '.join(loose[:3])}{more})"
        if not self.force:
            raise RepositoryError(
                f'{what}: load_dataset("{self.repo_id}") gives them, and would give zoos instead; list them in its '
                "card as a config with `default: true`, or push with --force"
            )
        plan.warnings.append(f'{what}: load_dataset("{self.repo_id}") gives zoos instead of them now')

    def _check_kinds(self, configs: Mapping[str, Mapping[str, Any]], plan: _CommitPlan) -> None:
        """`datasets` reads all configs of a dataset as files of one kind.

        Raises:
            RepositoryError: if the Hub's card has a config of another kind, unless that is to be ignored.
        """
        for name, config in configs.items():
            other = next((path for path in texts_in(config.get("data_files")) if not is_parquet(path)), None)
            if other is None:
                continue
            what = f"{self.repo_id} has a config {name} of other files than Parquet ({other})"
            if not self.force:
                raise RepositoryError(
                    f"{what}: load_dataset reads all configs as files of one kind, so that one of them would not load; "
                    "push to another name, make it Parquet, or push with --force"
                )
            plan.warnings.append(f"{what}, which load_dataset cannot read beside zoos")

    def _their_manifests(self, listing: Mapping[str, RepoFile], head: str) -> list[Manifest | None]:
        """The Hub's manifest of each zoo; fetched only if it is not the local one."""

        def manifest_of(zoo: LocalZoo) -> Manifest | None:
            path = meta_path(zoo.name, MANIFEST)
            if zoo.same(path, listing.get(path)):
                return zoo.manifest
            if listing.keys().isdisjoint(manifest_paths(zoo.name)):
                return None
            return remote_manifest(self.repo_id, zoo.name, head)

        return in_parallel(manifest_of, self.zoos)

    def _card_by_name(self, card: DatasetCard, listing: Mapping[str, RepoFile]) -> str | None:
        """The Hub's card with the present files of the zoos by name; None if it lists none of them by pattern."""
        configs = configs_of(card)
        entries = []
        for zoo in self.zoos:
            entry = entry_in(card, zoo.name)
            if any(by_pattern(configs[config]) for config in entry.configs):
                by_name = {config: named(configs[config], listing) for config in entry.configs}
                entries.append(dataclasses.replace(entry, configs=by_name))
        return card_with(card, entries, location=self.repo_id) if entries else None

    def _entry(self, zoo: LocalZoo) -> Entry:
        return dataclasses.replace(
            zoo.entry,
            line=table_line(zoo.manifest),
            citations=citations_of(zoo.manifest),
        )

    def _listing(self, head: str) -> dict[str, RepoFile]:
        """The files of the zoos' folders on the Hub, by path; of many zoos, those of the whole repository."""
        if len(self.zoos) > _LISTED_ALONE:
            return self._tree(None, head)
        folders = [folder for zoo in self.zoos for folder in folders_of(zoo.name)]
        return {path: file for files in in_parallel(lambda each: self._tree(each, head), folders)
                for path, file in files.items()}  # fmt: skip

    def _tree(self, folder: str | None, head: str) -> dict[str, RepoFile]:
        try:
            entries = list(
                self.api.list_repo_tree(self.repo_id, folder, recursive=True, revision=head, repo_type=DATASET)
            )
        except EntryNotFoundError:
            return {}
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _commit(self, plan: _CommitPlan, tell: Tell) -> CommitInfo:
        """Send what the plan adds and commit it; more files than one commit should have go in several."""
        data = sorted(path for path, zoo in plan.add.items() if path in zoo.data)
        parts = [data[start : start + FILES_PER_COMMIT] for start in range(0, len(data), FILES_PER_COMMIT)]
        size = sum((zoo.folder / path).stat().st_size for path, zoo in plan.add.items())
        tell(f"to add: {len(plan.add):,} files, {size / 1e6:,.1f} MB; what has arrived before is not sent again")
        head, names = plan.head, ", ".join(zoo.name for zoo in self.zoos)
        for number, part in enumerate(parts[:-1]):
            message = f"Add files of {names} (part {number + 1} of {len(parts)})"
            operations = self._additions(plan, part)
            if number == 0 and plan.meanwhile is not None:  # until the last part, new files are not among those listed
                operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=plan.meanwhile.encode()))
            head = self._send(operations, message, head).oid
        others = [path for path in plan.add if path not in set(data)]
        operations = self._additions(plan, [*(parts[-1] if parts else ()), *others])
        operations += [CommitOperationDelete(path_in_repo=path) for path in plan.remove]
        if plan.card is not None:
            operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=plan.card.encode()))
            self.added[CARD] = len(plan.card.encode())
        return self._send(operations, f"Push {names}", head)

    def _additions(self, plan: _CommitPlan, paths: Sequence[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for path in paths:
            zoo = plan.add[path]
            operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(zoo.folder / path))
            operation.upload_info.sha256 = bytes.fromhex(zoo.files[path])  # so that it is not read all again
            self.added[path] = operation.upload_info.size
            operations.append(operation)
        return operations

    def _send(
        self, operations: Sequence[CommitOperationAdd | CommitOperationDelete], message: str, head: str
    ) -> CommitInfo:
        """One commit on top of `head`. Large files are sent first, and those that have arrived are not sent again."""
        commit = self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=message,
            repo_type=DATASET,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=head,
        )
        if self.create_pr:  # the rest goes to the pull request's own branch
            self.create_pr, self.revision, self.url = False, commit.pr_revision, str(commit.pr_url)
        return commit

    def _result(self, plan: _CommitPlan, done: CommitInfo | None) -> PushResult:
        return PushResult(
            commit=plan.head if done is None else done.oid,
            url=self.url,
            repo_id=self.repo_id,
            configs=tuple(zoo.name for zoo in self.zoos),
            added=tuple(sorted(self.added)),
            removed=tuple(plan.remove),
            bytes=sum(self.added.values()),
            warnings=tuple(plan.warnings),
        )


def _outdated(zoo: LocalZoo, theirs: Manifest | None, listing: Mapping[str, RepoFile]) -> list[str]:
    """Paths of a zoo on the Hub that are no longer its: files of its former manifest, and what its patterns match."""
    former = [] if theirs is None else [*theirs.paths, *manifest_paths(zoo.name)]
    matching = [
        path for config in configs_by_pattern(zoo.manifest).values() for _, path in files_among(config, listing)
    ]
    return [path for path in dict.fromkeys([*former, *matching]) if path not in zoo.files]


def _merge_written(theirs: DatasetCard, ours: DatasetCard, replace: bool) -> tuple[str, list[str]]:
    """Take what a person wrote in the local card if the Hub's has nothing, or `replace` is given.

    Changes the keys of the Hub's card.

    Returns:
        The text between the marks, and a warning for each thing that was not taken.
    """
    counted = {"configs", "dataset_info", "size_categories", "tags"}
    if licence_is_computed(ours) and (replace or licence_is_computed(theirs)):
        counted |= {*LICENCE_KEYS}
        for key in LICENCE_KEYS if replace and not licence_is_computed(theirs) else ():
            theirs.data.pop(key)
    warnings = []
    for key, value in ours.data.to_dict().items():  # type: ignore[no-untyped-call]
        if key in counted:
            continue
        if theirs.data.get(key) is None or replace:
            theirs.data[key] = value
        elif theirs.data[key] != value:
            warnings.append(
                f"the Hub's card says {key}: {theirs.data[key]!r}, the local one {value!r}; the Hub's stays"
            )
    theirs.data["tags"] = sorted({*(theirs.data.get("tags") or ()), *(ours.data.get("tags") or ())})
    written, local = yours(theirs.text), yours(ours.text)
    if local and (replace or not written):
        return local, warnings
    if local and local != written:
        warnings.append("the text between the marks is another one on the Hub, and stays; edit it there")
    return written, warnings
