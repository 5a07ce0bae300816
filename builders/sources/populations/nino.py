"""The trajectories that NiNo learns from: memory maps of float16, without a header (Knyazev et al.: Accelerating
Training with Neuron Interaction and Nowcasting Networks, ICLR 2025)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import Slices
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Container, OneFile
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing
from zoo_datasets.documents import brief, read_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError
from zoo_datasets.networks.layers import Activate, Conv, GlobalAveragePool, Layer, Linear, build_layout
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.layout import TensorKind, WeightLayout
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.populations import NINO
from zoo_datasets.repository.row import further_column

ENDING, _METRICS = ".dat", "_metrics.dat"
_MAX_FILE = 1 << 44
_ITEM = 2  # bytes of float16
_STATES = "states"
_MAX_STATES = 1 << 32
_FURTHER = (
    further_column("trajectory", "int64", "number of the trajectory in the files"),
    further_column("state", "int64", "number of the state in its trajectory"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One of the authors' tasks, which the name of a file tells.

    Attributes:
        parts: endings of the names of its files, which hold as many trajectories each.
        states: of a trajectory.
        every: optimizer steps from one to the next.
        record: makes the network.
        metrics: columns of the file of figures.
        columns: of all rows.
    """

    name: str
    parts: tuple[str, ...] = ("",)
    trajectories: int
    states: int
    every: int
    record: Callable[[], NetworkRecord]
    metrics: tuple[str, ...]
    columns: Mapping[str, Any]


def _in_float16(layout: WeightLayout) -> WeightLayout:
    entries: list[tuple[str, tuple[int, ...], str, TensorKind, str | None]] = [
        (spec.name, spec.shape, "float16", spec.kind, None) for spec in layout.tensors
    ]
    return WeightLayout.of_dtypes(entries)


def _vision(channels: int) -> Callable[[], NetworkRecord]:
    @lru_cache(maxsize=1)
    def record() -> NetworkRecord:
        layers: tuple[Layer, ...] = (
            Conv("fc.0", channels, 16, 3, 2),
            Activate("relu"),
            Conv("fc.2", 16, 32, 3, padding=1),
            Activate("relu"),
            Conv("fc.4", 32, 32, 3, padding=1),
            Activate("relu"),
            GlobalAveragePool(),
            Linear("fc.8", 32, 10),
        )
        return NetworkRecord(_in_float16(build_layout(layers)), json.dumps(layers_to_json(layers)))

    return record


def _language(size: int) -> Callable[[], NetworkRecord]:
    @lru_cache(maxsize=1)
    def record() -> NetworkRecord:
        return NetworkRecord(_in_float16(WeightLayout.of([("parameters", (size,), "parameter")])))

    return record


_OF_IMAGES: Final = ("test_loss", "test_acc", "train_loss", "train_acc")
_ADAM: Final = {"optimizer": "adam", "classes": 10, "activation": "relu", "task": "classification"}
_TASKS: Final = (
    _Task(
        name="fm-16", trajectories=300, states=2688, every=4, record=_vision(1), metrics=_OF_IMAGES,
        columns=_ADAM | {"images": "fashion_mnist", "in_channels": 1, "lr": 6e-3},
    ),
    _Task(
        name="c10-16", trajectories=300, states=2513, every=4, record=_vision(3), metrics=_OF_IMAGES,
        columns=_ADAM | {"images": "cifar10", "in_channels": 3, "lr": 3e-3},
    ),
    *(
        _Task(
            name=f"lm1b-{name}", parts=("_p1", "_p2"), trajectories=100, states=124, every=200, record=_language(size),
            metrics=("train_loss",), columns={"images": "lm1b", "task": "language"},
        )
        for name, size in (("3-24", 1_252_464), ("2-32", 1_666_464))
    ),
)  # fmt: skip


def _tasks_of(names: Sequence[str]) -> list[tuple[_Task, list[str]]]:
    """The tasks that files are of, by their names, each with its files in order."""
    here = {path.rsplit("/", 1)[-1].lower(): path for path in names}
    files_of = [
        (task, [here[name] for part in task.parts if (name := f"{task.name}{part}{ENDING}") in here]) for task in _TASKS
    ]
    return [(task, files) for task, files in files_of if files]


def _config(task: _Task) -> str:
    return f"nino_{task.name}"


