"""The ways to write down a dataset on the Hub: its id, with a revision, and addresses of two kinds."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

from zoo_datasets.errors import SpecError

_HOSTS = ("https://huggingface.co", "https://hf.co")
_FORMS = "org/name, org/name@revision, hf://datasets/org/name@revision or https://huggingface.co/datasets/org/name"
# Of a web address, what follows the dataset's id: the page of a revision, which may be refs/pr/1.
_PAGE = re.compile(r"(?:/(?:tree|blob|resolve)/(?P<revision>refs/[^/]+/[^/]+|[^/]+))?/?")


def parse_address(address: str, revision: str | None = None) -> tuple[str, str | None]:
    """The id of a dataset and the revision, branch, tag or commit, if one is given.

    Args:
        revision: what the address may leave open.

    Raises:
        SpecError: if this is no address of a dataset, or names another revision than `revision`.
    """
    repo_id, named = _parts(address)
    if None not in (named, revision) and named != revision:
        raise SpecError(f"{address[:200]!r} names revision {named!r}, and revision={revision!r}; give one of them")
    return repo_id, named or revision


def check_no_revision(folder: Path, revision: str | None) -> None:
    """Refuse a revision of a folder on this machine.

    Raises:
        SpecError: if there is one.
    """
    if revision is not None:
        raise SpecError(
            f"revision={revision!r}: {folder} is a folder here, which is read as it is; revisions are for datasets on "
            "the Hub"
        )


def _parts(address: str) -> tuple[str, str | None]:
    if "://" not in address:
        repo_id, _, revision = address.partition("@")
        return repo_id, _revision(revision)
    for host in (constants.ENDPOINT, *_HOSTS):
        if address.startswith(f"{host}/"):
            return _of_page(address, urlsplit(address.removeprefix(host)).path)
    place, _, revision = address.removeprefix("hf://datasets/").partition("@")
    # A slash in it is one of the branch's name, or leads to a file.
    if not address.startswith("hf://datasets/") or place.count("/") != 1 or not re.fullmatch(
        r"(refs/[^/]+/[^/]+|[^/]*)/?", revision
    ):  # fmt: skip
        raise _no_dataset(address)
    return place, _revision(revision.rstrip("/"))


def _of_page(address: str, path: str) -> tuple[str, str | None]:
    dataset = re.match(r"/datasets/([^/]+/[^/]+)", path)
    page = _PAGE.fullmatch(path, dataset.end()) if dataset else None
    if dataset is None or page is None:
        raise _no_dataset(address)
    return dataset[1], _revision(page["revision"] or "")


def _revision(quoted: str) -> str | None:
    return unquote(quoted) or None


def _no_dataset(address: str) -> SpecError:
    return SpecError(f"{address[:200]!r} is no address of a dataset on the Hub; expected {_FORMS}")
