"""The result.json of one trial of a raw zoo: its reports, cleaned, and the checkpoints that they name."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import SchemaValidator, core_schema, from_json

from zoo_datasets.builders.shards.notes import Note, shown
from zoo_datasets.builders.sources.raw.figures import REPORTED, Figures, cleaned, number, usual
from zoo_datasets.documents import parse_json
from zoo_datasets.errors import DocumentError
from zoo_datasets.repository.row import FIGURES
from zoo_datasets.specs.bounds import MAX_EPOCH

# What counts reports: Ray's name, and that of later zoos, which count from 0 after the first epoch.
ITERATION, EPOCH = "training_iteration", "epoch"
_CHECKPOINT_FOLDER = re.compile(r"checkpoint_(\d{1,9})", re.ASCII)
# What Ray and the authors' code report beside figures.
_NO_FIGURES = frozenset(
    {
        *REPORTED, "training_iteration", "config", "epoch", "step", "seed", "ggap", "lr", "learning_rate", "timestamp",
        "date", "pid", "trial_id", "trial_num", "experiment_id", "experiment_tag", "run_id", "hostname", "node_ip",
        "done", "should_checkpoint", "checkpoint_dir_name", "warmup_time", "auto_garbage_collect", "perf",
        "time_this_iter_s", "time_total_s", "time_since_restore", "timesteps_total", "timesteps_this_iter",
        "timesteps_since_restore", "iterations_since_restore", "episodes_total", "episodes_this_iter",
    }
)  # fmt: skip
_BY_EPOCH = Note(
    "import-counted-by-epoch",
    "result.json counts reports by epoch, not training_iteration: epochs are the authors' own, of which 0 may be after "
    "the first epoch of training",
)
_NAMED = 10  # names of unknown figures in a note


def checkpoint_number(folder: str) -> int | None:
    """The number in a checkpoint folder's name; None if it is not one."""
    match = _CHECKPOINT_FOLDER.fullmatch(folder)
    number = -1 if match is None else int(match[1])
    return number if 0 <= number <= MAX_EPOCH else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What a result.json reports.

    Attributes:
        epochs: for each `training_iteration`, or `epoch` where no line has that, the values of `FIGURES` and the
            sparsity; None if missing.
        named: where reports name checkpoints, of each by its number: the iteration, and what was reported.
        broken: lines that are not a JSON object with what counts them, the half one of a killed trial included.
        notes: irregularities of the file.
    """

    epochs: Mapping[int, Figures]
    named: Mapping[int, tuple[int, Figures]] = field(default_factory=dict)
    broken: int = 0
    notes: tuple[Note, ...] = ()


# What is read of a line of result.json; most of it is the config, again and again, which becomes no objects.
_LINE = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            name: core_schema.typed_dict_field(core_schema.any_schema(), required=False)
            for name in (ITERATION, EPOCH, "checkpoint_dir_name", *REPORTED)
        }
    )
)


def parse_results(data: bytes, *, twins: bool = False) -> Results:
    """Read a result.json: JSON lines, the last report of an iteration counts.

    Args:
        twins: whether the losses are those of variational dropout, which may be below 0.
    """
    reports: list[tuple[Any, ...]] = []
    last_of: dict[int, int] = {}  # of each iteration, the place of its last report
    named: dict[int, tuple[int, int]] = {}
    broken = 0
    clean = True
    counter = ITERATION if f'"{ITERATION}"'.encode() in data else EPOCH
    parse = _LINE.validate_json
    first = last = b""
    for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n"):
        if not line or line.isspace():
            continue
        try:
            value = parse(line).get
        except ValueError:
            value = parsed_by_python(line).get
        epoch = _epoch(value(counter))
        if epoch is None:
            broken += 1
            continue
        first, last = first or line, line
        figures = tuple(map(value, REPORTED))
        clean = clean and usual(figures)
        last_of[epoch] = len(reports)
        if (place := _named(value("checkpoint_dir_name"))) is not None:
            named[place] = (epoch, len(reports))
        reports.append(figures)
    rows: Mapping[int, Figures] = dict(enumerate(reports))
    notes: list[Note] = []
    if not clean:
        rows, notes = cleaned(rows, twins=twins)
    return Results(
        epochs={epoch: rows[place] for epoch, place in last_of.items()},
        named={number: (epoch, rows[place]) for number, (epoch, place) in named.items()},
        broken=broken,
        notes=(
            *notes,
            *_counted(broken, len(reports) - len(last_of)),
            *_unknown(first, last),
            *([_BY_EPOCH] if counter == EPOCH and reports else []),
        ),
    )


def _named(name: Any) -> int | None:
    """The number of the checkpoint that a report names; it may be a path."""
    return checkpoint_number(re.split(r"[\\/]", name.rstrip("\\/"))[-1]) if isinstance(name, str) else None


def last_config(data: bytes) -> dict[str, Any]:
    """The hyperparameters that the last whole line of a result.json repeats; empty where there are none."""
    for line in reversed(data.split(b"\n")):
        config = parsed_by_python(line).get("config") if line else None
        if isinstance(config, dict):
            return config
    return {}


# Of a config in a line of result.json, which is mostly not looked at.
_DEEPEST_CONFIG = 500


def parsed_by_python(line: bytes) -> dict[str, Any]:
    """A line that the faster parser refuses, e.g. for half a surrogate pair in a path; empty if it is not an object."""
    try:
        value = parse_json(line, depth=_DEEPEST_CONFIG)
    except DocumentError:
        return {}
    return value if isinstance(value, dict) else {}


def _counted(broken: int, repeated: int) -> Iterable[Note]:
    if broken:
        yield Note("import-half-line", "result.json ends in half a line or holds lines that are not reports")
    if repeated:
        yield Note(
            "import-repeated-report", "result.json reports epochs again (a resumed trial); the last report counts"
        )


def _unknown(*lines: bytes) -> list[Note]:
    """A note about figures under unknown names in a few lines."""
    names: dict[str, None] = {}
    for report in map(_parsed, {line: None for line in lines if line}):
        for name, value in report.items():
            if name in _NO_FIGURES or name.startswith("time"):
                continue
            inside = value.items() if isinstance(value, dict) else ()
            names |= {f"{name}/{below}": None for below, one in inside if number(one) is not None}
            if number(value) is not None:
                names[name] = None
    if not names:
        return []
    listed = ", ".join(shown(name)[1:-1] for name in list(names)[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [
        Note(
            "import-unknown-figures",
            f"result.json holds figures under unknown names, which were not read: {listed}{more}; "
            f"known are {', '.join(FIGURES)}",
        )
    ]


def _parsed(line: bytes) -> dict[str, Any]:
    """The whole of a line."""
    try:
        value = from_json(line)
    except ValueError:
        return parsed_by_python(line)
    return value if isinstance(value, dict) else {}


def _epoch(value: Any) -> int | None:
    if type(value) is int and 0 <= value <= MAX_EPOCH:
        return value
    numeric = number(value)
    if numeric is None or not 0 <= numeric <= MAX_EPOCH:
        return None
    return int(numeric) if numeric == int(numeric) else None