def is_nino(place: Place) -> bool:
    """Whether a place holds trajectories of NiNo: files that are called as its tasks."""
    if isinstance(place, Path):
        if place.is_file():
            return bool(_tasks_of([place.name]))
        if not place.is_dir():
            return False
        with os.scandir(place) as listing:
            return bool(_tasks_of([one.name for one in listing if one.name.lower().endswith(ENDING) and one.is_file()]))
    return bool(_tasks_of(place.entries))


class NinoSource(ListedSource):
    """The trajectories of one task in a folder or an archive, read in place."""

    kind = "NiNo"
    credit = NINO

    def __init__(self, container: Container, task: _Task, files: Sequence[str], reading: Reading) -> None:
        self._container = container
        self._task = task
        self._record = task.record()
        self._row_bytes = _ITEM * self._record.layout.size
        container.prepare(files, _MAX_FILE)
        self._files = list(files)
        self._notes = Notes()
        self._states = task.states if reading.state_dicts.layout is None else _states_of(reading.state_dicts.layout)
        listing = self._listed()
        super().__init__(reading.name or _config(task), listing, reading, container.fingerprint())

    @classmethod
    def open(cls, place: Place, reading: Reading) -> NinoSource:
        """The one task in a folder or an archive, or that of a file.

        Raises:
            SourceError: if there are several, or a file is no whole number of states.
        """
        wanted: list[str] | None = None
        if isinstance(place, Path):
            if place.is_file():
                wanted, place = [place.name], _Beside(place)
            else:
                place = open_container(place, reading.num_proc)
        tasks = _tasks_of(wanted or place.entries)
        named = [task for task in tasks if _config(task[0]) == reading.name]
        tasks = named or tasks
        if len(tasks) > 1:
            names = ", ".join(_config(task) for task, _ in tasks)
            raise SourceError(f"{place.name} holds trajectories of several tasks; choose one by --name, one of {names}")
        ((task, files),) = tasks
        return cls(place, task, files, reading)

    def _listed(self) -> Listing:
        """Every state by its place: trajectory by trajectory, file by file."""
        counts = [self._count(path) for path in self._files]
        self._starts = np.cumsum([0, *counts])
        rows = np.arange(self._starts[-1])
        part = np.searchsorted(self._starts, rows, side="right") - 1
        inside = rows - self._starts[part]
        first = [self._first_trajectory(path) for path in self._files]
        trajectory = np.array(first)[part] + inside // self._states
        state = inside % self._states
        columns: dict[str, pa.Array] = {
            "model_id": pa.array([f"{self._task.name}/{number:05d}" for number in trajectory.tolist()], pa.string()),
            "epoch": pa.array(np.zeros(len(rows), np.int32)),
            "layout": pa.array([self._record.hash] * len(rows), pa.string()),
            "step": pa.array((state * self._task.every).astype(np.int64)),
            "trajectory": pa.array(trajectory.astype(np.int64)),
            "state": pa.array(state.astype(np.int64)),
        }
        columns["group"] = columns["model_id"]
        kinds = {str: pa.string(), float: pa.float64(), int: pa.int32()}
        for name, value in self._task.columns.items():
            columns[name] = pa.array([value] * len(rows), kinds[type(value)])
        columns |= self._figures(trajectory * self._states + state)
        described = {
            "folder": self._container.name,
            "remarks": [
                f"step is {self._task.every} × the number of the state; epochs are not told and are 0",
                f"the file has no header: it is taken trajectory by trajectory, {self._states:,} states each",
                "weights are the stored float16 numbers; the tensors are named and shaped as in the published code"
                if self._record.layers is not None
                else "weights are the stored float16 numbers, all parameters as one tensor in the order of "
                "named_parameters()",
            ],
        }
        return Listing(
            table=pa.table(columns), records={self._record.hash: self._record}, further=_FURTHER, notes=self._notes,
            described=described,
        )  # fmt: skip

    def _count(self, path: str) -> int:
        """How many states a file holds."""
        try:
            with self._container.opened(path, _MAX_FILE) as data:
                size = len(data)
        except CheckpointError as error:
            raise SourceError(f"{path}: {error}") from error
        if not size or size % self._row_bytes:
            raise SourceError(
                f"{path} has {size:,} bytes, no whole number of states of {self._record.layout.size:,} float16 "
                "numbers; it is cut short or something else"
            )
        count = size // self._row_bytes
        if count % self._states:
            text = (
                f"{path} holds {count:,} states, no whole trajectories of {self._states:,}: the last one is taken as "
                'cut short; --layout FILE with {"states": N} tells another number'
            )
            self._notes.add([Note("nino-cut-short", text, whole=True)])
        return count

    def _first_trajectory(self, path: str) -> int:
        """The number of the first trajectory of a file among those of all parts."""
        part = next(part for part in self._task.parts if path.lower().endswith(f"{self._task.name}{part}{ENDING}"))
        return self._task.parts.index(part) * self._task.trajectories

    def _figures(self, places: NDArray[np.int64]) -> dict[str, pa.Array]:
        """The columns of the file of figures at places [states] of its rows; null beyond its end, none without one."""
        name = f"{self._task.name}{_METRICS}"
        path = next((path for path in self._container.entries if path.rsplit("/", 1)[-1].lower() == name), None)
        if path is None:
            self._notes.add(
                [Note("nino-no-figures", f"there is no {name}: losses and accuracies are null", whole=True)]
            )
            return {}
        width = len(self._task.metrics)
        try:
            self._container.prepare([path], _MAX_FILE)
            with self._container.opened(path, _MAX_FILE) as data:
                values = np.frombuffer(data[: len(data)], "<f2").astype(np.float32)
        except CheckpointError as error:
            raise SourceError(f"{path}: {error}") from error
        if len(values) % width:
            raise SourceError(f"{path} holds {len(values):,} numbers, no whole number of {width} a state")
        values = values.reshape(-1, width)
        inside = places < len(values)
        if not inside.all():
            text = f"{path} ends before {(~inside).sum():,} states, whose figures are null"
            self._notes.add([Note("nino-no-figures", text, whole=True)])
        taken = values[np.where(inside, places, 0)]
        columns = {}
        for number, column in enumerate(self._task.metrics):
            one = taken[:, number]
            known = inside & np.isfinite(one)
            percent = column.endswith("acc") and one.max(initial=0, where=known) > 1
            columns[column] = pa.array(one / np.float32(100) if percent else one, pa.float32(), mask=~known)
        return columns

    def label(self, number: int) -> str:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return f"{self._files[part]}[{number - int(self._starts[part])}]"

    def read_rows(self, numbers: Sequence[int], record: NetworkRecord) -> tuple[NDArray[np.float32], dict[int, str]]:
        weights = np.empty((len(numbers), record.layout.size), np.float32)
        reasons: dict[int, str] = {}
        wanted = np.array(numbers, np.int64)
        parts = np.searchsorted(self._starts, wanted, side="right") - 1
        # Rows that follow each other in a file are read at once.
        cuts = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(parts) != 0)) + 1
        for run in np.split(np.arange(len(wanted)), cuts):
            path = self._files[parts[run[0]]]
            start = int(wanted[run[0]] - self._starts[parts[run[0]]]) * self._row_bytes
            try:
                with self._container.opened(path, _MAX_FILE) as data:
                    stored = data[start : start + len(run) * self._row_bytes]
                if len(stored) != len(run) * self._row_bytes:
                    raise CheckpointError("it is shorter than when it was first read; was it changed meanwhile?")
                weights[run] = np.frombuffer(stored, "<f2").reshape(len(run), -1)
            except CheckpointError as error:
                reasons |= dict.fromkeys(run.tolist(), str(error))
        return np.delete(weights, list(reasons), axis=0) if reasons else weights, reasons


