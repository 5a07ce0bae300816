"""The folders of a raw zoo and of its trials, and what lies in them."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.shards.notes import Note, shown
from zoo_datasets.builders.sources.raw.results import checkpoint_number
from zoo_datasets.documents import parse_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.storage.instead import BEGINNING, instead
from zoo_datasets.text import printable

CHECKPOINT_FILE = "checkpoints"

_CHECKPOINT_FOLDER = re.compile(r"checkpoint_\d{1,9}", re.ASCII)
_TRIAL_NAME = re.compile(r".*tune_trainable.*")
_RESOURCE_FORK = re.compile(r"(?:^|/)(?:__MACOSX/|\._)")
_TRIAL_FILES = ("params.json", "result.json", "params.pkl", "progress.csv")
_ZOO_FILES = ("config.json", "index_dict.json", "dataset.pt", "readme.md", "README.md")
_EXPECTED_TRIAL_FILES = re.compile(
    r"config\.json|params\.(json|pkl)|result\.json|progress\.csv|events\.out.*|error\.(txt|pkl)|\..*"
)
_EXPECTED_CHECKPOINT_FILES = re.compile(r"checkpoints|optimizer|\..*")
# What others call the file of a model's weights; of several, the one of a plain name counts.
_WEIGHTS_FILE = re.compile(
    r"(?!optim|sched|scaler|rng|train)(?:checkpoint|model|(?P<plain>checkpoint|model|net|state_dict|weights)\.(?:pt|pth|ckpt|bin)"
    r"|[^/.][^/]*\.(?:pt|pth|ckpt|bin|pth\.tar))",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What lies in the folder of a trial, by paths relative to it.

    Attributes:
        checkpoints: the file of each epoch; None where a checkpoint folder holds none.
        stray: files that are not part of a trial.
        renamed: names of the checkpoints that are not named as the authors' are.
    """

    files: frozenset[str]
    checkpoints: Mapping[int, str | None]
    stray: tuple[str, ...]
    renamed: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """The folder of one model. `path` is that of the folder inside its container, with a slash at the end."""

    name: str
    path: str
    contents: Contents

    @property
    def files(self) -> frozenset[str]:
        """Names of the files that lie in it and in no folder of it."""
        return self.contents.files

    @property
    def epochs(self) -> Collection[int]:
        """Epochs of which there is a checkpoint folder."""
        return self.contents.checkpoints.keys()

    def checkpoint(self, epoch: int) -> str | None:
        """Path of an epoch's checkpoint inside the container; None if it is missing."""
        file = self.contents.checkpoints.get(epoch)
        return None if file is None else f"{self.path}{file}"

    def names_in_checkpoint(self, epoch: int) -> list[str]:
        """What its checkpoint folder of an epoch holds that no checkpoint needs."""
        parted = (path.partition("/") for path in self.contents.stray)
        return [name for folder, _, name in parted if checkpoint_number(folder) == epoch]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFolder:
    """A raw zoo inside a container: its folder, its trials by name, stray files, and what cannot be read beside the
    trials, with the reasons."""

    name: str
    path: str
    files: frozenset[str]
    trials: tuple[Trial, ...]
    stray: tuple[str, ...]
    refused: Mapping[str, str]


def find_zoo(container: Container) -> RawFolder:
    """The one zoo that a container holds.

    Raises:
        SourceError: if it holds none, or several.
    """
    entries, resource_forks = _without_resource_forks(container.entries)
    folders = _trial_folders(entries)
    roots = {path[: path.rstrip("/").rfind("/") + 1] for path in folders}
    if not roots:
        problem = (
            f"{container.name} holds no raw zoo: no folder in it has checkpoint_… folders, params.json or result.json"
        )
        raise SourceError("; ".join([problem, *unread(container.refused)]))
    if len(roots) > 1:
        names = ", ".join(sorted(root or "." for root in roots)[:5])
        remedy = "build each from its own folder, an archive's after unpacking it"
        raise SourceError(f"{container.name} holds {len(roots)} zoos ({names}); {remedy}")
    root = roots.pop()
    trials: list[Trial] = []
    others: list[str] = []
    end = 0
    for path in sorted(folders):
        begin, before = bisect_left(entries, path), end
        end = _end_of(path, entries)
        others += entries[before:begin]
        # Most trials of a zoo hold files of the same names.
        contents = _contents_of(tuple([entry[len(path) :] for entry in entries[begin:end]]))
        trials.append(Trial(name=path[len(root) : -1], path=path, contents=contents))
    others += entries[end:]
    files = {entry.removeprefix(root) for entry in others if entry.startswith(root)}.intersection(_ZOO_FILES)
    stray = [
        entry for entry in others if entry[-1] != "/" and not (entry.startswith(root) and entry[len(root) :] in files)
    ]
    stray += [f"{trial.path}{path}" for trial in trials for path in trial.contents.stray]
    stray += resource_forks
    beside = set(container.refused).difference(entries)
    stray += beside
    outside = beside.union(others)
    refused = {path: reason for path, reason in container.refused.items() if path in outside}
    name = root.rstrip("/").rsplit("/", 1)[-1] or container.name
    return RawFolder(
        name=name,
        path=root,
        files=frozenset(files),
        trials=tuple(trials),
        stray=tuple(sorted(stray)),
        refused=refused,
    )


