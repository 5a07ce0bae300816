"""Links inside a tree of files, which lead to other files and folders of the same tree; no other is followed."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zoo_datasets.errors import SourceError

OUTSIDE = (
    "it is a link out of the tree that is read, which is not followed; "
    "copy the tree with what its links lead to (cp -rL) and build the copy"
)
NOWHERE = "it is a link to nothing, or in a circle"
_BESIDE = "it is a link to a folder beside it, which is read by its own name"
_NESTED = "it is a link in a folder that was reached by a link, which is not followed"

MAX_LINK = 4096  # characters
_MOST_STEPS = 1000  # in resolving one link
_MOST_LINKED = 1 << 20  # entries that are reached by links of folders


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """Where links of a tree lead.

    Attributes:
        places: the entries that links add, with a slash at the end of folders, and the file or folder that each is.
        refused: links that are not followed, each with the reason.
    """

    places: Mapping[str, str]
    refused: Mapping[str, str]


def follow(entries: Sequence[str], links: Mapping[str, str], root: str = "") -> Followed:
    """Follow the links of a tree.

    Args:
        entries: paths of the tree's files and folders but no links, sorted, those of folders with a slash at the end.
        links: the path of each link, and what it says, relative to the folder in which it lies.
        root: where the tree lies in a larger one, into which links may lead too: the paths of `Followed.places` then
            begin with `../`, and whoever reads them must see whether they are there.

    Raises:
        SourceError: if folders that links lead to hold more than a million entries.
    """
    files, folders = set[str](), {""}
    for entry in entries:
        (folders if entry[-1] == "/" else files).add(entry)
    places: dict[str, str] = {}
    refused: dict[str, str] = {}
    to_folders: dict[str, str] = {}
    for path in links:
        target = _resolved(path, links, root)
        if target is None:
            refused[path] = OUTSIDE
        elif target in files or target.startswith("../"):
            places[path] = target
        elif f"{target}/" in folders or not target:
            to_folders[path] = f"{target}/" if target else ""
        else:
            refused[path] = NOWHERE
    ordered = sorted(links)
    for path, target in to_folders.items():
        if path.startswith(target):
            refused[path] = NOWHERE
        elif _parent(path) == _parent(target[:-1]):
            refused[path] = _BESIDE
        else:
            places[f"{path}/"] = target
            below = [*_below(target, entries), *(link for link in _below(target, ordered) if link in places)]
            places |= {f"{path}/{entry[len(target) :]}": places.get(entry, entry) for entry in below}
            nested = (link for link in _below(target, ordered) if link not in places)
            refused |= {f"{path}/{link[len(target) :]}": refused.get(link, _NESTED) for link in nested}
            if len(places) - len(links) > _MOST_LINKED:
                raise SourceError(
                    f"links to folders lead to more than {_MOST_LINKED:,} entries; build the folders that they lead to"
                )
    return Followed(places=places, refused=refused)


def _below(folder: str, ordered: Sequence[str]) -> Iterator[str]:
    start = bisect_left(ordered, folder)
    return itertools.takewhile(lambda path: path.startswith(folder), itertools.islice(ordered, start, None))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _resolved(path: str, links: Mapping[str, str], root: str) -> str | None:
    """Where a link leads, relative to the tree's root; None if out of the larger tree, or too far."""
    above = [part for part in root.split("/") if part]
    parts: list[str] = []
    steps = deque([*above, *path.split("/")])
    for _ in range(_MOST_STEPS):
        if not steps:
            inside = parts[: len(above)] == above
            return "/".join(parts[len(above) :] if inside else [*[".."] * len(above), *parts])
        step = steps.popleft()
        if step in ("", "."):
            continue
        if step == "..":
            if not parts:
                return None
            parts.pop()
            continue
        parts.append(step)
        link = links.get("/".join(parts[len(above) :])) if parts[: len(above)] == above else None
        if link is not None:
            if link.startswith("/") or len(link) > MAX_LINK:
                return None
            parts.pop()
            steps.extendleft(reversed(link.split("/")))
    return None
