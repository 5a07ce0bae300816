"""The local side of a push: zoos that are complete and right, compared with what the Hub holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCard
from huggingface_hub.hf_api import RepoFile

from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.repository.card import CARD, Entry, configs_of, entry_in, move_beside_shards, read_card, zoos_of
from zoo_datasets.repository.card.plots import draw_plots
from zoo_datasets.repository.card.text import PAGE
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.places import MANIFEST, META_FOLDER, folders_of, has_manifest, meta_path
from zoo_datasets.repository.removal import gone_message, listed_but_gone, local_files
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import check_files, sha256_of
from zoo_datasets.storage.remembered import is_remembered, remember, stamp_of
from zoo_datasets.terminal import Advance, Tell
from zoo_datasets.version import __version__

FILES_PER_FOLDER = 10_000  # the Hub's limit


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalZoo:
    """A zoo of a local repository.

    Attributes:
        folder: of the repository.
        files: SHA-256 of all its files, by path in the repository.
        entry: what the card of the repository says of it.
    """

    name: str
    folder: Path
    manifest: Manifest
    files: Mapping[str, str]
    entry: Entry

    @classmethod
    def read(cls, repo: Path, name: str, card: DatasetCard) -> LocalZoo:
        """The zoo of a name, which the card lists.

        Raises:
            RepositoryError: if a file is missing, or it has more files than the Hub takes.
        """
        manifest = _checked_manifest(repo, name)
        files = {shard.path: shard.sha256 for shard in (*manifest.shards, *manifest.meta, *manifest.layouts)}
        others = (meta_path(name, MANIFEST), meta_path(name, PAGE), *manifest.plots)
        missing = [path for path in (*files, *others) if not (repo / path).is_file()]
        if missing:
            raise RepositoryError(f"{repo / missing[0]} is missing; build {name} again")
        if len(files) + len(others) > FILES_PER_FOLDER:
            raise RepositoryError(f"{name} has {len(files):,} files; the Hub takes {FILES_PER_FOLDER:,} in a folder")
        digests = files | {path: sha256_of(repo / path) for path in others}
        return cls(name=name, folder=repo, manifest=manifest, files=digests, entry=entry_in(card, name))

    @property
    def data(self) -> set[str]:
        """Paths of the files that are named by their content."""
        manifest = self.manifest
        return {shard.path for shard in (*manifest.shards, *manifest.meta, *manifest.layouts)}

    def verify(self, progress: Advance) -> None:
        """Make the checks of `zoo verify` that need no images, unless it passed them and was not written to since.

        Raises:
            RepositoryError: with the first difference.
        """
        state = self._state()
        if is_remembered(self.folder / self.name, state):
            return
        result = verify_repository(self.folder, self.name, progress=progress)
        if not result.ok:
            first, count = result.differences[0].message, len(result.differences)
            raise RepositoryError(
                f"{self.folder}: {self.name} is not what its manifest says, so nothing was sent: {first}. "
                f"`zoo verify {self.folder} {self.name} --files-only` shows all {count}; build it again"
            )
        remember(self.folder / self.name, state)

    def _state(self) -> str:
        """Changes when a file of the zoo, what the card says of it, or the package does."""
        stamps = {path: [digest, *stamp_of(self.folder / path)] for path, digest in self.files.items()}
        folders = [self.folder / folder for folder in folders_of(self.name)]
        names = [sorted(each.name for each in folder.iterdir()) for folder in folders if folder.is_dir()]
        entry = [dict(self.entry.configs), dict(self.entry.infos), self.entry.line]
        return digest_of([__version__, stamps, names, entry])

    def check_continues(self, theirs: Manifest | None, listed: bool, repo_id: str) -> None:
        """Refuse to lose what the Hub holds.

        Args:
            theirs: the manifest that the Hub has.
            listed: whether its card lists a config of this name.

        Raises:
            RepositoryError: saying what that is.
        """
        remedy = "push another --config, build it under another --name, or replace it with --replace"
        if theirs is None:
            if listed:
                raise RepositoryError(f"{repo_id} has a config {self.name} that `zoo build` did not write; {remedy}")
            return
        ours = self.manifest
        kept = {shard.sha256 for shard in theirs.shards} <= {shard.sha256 for shard in ours.shards}
        # A run that was not finished when it was pushed has other shards when it is; its rows are the same bits then.
        same_source = (ours.source_id, ours.source.get("engine")) == (theirs.source_id, theirs.source.get("engine"))
        grown = ours.states.written > theirs.states.written and ours.models.written >= theirs.models.written
        if not kept and not (same_source and grown):
            on_hub, here = (f"{held.models.written:,} models, {held.rows():,} rows" for held in (theirs, ours))
            raise RepositoryError(
                f"{repo_id} holds other content as {self.name}: {on_hub}, which the local one with {here} does not "
                f"continue; {remedy}"
            )

    def same(self, path: str, remote: RepoFile | None) -> bool:
        """Whether a file of the Hub has the content of the local one."""
        if remote is None:
            return False
        if remote.lfs is not None:
            return str(remote.lfs.sha256) == self.files[path]
        data = (self.folder / path).read_bytes()
        return len(data) == remote.size and str(remote.blob_id) == _git_oid(data)


def local_zoos(repo: Path, names: Sequence[str] = (), tell: Tell | None = None) -> list[LocalZoo]:
    """The zoos of a local repository of these names; of all, if none is given. Plots that are missing are drawn.

    Raises:
        RepositoryError: if it is no dataset repository, holds no zoo, or one that is not complete.
        StorageError: if plots have to be drawn and the repository cannot be written to.
        UnknownNameError: if it has no zoo of a name.
    """
    check_files(repo, [CARD], links=False)
    if not (repo / CARD).is_file():
        raise RepositoryError(f"{repo} is no dataset repository: there is no {CARD} in it; `zoo build` makes one")
    card = read_card(repo)
    listed = zoos_of(configs_of(card))
    complete = [name for name in listed if has_manifest(repo, name)]
    gone = listed_but_gone(card, local_files(repo, listed))
    for name in names:
        if name not in listed:
            raise UnknownNameError("config", name, complete)
        if name not in complete:
            raise RepositoryError(
                gone_message(repo, name)
                if name in gone
                else f"{repo}: {name} was not written by `zoo build`, which alone writes what can be pushed"
            )
    for name in () if names else gone:
        if tell is not None:
            tell(f"warning: {gone_message(repo, name)}; it is not pushed")
    if not complete:
        raise RepositoryError(f"{repo} holds no zoo; `zoo build` makes one")
    selected = list(dict.fromkeys(names or complete))
    for name in selected:
        _checked_manifest(repo, name)
        move_beside_shards(repo, name)
        draw_plots(repo, name, tell)
    card = read_card(repo)
    return [LocalZoo.read(repo, name, card) for name in selected]


def _checked_manifest(repo: Path, name: str) -> Manifest:
    manifest = read_manifest(repo, name)
    if manifest is None or not manifest.meta:
        raise RepositoryError(
            f"{repo / name} was written by an earlier version of `zoo build`; build it again, its shards stay"
        )
    # Nothing but the repository's own files may be sent.
    paths = [meta_path(name, file) for file in (MANIFEST, PAGE)]
    check_files(repo, [*paths, f"{name}/{MANIFEST}", *manifest.paths], links=False)
    for path in manifest.plots:  # nothing else of this machine may pass for a picture
        if path.rpartition("/")[0].removeprefix(f"{META_FOLDER}/") != name or not path.endswith(".png"):
            raise RepositoryError(
                f"the manifest of {repo / name} lists the plot {path!r}, expected a .png in {META_FOLDER}/{name}/"
            )
    return manifest


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