class _Beside(OneFile):
    """A file, and that of its figures, which lies beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        figures = path.with_name(f"{_tasks_of([path.name])[0][0].name}{_METRICS}")
        self._figures = OneFile(figures) if figures.is_file() else None
        self.entries = [path.name, figures.name] if self._figures is not None else [path.name]

    @contextlib.contextmanager
    def opened(self, path: str, limit: int) -> Iterator[Slices]:
        """The bytes of one of the two; see `Container.opened`."""
        beside = self._figures if path != self.entries[0] else None
        with super().opened(path, limit) if beside is None else beside.opened(path, limit) as data:
            yield data

    def fingerprint(self) -> str:
        """Changes with the sizes of the files and the times at which they were written."""
        return super().fingerprint() + ("" if self._figures is None else self._figures.fingerprint())


def _states_of(path: Path) -> int:
    """The states of a trajectory, as a user's file says.

    Raises:
        SourceError: if it does not.
    """
    try:
        value = read_json(path)
    except (OSError, DocumentError) as error:
        raise SourceError(f"--layout {path} could not be read: {brief(str(error))}") from error
    states = value.get(_STATES) if isinstance(value, dict) else None
    if isinstance(states, bool) or not isinstance(states, int) or not 0 < states < _MAX_STATES:
        raise SourceError(f'--layout {path}: found {brief(value)}, expected {{"states": N}}, those of a trajectory')
    return states
