"""A dataset repository on the Hub or in a folder, by its metadata alone; and the Hub's errors, without secrets."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import DatasetCard, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo_datasets.documents import MAX_JSON, read_text
from zoo_datasets.errors import (
    DocumentError,
    HubError,
    NotCachedError,
    RepositoryError,
    StorageError,
    UnknownNameError,
    ZooError,
)
from zoo_datasets.repository.card import CARD, configs_of, parse_card, read_card, zoos_of
from zoo_datasets.repository.manifest import Manifest, parse_manifest, read_manifest
from zoo_datasets.repository.places import manifest_paths
from zoo_datasets.repository.removal import listed_but_gone, local_files
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.storage.files import is_full
from zoo_datasets.storage.hub_address import check_no_revision, parse_address
from zoo_datasets.storage.hub_cache import Revision, cached_file, resolve
from zoo_datasets.storage.secrets import without_secrets

DATASET = "dataset"
_REQUESTS = 8  # to the Hub at a time
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


# HTTPError is that of httpx or of its successor, whichever the Hub's client uses; uploads end in RuntimeError.
_HUB_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_AGAIN = "run the same command again: what has arrived is not sent again"

_MESSAGES = {
    401: f"the token is missing or not valid; {_LOG_IN}",
    403: "the token has no right to do this; use one that may write to {repo_id}",
    404: "it does not exist, or it is private and the token may not see it",
    409: f"others push to it all the time; {_AGAIN}",
    412: f"others push to it all the time; {_AGAIN}",
    413: "a file is too large for it",
    429: f"it asks to slow down; wait some minutes, then {_AGAIN}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdings:
    """What a repository holds, from its card and manifests.

    Attributes:
        commit: of a repository on the Hub; None of a folder.
        manifests: by zoo; one that `zoo build` did not write has none.
        gone: zoos that the card lists and of which no file exists.
        out_of_reach: why the Hub could not be asked, so that this is what the cache holds.
    """

    location: str
    commit: str | None
    card: DatasetCard
    manifests: Mapping[str, Manifest]
    gone: Sequence[str] = ()
    out_of_reach: str | None = None


def read_holdings(repo: str | Path, names: Sequence[str] = (), revision: str | None = None) -> Holdings:
    """The card of a repository and the manifests of some of its zoos (all, if none is named); reads no data.

    Args:
        repo: a local folder or the id of a dataset on the Hub.
        revision: branch, tag or commit, on the Hub.

    Raises:
        RepositoryError: if it is no dataset repository, or is broken.
        UnknownNameError: if it has no such zoo.
        HubError: if the Hub cannot be reached or refuses.
    """
    folder = Path(repo)
    commit, location = None, str(repo)
    if folder.is_dir():
        check_no_revision(folder, revision)
        if not (folder / CARD).is_file():
            raise RepositoryError(f"{repo} is no dataset repository: there is no {CARD} in it; `zoo build` makes one")
        card = read_card(folder)
        paths = local_files(folder, zoos_of(configs_of(card)))
    else:
        repo, revision = parse_address(str(repo), revision)
        with hub_errors(f"{repo}: is no folder here, and on the Hub could not be read", str(repo)):
            resolved = resolve(str(repo), revision)
            if resolved.out_of_reach is not None:
                return _cached_holdings(str(repo), names, resolved)
            info = HfApi().dataset_info(str(repo), revision=resolved.commit)
            commit, location = str(info.sha), str(info.id)
            card = remote_card(location, commit)
            paths = [file.rfilename for file in info.siblings or ()]
    zoos = zoos_of(configs_of(card))
    gone = listed_but_gone(card, paths)
    for name in names:
        if name not in zoos:
            raise UnknownNameError("config", name, zoos)
    wanted = [name for name in dict.fromkeys(names or zoos) if name not in gone]
    if commit is None:
        manifests = [read_manifest(folder, name) for name in wanted]
    else:
        manifests = in_parallel(lambda name: remote_manifest(location, name, commit), wanted)
    held = {name: manifest for name, manifest in zip(wanted, manifests, strict=True) if manifest is not None}
    return Holdings(location=location, commit=commit, card=card, manifests=held, gone=gone)


def in_parallel(function: Callable[[_Item], _Value], items: Sequence[_Item]) -> list[_Value]:
    """What a function that waits for the Hub returns for each item, in order."""
    with ThreadPoolExecutor(max(1, min(_REQUESTS, len(items)))) as pool:
        return list(pool.map(function, items))


def _cached_holdings(repo_id: str, names: Sequence[str], revision: Revision) -> Holdings:
    """What the cache holds of the newest commit that has the card and, if zoos are named, their manifests.

    Raises:
        UnknownNameError: if no card in the cache lists one of the zoos.
        NotCachedError: if the cache lacks the card or a manifest.
    """
    listed: set[str] = set()
    for commit in revision.commits:
        text = _cached_text(repo_id, CARD, commit)
        if text is None:
            continue
        card = parse_card(text, f"{repo_id}: {CARD}")
        zoos = zoos_of(configs_of(card))
        manifests = {zoo: _cached_manifest(repo_id, zoo, commit) for zoo in names or zoos}
        held = {zoo: manifest for zoo, manifest in manifests.items() if manifest is not None}
        if not names or len(held) == len(manifests):
            return Holdings(
                location=repo_id, commit=commit, card=card, manifests=held, out_of_reach=revision.out_of_reach
            )
        listed.update(zoos)
    unknown = [name for name in names if name not in listed]
    if listed and unknown:
        raise UnknownNameError("config", unknown[0], listed)
    missing = f"the manifest of {', '.join(names)}" if listed else f"its {CARD}"
    raise NotCachedError(f"{repo_id}: {revision.out_of_reach}, and the cache lacks {missing}")


def _cached_manifest(repo_id: str, name: str, commit: str) -> Manifest | None:
    for path in manifest_paths(name) if NAME.fullmatch(name) else ():
        text = _cached_text(repo_id, path, commit)
        if text is not None:
            return parse_manifest(text, f"{repo_id}: {path}", name)
    return None


def _cached_text(repo_id: str, path: str, commit: str) -> str | None:
    file = cached_file(repo_id, path, commit)
    return None if file is None else _text_of(file, repo_id, path)


def _text_of(file: Path, repo_id: str, path: str) -> str:
    try:
        return read_text(file, MAX_JSON)
    except DocumentError as error:
        raise RepositoryError(f"{repo_id}: {path} could not be read: {error}") from error


def remote_card(repo_id: str, commit: str) -> DatasetCard:
    """The card of a dataset on the Hub; an empty one if it has none."""
    return parse_card(remote_text(repo_id, CARD, commit) or "", f"{repo_id}: {CARD}")


def remote_manifest(repo_id: str, name: str, commit: str) -> Manifest | None:
    """The manifest of a config on the Hub; None if it has none."""
    for path in manifest_paths(name) if NAME.fullmatch(name) else ():
        text = remote_text(repo_id, path, commit)
        if text is not None:
            return parse_manifest(text, f"{repo_id}: {path}", name)
    return None


def remote_text(repo_id: str, path: str, commit: str) -> str | None:
    """The text of a file of a dataset on the Hub; None if the dataset has no such file.

    Raises:
        HubError, StorageError: if it cannot be fetched.
        RepositoryError: if it is not text, or too long.
    """
    with hub_errors(f"{repo_id}: {path} could not be read", repo_id):
        try:
            file = hf_hub_download(repo_id, path, repo_type=DATASET, revision=commit)
        except EntryNotFoundError as error:
            # The same error, without a response, says that the Hub is out of reach.
            if isinstance(error, HfHubHTTPError):
                return None
            raise
        return _text_of(Path(file), repo_id, path)


@contextlib.contextmanager
def hub_errors(failed: str, repo_id: str) -> Iterator[None]:
    """Errors of the Hub's client inside become ours, and no token or signed address is shown or logged.

    Args:
        failed: what could not be done; begins the message.

    Raises:
        HubError: what happened and what to do.
        StorageError: if this machine's disk is full.
    """
    with _quiet_secrets():
        try:
            yield
        except _HUB_ERRORS as error:
            if isinstance(error, ZooError):
                raise
            kind = StorageError if is_full(error) else HubError
            # Not chained: the original's text and the frames below it may hold what must not be shown.
            raise kind(f"{failed}: {_reason(error, repo_id)}") from None


def _reason(error: BaseException, repo_id: str) -> str:
    """What went wrong and what to do, on one line."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # which file it was is no matter: all that failed are sent again
    if is_full(error):
        return f"{without_secrets(str(error))[:200]}; free space on this machine (HF_HOME), then {_AGAIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision"
    if isinstance(error, GatedRepoError):
        return (
            f"it is gated: ask for access at {HfApi().endpoint}/datasets/{repo_id}, and use the token of an account "
            f"that has it; {_LOG_IN}"
        )
    if isinstance(error, DisabledRepoError):
        return "the Hub has disabled it"
    if isinstance(error, RepositoryNotFoundError):
        return _MESSAGES[404] if get_token() else f"it does not exist, or it is private; {_LOG_IN}"
    if status in _MESSAGES:
        return _MESSAGES[status].format(repo_id=repo_id)
    if status is not None and status >= 500:
        return f"the Hub failed (status {status}); {_AGAIN}"
    text = without_secrets(f"{type(error).__name__}: {error}")[:300]
    if status is None and isinstance(error, (HTTPError, ConnectionError, TimeoutError, EntryNotFoundError)):
        return f"the connection failed ({text}); {_AGAIN}"
    return text


class _Redacting(logging.Filter):
    """Takes secrets out of what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


@contextlib.contextmanager
def _quiet_secrets() -> Iterator[None]:
    """The Hub's client logs the addresses it tries again, signatures and all."""
    handlers = [handler for name in ("huggingface_hub", "") for handler in logging.getLogger(name).handlers]
    handlers += [] if logging.lastResort is None else [logging.lastResort]
    redacting = _Redacting()
    for handler in handlers:
        handler.addFilter(redacting)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(redacting)
