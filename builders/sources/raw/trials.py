"""One trial of a raw zoo: its folder, its params.json and its result.json, with their traps."""

from __future__ import annotations

import codecs
import itertools
import math
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pydantic_core import SchemaValidator, core_schema

from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.sources.raw.names import COLUMN_OF_KEY, TEXT_COLUMNS, WHOLE_COLUMNS, read_trial_name
from zoo_datasets.documents import parse_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError
from zoo_datasets.networks.layers import ACTIVATIONS
from zoo_datasets.repository.row import FIGURES
from zoo_datasets.specs.spec import MAX_EPOCH

CHECKPOINT_FILE = "checkpoints"

_REPORTED = (*FIGURES, "sparsity_ratio")
_SHARES = frozenset(name for name in _REPORTED if not name.endswith("loss"))
_shares = itemgetter(*(place for place, name in enumerate(_REPORTED) if name in _SHARES))
_USUAL = frozenset((float, type(None)))
_CHECKPOINT_FOLDER = re.compile(r"checkpoint_(\d{1,9})")
_TRIAL_NAME = re.compile(r".*tune_trainable.*")
_TRIAL_FILES = ("params.json", "result.json", "params.pkl", "progress.csv")
_ZOO_FILES = ("config.json", "index_dict.json", "dataset.pt", "readme.md", "README.md")
_EXPECTED_TRIAL_FILES = re.compile(r"params\.(json|pkl)|result\.json|progress\.csv|events\.out.*|error\.(txt|pkl)|\..*")
_EXPECTED_CHECKPOINT_FILES = re.compile(r"checkpoints|optimizer|\..*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What lies in the folder of a trial, by paths relative to it.

    Attributes:
        checkpoints: the file of each epoch; None where a checkpoint folder holds none.
        stray: what is no part of a trial.
    """

    files: frozenset[str]
    checkpoints: Mapping[int, str | None]
    stray: tuple[str, ...]


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
        """Path of an epoch's checkpoint inside the container; None where its folder holds none, or there is none."""
        file = self.contents.checkpoints.get(epoch)
        return None if file is None else f"{self.path}{file}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFolder:
    """A raw zoo inside a container: its folder, its trials by name, and what is neither."""

    name: str
    path: str
    files: frozenset[str]
    trials: tuple[Trial, ...]
    stray: tuple[str, ...]


def find_zoo(container: Container) -> RawFolder:
    """The one zoo that a container holds.

    Raises:
        SourceError: where it holds none, or several.
    """
    entries = container.entries
    folders = _trial_folders(entries)
    roots = {path[: path.rstrip("/").rfind("/") + 1] for path in folders}
    if not roots:
        raise SourceError(
            f"{container.name} holds no raw zoo: no folder in it has checkpoint_… folders, params.json or result.json"
        )
    if len(roots) > 1:
        names = ", ".join(sorted(root or "." for root in roots)[:5])
        raise SourceError(f"{container.name} holds {len(roots)} zoos ({names}); build each from its own folder")
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
    stray += set(container.refused).difference(entries)
    name = root.rstrip("/").rsplit("/", 1)[-1] or container.name
    return RawFolder(name=name, path=root, files=frozenset(files), trials=tuple(trials), stray=tuple(sorted(stray)))


def looks_raw(entries: Sequence[str]) -> bool:
    """Whether a sorted listing holds any trial."""
    return bool(_trial_folders(entries))


def _trial_folders(entries: Sequence[str]) -> set[str]:
    """Folders that hold what a trial holds, or are named as one; `entries` are sorted."""
    found: set[str] = set()
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
                found.add(folder)
                if named:  # what lies in it tells nothing more
                    position = _end_of(folder, entries)
                break
    # A params.json that lies beside the trials makes their common folder no trial.
    ordered = [*sorted(found), ""]  # what lies in a folder follows it
    return {path for path, after in itertools.pairwise(ordered) if not after.startswith(path)}


def _end_of(folder: str, entries: Sequence[str]) -> int:
    """Where sorted entries leave a folder, whose path ends with a slash."""
    return bisect_left(entries, f"{folder[:-1]}0")  # the character behind the slash


@lru_cache(maxsize=256)
def _contents_of(entries: tuple[str, ...]) -> Contents:
    """Give all that lies below a trial's folder its place."""
    files: set[str] = set()
    checkpoints: dict[int, str | None] = {}
    stray: list[str] = []
    for entry in entries:
        head, slash, inside = entry.partition("/")
        epoch = epoch_of(head) if slash else None
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
        elif checkpoints.get(epoch) is not None:
            stray.append(entry)  # checkpoint_5 beside checkpoint_000005
        else:
            checkpoints[epoch] = entry
    return Contents(files=frozenset(files), checkpoints=checkpoints, stray=tuple(stray))


def epoch_of(folder: str) -> int | None:
    """The epoch that a checkpoint folder's name tells; None where it is none."""
    match = _CHECKPOINT_FOLDER.fullmatch(folder)
    epoch = -1 if match is None else int(match[1])
    return epoch if 0 <= epoch <= MAX_EPOCH else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What a result.json reports.

    Attributes:
        epochs: for each epoch the values of `FIGURES` and the sparsity; None where it is not told.
        repeated: epochs that were reported more than once; the last report counts.
        broken: lines that are no JSON object with a `training_iteration`, the half one of a killed trial included.
        strange: values that no figure can have, as an accuracy above one; they are None.
    """

    epochs: Mapping[int, tuple[float | None, ...]]
    repeated: int
    broken: int
    strange: int

    def notes(self, checkpoints: Iterable[int]) -> list[str]:
        """What a user should know, given the epochs of which there are checkpoints."""
        told = (
            (self.broken, "result.json ends in half a line or holds lines that are no report"),
            (self.repeated, "result.json reports epochs again (a resumed trial); the last report counts"),
            (self.strange, "result.json holds values that cannot be, as an accuracy above 1; they are null"),
            (
                any(epoch not in self.epochs for epoch in checkpoints),
                "result.json does not report every epoch of which there is a checkpoint",
            ),
        )
        return [note for count, note in told if count]


# What is read of a line of result.json; most of it is the config, again and again, which becomes no objects.
_LINE = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            name: core_schema.typed_dict_field(core_schema.any_schema(), required=False)
            for name in ("training_iteration", *_REPORTED)
        }
    )
)


def parse_results(data: bytes) -> Results:
    """Read a result.json: JSON lines, matched to epochs by `training_iteration` alone."""
    epochs: dict[int, tuple[float | None, ...]] = {}
    repeated = broken = strange = 0
    parse = _LINE.validate_json
    for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n"):
        if not line or line.isspace():
            continue
        try:
            value = parse(line).get
        except ValueError:
            value = _parsed_by_python(line).get
        epoch = _epoch(value("training_iteration"))
        if epoch is None:
            broken += 1
            continue
        figures = tuple(map(value, _REPORTED))
        if not _USUAL.issuperset(map(type, figures)) or not all(map(_is_share, _shares(figures))):
            figures, odd = _checked(figures)
            strange += odd
        repeated += epoch in epochs
        epochs[epoch] = figures
    return Results(epochs=epochs, repeated=repeated, broken=broken, strange=strange)


# Of a config in a line of result.json, which is not looked at.
_DEEPEST_CONFIG = 500


def _parsed_by_python(line: bytes) -> dict[str, Any]:
    """A line that the faster parser refuses, as for half a surrogate pair in a path; empty where it is no object."""
    try:
        value = parse_json(line, depth=_DEEPEST_CONFIG)
    except DocumentError:
        return {}
    return value if isinstance(value, dict) else {}


def _checked(figures: Iterable[Any]) -> tuple[tuple[float | None, ...], int]:
    """Figures as numbers or None, and how many were numbers that cannot be."""
    numbers = [_number(figure) for figure in figures]
    odd = [name in _SHARES and not _is_share(number) for name, number in zip(_REPORTED, numbers, strict=True)]
    return tuple(None if strange else number for strange, number in zip(odd, numbers, strict=True)), sum(odd)


def _is_share(figure: float | None) -> bool:
    return figure is None or 0 <= figure <= 1 or figure != figure


def read_json(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: where the text is something else.
    """
    try:
        value = parse_json(data)
    except DocumentError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"it holds a {type(value).__name__}, expected a JSON object")
    return value


