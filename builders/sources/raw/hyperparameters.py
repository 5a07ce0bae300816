"""The hyperparameters of one model from third-party files: flat, nested, as text or as printed objects.

A value that is present but not understood is never replaced: it becomes null, with a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoo_datasets.builders.shards.notes import Note, shown
from zoo_datasets.builders.sources.raw.figures import number
from zoo_datasets.builders.sources.raw.names import COLUMN_OF_KEY, TEXT_COLUMNS, WHOLE_COLUMNS, trial_name_values
from zoo_datasets.errors import CheckpointError
from zoo_datasets.networks.layers import ACTIVATIONS
from zoo_datasets.specs.names import names_of
from zoo_datasets.stacked.optimizers import OPTIMIZERS

MISSING = "import-hyperparameter-missing"
_DEPTH = 8
_MOST_KEYS = 10_000
# What others put around hyperparameters, Ray Train and wandb among them.
_WRAPPERS = frozenset(
    {"train_loop_config", "param_space", "config", "cfg", "params", "hparams", "hyperparameters", "hyper_parameters"}
)
_SECTIONS = ("", "model::", "optim::", "optimizer::", "training::", "train::", "trainer::")
# Other names of a column, by themselves or in a section.
_OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "activation": ("nlin", "activation", "nonlinearity"),
    "init": ("init_type", "init", "initialization", "initialisation"),
    "dropout": ("dropout", "dropout_rate"),
    "optimizer": ("optimizer", "optim"),
    "lr": ("lr", "learning_rate"),
    "weight_decay": ("wd", "weight_decay"),
    "momentum": ("momentum",),
    "batch_size": ("batchsize", "batch_size"),
    "seed": ("seed", "random_seed"),
}
_KEYS: Mapping[str, Sequence[str]] = {
    column: [key, *(f"{section}{name}" for section in _SECTIONS for name in _OTHER_NAMES[column])]
    for key, column in COLUMN_OF_KEY.items()
}
_NAMES_OF_OBJECTS = ("name", "type", "value", "_target_")
# What Python prints of classes, functions, modules and optimizers.
_PRINTED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<class '(?:[\w.]+\.)?(\w+)'>",
        r"<(?:built-in )?(?:function|method) (?:[\w.]+\.)?(\w+?)_? (?:at 0x[0-9a-f]+|of .*)>",
        r"(?:\w+\.)*(\w+?)_?\(\)",
        r"(?:\w+\.)*(relu)\(inplace=(?:true|false)\)",
        r"(?:\w+\.)*(gelu)\(approximate='none'\)",
        r"(\w+) \(\s*parameter group .*",
        r"(?:[a-z_]\w*\.)+([a-z_]\w*?)_?",
    )
)
_TEXT = re.compile(r"[\w .,:+/()-]{1,60}")
_LIMITS: Mapping[str, tuple[float, float]] = {
    "seed": (-(2**63), 2**63 - 1),
    "batch_size": (1, 2**31 - 1),
    "dropout": (0, 1),
    "lr": (0, math.inf),
    "weight_decay": (0, math.inf),
    "momentum": (0, math.inf),
}


def flattened(value: Mapping[str, Any]) -> dict[str, Any]:
    """All values of nested objects by `section::name`, in lower case, without wrapper sections.

    An object stands under its own name too. Of two values of one name, the less deeply nested one counts.
    """
    flat: dict[str, Any] = {}
    level: list[tuple[tuple[str, ...], Any]] = [((), value)]
    for _ in range(_DEPTH):
        below: list[tuple[tuple[str, ...], Any]] = []
        for path, mapping in level:
            for key, one in mapping.items():
                parts = (*path, *(part for part in re.split(r"::|[./]", str(key).strip().lower()) if part))
                while len(parts) > 1 and parts[0] in _WRAPPERS:
                    parts = parts[1:]
                if isinstance(one, dict):
                    below.append((() if parts and parts[0] in _WRAPPERS else parts, one))
                if parts and len(flat) < _MOST_KEYS:
                    flat.setdefault("::".join(parts), one)
        level = below
    return flat


def columns_of(
    files: Iterable[tuple[str, Mapping[str, Any]]], trial_name: str, defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Note]]:
    """The hyperparameter columns of a model, None if missing or not understood, and notes about them.

    Args:
        files: the name of each file with its flattened hyperparameters; the first that has a value counts.
        trial_name: of the model's folder, which holds some.
        defaults: what is the same in all of a zoo, where it is known to be that zoo.

    Raises:
        CheckpointError: if its activation, on which its network depends, is missing or unknown.
    """
    notes: list[Note] = []
    named = trial_name_values(trial_name)
    columns: dict[str, Any] = {}
    taken: list[str] = []
    missing: list[str] = []
    for column in COLUMN_OF_KEY.values():
        place, value = _first(column, files)
        if value is None and column in named:
            place, value = "the folder's name", named[column]
        columns[column] = None if value is None else understood(column, value)
        if value is not None and columns[column] is None:
            _refuse_activation(column, value)
            notes.append(_unread(column, place, value))
        elif value is None and place and column == "dropout":  # it is there as null, which means none
            columns[column] = 0.0
        elif value is None:
            columns[column] = None if place else defaults.get(column)
            (missing if columns[column] is None else taken).append(column)
    if not _has_momentum(columns["optimizer"]):
        columns["momentum"] = None
        notes = [note for note in notes if not note.text.startswith("momentum")]
    taken = [column for column in taken if columns[column] is not None]
    missing = [column for column in missing if column != "momentum"]
    if columns["activation"] is None:
        raise CheckpointError(
            f"nothing tells its {', '.join(missing)} (not params.json, config.json, result.json or the folder's name), "
            "and its network depends on the activation"
        )
    if columns["activation"] not in ACTIVATIONS:
        _refuse_activation("activation", columns["activation"])
    if taken:
        text = f"{', '.join(taken)} not in any file of the model: taken from the published zoo that it belongs to"
        notes.append(Note("import-zoo-defaults", text))
    if missing:
        notes.append(Note(MISSING, f"nothing tells its {', '.join(missing)}: null"))
    return columns, notes


def _has_momentum(optimizer: str | None) -> bool:
    """Whether a momentum means something: as the table says; of optimizers that are not ours, whether it is no Adam."""
    if optimizer in OPTIMIZERS:
        return OPTIMIZERS[optimizer].momentum
    return not (optimizer or "").startswith("adam")


def understood(column: str, value: Any) -> Any:
    """A value in the type of its column; None if it is not understood."""
    if isinstance(value, dict):
        names = [value[name] for name in _NAMES_OF_OBJECTS if isinstance(value.get(name), (str, int, float))]
        return understood(column, names[0]) if names else None
    if column in TEXT_COLUMNS:
        return value if value in names_of(column) else _text(value)
    numeric = number(value)
    if numeric is None or not math.isfinite(numeric):
        return None
    low, high = _LIMITS[column]
    if column in WHOLE_COLUMNS:
        if numeric != int(numeric):
            return None
        exact = int(value) if isinstance(value, int) or re.fullmatch(r"\s*[+-]?\d+\s*", str(value)) else int(numeric)
        return exact if low <= exact <= high else None
    return numeric if low <= numeric <= high else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    for pattern in _PRINTED:
        if match := pattern.fullmatch(text):
            return match[1]
    return text if _TEXT.fullmatch(text) else None


def _first(column: str, files: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[str, Any]:
    """The first file that has a value of a column, and the value; if files only hold null, None."""
    null = ""
    for file, values in files:
        for key in _KEYS[column]:
            if key in values:
                if values[key] is not None and not _is_section(values[key]):
                    return f"{file} ({key})", values[key]
                null = null or (file if values[key] is None else "")
    return null, None


def _is_section(value: Any) -> bool:
    """Whether an object groups hyperparameters instead of being one, as `optim` of a nested file."""
    return isinstance(value, dict) and not any(name in value for name in _NAMES_OF_OBJECTS) and _sections_of(value)


def _sections_of(value: Mapping[str, Any]) -> bool:
    column_names = {name for names in _OTHER_NAMES.values() for name in names}
    return any(str(key).strip().lower() in column_names for key in value)


def _unread(column: str, place: str, value: Any) -> Note:
    return Note("import-hyperparameter-unread", f"{column} is not understood: {place} says {shown(value)}; null")


def _refuse_activation(column: str, value: Any) -> None:
    if column == "activation":
        text = repr(value[:40]) if isinstance(value, str) and value.isprintable() else shown(value)
        raise CheckpointError(f"its activation is {text}; known are {', '.join(ACTIVATIONS)}")