def unread(refused: Mapping[str, str]) -> list[str]:
    """A sentence on entries of a container that cannot be read, where there are any."""
    if not refused:
        return []
    path, reason = min(refused.items())
    return [f"{len(refused):,} entries cannot be read, one of them {printable(path)[:80]!r}: {reason}"]


def looks_raw(entries: Sequence[str]) -> bool:
    """Whether a sorted listing holds any trial."""
    return bool(_trial_folders(_without_resource_forks(entries)[0]))


def _without_resource_forks(entries: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Entries without the files that a Mac puts beside others, and those files."""
    if not any(map(_RESOURCE_FORK.search, entries)):
        return entries, []
    kept = [entry for entry in entries if not _RESOURCE_FORK.search(entry)]
    return kept, [entry for entry in entries if entry[-1] != "/" and _RESOURCE_FORK.search(entry)]


def _trial_folders(entries: Sequence[str]) -> set[str]:
    """Folders that hold what a trial holds, or are named like one; `entries` are sorted."""
    folders: set[str] = set()
    position = 0
    while position < len(entries):
        parts = entries[position].split("/")
        position += 1
        for depth, part in enumerate(parts[:-1]):
            inside = parts[depth + 1] if depth + 1 < len(parts) else ""
            below = depth + 2 < len(parts)
            named = _TRIAL_NAME.fullmatch(part) is not None
            if named or (below and _CHECKPOINT_FOLDER.fullmatch(inside)) or (not below and inside in _TRIAL_FILES):
                folder = "/".join(parts[: depth + 1]) + "/"
                folders.add(folder)
                if named:  # what lies in it tells nothing more
                    position = _end_of(folder, entries)
                break
    # A params.json that lies beside the trials makes their common folder no trial.
    ordered = [*sorted(folders), ""]  # what lies in a folder follows it
    return {path for path, after in itertools.pairwise(ordered) if not after.startswith(path)}


def _end_of(folder: str, entries: Sequence[str]) -> int:
    """Where sorted entries leave a folder, whose path ends with a slash."""
    return bisect_left(entries, f"{folder[:-1]}0")  # the character behind the slash


@lru_cache(maxsize=256)
def _contents_of(entries: tuple[str, ...]) -> Contents:
    """Classify the entries below a trial's folder."""
    files: set[str] = set()
    checkpoints: dict[int, str | None] = {}
    others: dict[int, list[str]] = {}
    stray: list[str] = []
    for entry in entries:
        head, slash, inside = entry.partition("/")
        epoch = checkpoint_number(head) if slash else None
        if not slash:
            if entry:
                files.add(entry)
                if not _EXPECTED_TRIAL_FILES.fullmatch(entry):
                    stray.append(entry)
        elif epoch is None:
            if inside:
                stray.append(entry)
        elif inside != CHECKPOINT_FILE:
            checkpoints.setdefault(epoch, None)
            if inside and not _EXPECTED_CHECKPOINT_FILES.fullmatch(inside):
                stray.append(entry)
                others.setdefault(epoch, []).append(entry)
        elif checkpoints.get(epoch) is not None:
            stray.append(entry)  # checkpoint_5 beside checkpoint_000005
        else:
            checkpoints[epoch] = entry
    renamed: set[str] = set()
    for epoch, candidates in others.items():
        if checkpoints[epoch] is None and (file := _weights_file(candidates)) is not None:
            checkpoints[epoch] = file
            stray.remove(file)
            renamed.add(file.partition("/")[2])
    return Contents(files=frozenset(files), checkpoints=checkpoints, stray=tuple(stray), renamed=frozenset(renamed))


def _weights_file(entries: Sequence[str]) -> str | None:
    """The one file of a checkpoint's folder that holds weights by its name; None where none or several do."""
    matches = {entry: match for entry in entries if (match := _WEIGHTS_FILE.fullmatch(entry.partition("/")[2]))}
    if len(matches) > 1:
        matches = {entry: match for entry, match in matches.items() if match["plain"]}
    return next(iter(matches)) if len(matches) == 1 else None


def read_json(data: bytes) -> dict[str, Any]:
    """A JSON object; whole numbers too long for an int are text.

    Raises:
        CheckpointError: if the text is not a JSON object.
    """
    try:
        value = parse_json(data, long_numbers=True)
    except DocumentError as error:
        text = instead(data[:BEGINNING])
        raise CheckpointError(f"it {text}" if text else str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"it holds a {type(value).__name__}, expected a JSON object")
    return value


def contradictions(file: str, params: Mapping[str, Any], network: NetworkKind) -> list[Note]:
    """Notes where a file of hyperparameters contradicts the tensors, which take precedence."""
    texts = []
    for key, truth in (("model::o_dim", network.classes), ("model::channels_in", network.in_channels)):
        if isinstance(params.get(key), int) and params[key] != truth:
            texts.append(f"{file} says {key} = {shown(params[key])}, the tensors {truth}")
    if params.get("model::use_bias") is False:
        texts.append(f"{file} says model::use_bias = false, the tensors have biases")
    return [Note("import-contradiction", text) for text in texts]


def grid_of(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The different values of each hyperparameter, in ascending order."""
    names = ("activation", "init", "dropout", "optimizer", "lr", "weight_decay")
    return {name: sorted({row[name] for row in columns} - {None}) for name in names}