def columns_of(params: Mapping[str, Any], trial_name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameter columns of a model: from params.json, else from its folder's name, else from the zoo.

    Raises:
        CheckpointError: naming the columns that nothing tells, or a value that cannot be.
    """
    named = read_trial_name(trial_name)
    columns: dict[str, Any] = {}
    for key, column in COLUMN_OF_KEY.items():
        found = [_column(column, params.get(key)), named.get(column), defaults.get(column)]
        columns[column] = next((value for value in found if value is not None), None)
    if columns["dropout"] is None and "model::dropout" in params:
        columns["dropout"] = 0.0  # null means none
    if columns["optimizer"] != "sgd":
        columns["momentum"] = None
    missing = [column for column, value in columns.items() if value is None and column != "momentum"]
    if missing:
        raise CheckpointError(f"neither params.json nor the folder's name tells its {', '.join(missing)}")
    if columns["activation"] not in ACTIVATIONS:
        raise CheckpointError(f"its activation is {columns['activation'][:40]!r}; known are {', '.join(ACTIVATIONS)}")
    return columns


def contradictions(params: Mapping[str, Any], classes: int, channels: int) -> list[str]:
    """Where params.json says other than the tensors, which are what counts."""
    found = []
    for key, truth in (("model::o_dim", classes), ("model::channels_in", channels)):
        if isinstance(params.get(key), int) and params[key] != truth:
            found.append(f"params.json says {key} = {params[key]}, the tensors {truth}")
    if params.get("model::use_bias") is False:
        found.append("params.json says model::use_bias = false, the tensors have biases")
    return found


def _column(column: str, value: Any) -> Any:
    if column in TEXT_COLUMNS:
        return value.lower() if isinstance(value, str) and value else None
    number = _number(value)
    if number is None or not math.isfinite(number):
        return None
    if column in WHOLE_COLUMNS:
        return int(value) if value == int(value) and abs(value) < 2**31 else None
    return float(value)


def _epoch(value: Any) -> int | None:
    if type(value) is int and 0 <= value <= MAX_EPOCH:
        return value
    number = _number(value)
    if number is None or not math.isfinite(number):
        return None
    return int(number) if number == int(number) and 0 <= number <= MAX_EPOCH else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def grid_of(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The different values of each hyperparameter, in ascending order."""
    names = ("activation", "init", "dropout", "optimizer", "lr", "weight_decay")
    return {name: sorted({row[name] for row in columns}) for name in names}
