"""The checkpoints that G.pt learns from: LMDB folders of runs, saved at random iterations (Peebles et al.: Learning to
Learn with Generative Models of Neural Network Checkpoints, 2022)."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.builders.containers.isolated.lmdb_file import DATA, LmdbFile
from zoo_datasets.builders.containers.isolated.process import Isolated
from zoo_datasets.builders.containers.locate import Place, folders_in
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing, table_of
from zoo_datasets.documents import brief, finite_number, read_json
from zoo_datasets.errors import CheckpointError, DocumentError, SourceError
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import Activate, Conv, GlobalAveragePool, Layer, Linear, build_layout
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.layout import MAX_SIZE, WeightLayout
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.populations import GPT
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import further_column
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.text import counted

RUNS, DONE = "runs.json", "DONE.txt"
_KEY = re.compile(r"(?P<run>[^/]+)/ep(?P<epoch>\d{1,7})_it(?P<iteration>\d{1,9})\.pt")
_ARCH = "_arch"
_MAX_TENSORS = 1000
_TEST_RUNS = 500  # the last ones, in the order of their names
_FIGURES: Final = {"train_loss": "avg_train_loss", "test_loss": "avg_test_loss"}
_ERRORS: Final = {"train_acc": "avg_train_err", "test_acc": "avg_test_err"}
_RETURN = "train_ret"
_FURTHER = (
    further_column("iteration", "int64", "as the name of the checkpoint has it"),
    further_column(_RETURN, "float64", "return of the policy while it was trained, of Cartpole"),
)
_RECIPE: Final = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One of the authors' three populations, known by the sizes of its tensors.

    Attributes:
        iterations: of an epoch.
        columns: of all its rows.
    """

    name: str
    record: NetworkRecord
    iterations: int | None
    columns: Mapping[str, Any]


def _recorded(layers: Sequence[Layer]) -> NetworkRecord:
    return NetworkRecord(build_layout(layers), json.dumps(layers_to_json(layers)))


def _mnist() -> _Task:
    return _Task(
        name="mnist",
        record=_recorded(get_architecture("mlp").layers(1, 10)),
        iterations=60_000 // 128,
        columns=_RECIPE
        | {"images": "mnist", "architecture": "mlp", "in_channels": 1, "classes": 10}
        | {"activation": "relu", "task": "classification"},
    )


def _cifar10() -> _Task:
    layers = (
        Conv("conv1", 3, 16, 3, 2, 1, bias=False),
        Activate("relu"),
        Conv("conv2", 16, 32, 3, 1, 1, bias=False),
        Activate("relu"),
        GlobalAveragePool(),
        Linear("fc", 32, 10),
    )
    return _Task(
        name="cifar10",
        record=_recorded(layers),
        iterations=50_000 // 128,
        columns=_RECIPE | {"images": "cifar10", "in_channels": 3, "classes": 10, "task": "classification"},
    )


def _cartpole() -> _Task:
    shapes: dict[str, tuple[int, ...]] = {"log_std": (1,)}
    for place, (inputs, outputs) in zip((0, 2, 4), ((4, 32), (32, 32), (32, 1)), strict=True):
        shapes |= {f"actor.{place}.weight": (outputs, inputs), f"actor.{place}.bias": (outputs,)}
    return _Task(
        name="cartpole",
        record=NetworkRecord(WeightLayout.of((name, shape, "parameter") for name, shape in shapes.items())),
        iterations=None,
        columns={},
    )


@lru_cache(maxsize=1)
def _tasks() -> Mapping[tuple[int, ...], _Task]:
    """The authors' populations by the numbers of elements of their tensors."""
    tasks = (_mnist(), _cifar10(), _cartpole())
    return {tuple(spec.size for spec in task.record.layout.tensors): task for task in tasks}


@lru_cache(maxsize=256)
def _task_of(sizes: tuple[int, ...]) -> _Task:
    """The population of tensors of these sizes; of other ones, vectors without shapes and a network."""
    if sizes in _tasks():
        return _tasks()[sizes]
    layout = WeightLayout.of((f"tensor{number}", (size,), "parameter") for number, size in enumerate(sizes))
    return _Task(name="", record=NetworkRecord(layout), iterations=None, columns={})


def is_gpt(place: Place) -> bool:
    """Whether a place holds runs of G.pt: folders with an LMDB file and figures."""
    if isinstance(place, Path):
        return place.is_dir() and any(map(_is_run, [place, *folders_in(place)[:1000]]))
    entries = set(place.entries)
    return any(f"{path.removesuffix(DATA)}{RUNS}" in entries for path in entries if path.rsplit("/")[-1] == DATA)


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and (folder / DATA).is_file() and (folder / RUNS).is_file()


@dataclass(frozen=True, slots=True)
class _State:
    """One checkpoint: where it lies, and what its name says."""

    folder: Path
    key: str
    run: str
    epoch: int
    iteration: int
    task: _Task
    figures: Mapping[str, float | None]


class GptSource(ListedSource):
    """The runs of G.pt in folders of this machine.

    Selections of models and epochs are made run by run, before their files are opened.
    """

    kind = "G.pt"
    credit = GPT

    def __init__(self, folder: Path, reading: Reading) -> None:
        self._process = Isolated("lmdb")
        self._notes = Notes()
        self._left_out: list[LeftOut] = []
        folders = [folder] if _is_run(folder) else sorted(path for path in folder.iterdir() if path.is_dir())
        without = [path.name for path in folders if not _is_run(path)]
        if without:
            some = ", ".join(map(brief, without[:3]))
            text = f"{counted(len(without), 'folder')} without {DATA} or {RUNS}, as {some}"
            self._notes.add_counted(Note("gpt-no-run", text, whole=True), len(without))
        folders = [path for path in folders if _is_run(path)]
        runs = [(run, path) for path in folders for run in path.name.split("_")]
        wanted = self._wanted(runs, reading)
        states = [
            state
            for path in folders
            if wanted is None or wanted.intersection(path.name.split("_"))
            for state in self._states_of(path, wanted)
            if reading.epochs is None or state.epoch in reading.epochs
        ]
        if reading.epochs is not None:
            self._left_out = [one for one in self._left_out if reading.epochs.intersection(one.epochs)]
        self._states = states
        tests = {run for run, _ in runs[-_TEST_RUNS:]} if len(runs) > _TEST_RUNS else set()
        listing = self._listing_of(states, tests, folder.resolve().name)
        stamps = [(path.name, (path / name).stat().st_size, (path / name).stat().st_mtime_ns)
                  for path in folders for name in (DATA, RUNS)]  # fmt: skip
        task = states[0].task.name if states else ""
        super().__init__(reading.name or f"gpt_{task or 'runs'}", listing, reading, digest_of(stamps))

    @classmethod
    def open(cls, place: Place, reading: Reading) -> GptSource:
        """The runs in a folder.

        Raises:
            SourceError: if they lie in an archive or elsewhere than on this machine, where LMDB cannot map them.
        """
        if not isinstance(place, Path):
            raise SourceError(
                f"{place.name} holds runs of G.pt as LMDB files, which are mapped into memory and cannot be read in "
                "an archive or from afar; unpack or download it, and build from the folder"
            )
        return cls(place, reading)

    @staticmethod
    def _wanted(runs: Sequence[tuple[str, Path]], reading: Reading) -> set[str] | None:
        """The runs that a number of models leaves, where no condition chooses among all."""
        if reading.models is None or reading.where is not None or reading.state_dicts.where is not None:
            return None
        return {*sorted(run for run, _ in runs)[: reading.models]}

    # what the files say

    def _states_of(self, folder: Path, wanted: set[str] | None) -> Iterator[_State]:
        """The states of the runs of a folder; what is none, or cannot be read, is left out."""
        figures = self._figures_of(folder)
        if not (folder / DONE).is_file():
            self._notes.add([Note("gpt-unfinished", f"its folder has no {DONE}: the run was not finished")])
        try:
            file = LmdbFile(folder / DATA, self._process)
            keys = [key for key in file.sizes if not key.endswith(_ARCH)]
            described = [key for key in keys if f"{key}{_ARCH}" in file.sizes]
            sizes = dict(zip(described, file.values([f"{key}{_ARCH}" for key in described]), strict=True))
        except CheckpointError as error:
            keys = list(figures) or [folder.name]
            for key in keys:
                self._leave_out(f"{folder.name}/{DATA}: {key}" if figures else folder.name, key, str(error))
            return
        for key in keys:
            name = _KEY.fullmatch(key)
            if name is not None and wanted is not None and name["run"] not in wanted:
                continue
            try:
                yield self._state(folder, key, name, sizes.get(key), file.sizes[key], figures)
            except CheckpointError as error:
                self._leave_out(key, key, str(error))
        for key in figures.keys() - set(keys):
            self._leave_out(key, key, f"{RUNS} has its figures, but {DATA} does not hold it")

    def _leave_out(self, shown: str, key: str, reason: str) -> None:
        name = _KEY.fullmatch(key)
        epoch = min(int(name["epoch"]), MAX_EPOCH) if name else 0
        self._left_out.append(LeftOut(model=shown, epochs=(epoch,), reason=reason))

    def _figures_of(self, folder: Path) -> dict[str, Mapping[str, Any]]:
        """What `runs.json` says of each checkpoint, of one run or of several."""
        try:
            value = read_json(folder / RUNS)
        except (OSError, DocumentError) as error:
            self._notes.add([Note("gpt-no-figures", f"its {RUNS} cannot be read ({brief(str(error))}); no figures")])
            return {}
        runs = [value] if isinstance(value, dict) and "checkpoints" in value else []
        if not runs and isinstance(value, dict):
            runs = [run for run in value.values() if isinstance(run, dict)]
        checkpoints = [run.get("checkpoints") for run in runs]
        return {
            key: held if isinstance(held, dict) else {}
            for one in checkpoints
            if isinstance(one, dict)
            for key, held in one.items()
        }

    def _state(
        self,
        folder: Path,
        key: str,
        name: re.Match[str] | None,
        arch: memoryview | None,
        size: int,
        figures: Mapping[str, Mapping[str, Any]],
    ) -> _State:
        if name is None:
            raise CheckpointError("its key is not of the form RUN/epNNN_itNNNNN.pt")
        if int(name["epoch"]) > MAX_EPOCH:
            raise CheckpointError(f"its epoch is beyond {MAX_EPOCH:,}")
        if arch is None:
            raise CheckpointError(f"{DATA} has no {_ARCH} of it, which tells its tensors")
        task = _task_of(_sizes(arch))
        if size != 4 * task.record.layout.size:
            raise CheckpointError(f"it has {size:,} bytes, its {_ARCH} says {4 * task.record.layout.size:,}")
        held = figures.get(key)
        if held is None:
            self._notes.add([Note("gpt-no-figures", f"{RUNS} has no figures of it")])
        numbers = _figures(held or {})
        return _State(folder, key, name["run"], int(name["epoch"]), int(name["iteration"]), task, numbers)

    # the listing

    def _listing_of(self, states: Sequence[_State], tests: set[str], name: str) -> Listing:
        step, derived = _steps(states)
        rows = [
            {
                "model_id": state.run,
                "epoch": state.epoch,
                "step": step(state),
                "iteration": state.iteration,
                "layout": state.task.record.hash,
                "group": state.run,
                "seed": int(state.run) if state.task.columns and _is_number(state.run) else None,
                "source_split": ("test" if state.run in tests else "train") if tests else None,
                **state.task.columns,
                **state.figures,
            }
            for state in states
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        table = table_of({name: [row.get(name) for row in rows] for name in names}, _FURTHER) if rows else _EMPTY
        records = {state.task.record.hash: state.task.record for state in states}
        described = {
            "folder": name,
            "remarks": [
                f"step is {derived}",
                "accuracies are 1 − error / 100; figures of training are of one batch, before its step",
                "SGD with Nesterov momentum, learning rate by a cosine of the epoch, as the published code says",
                f"source_split is test for the last {_TEST_RUNS} runs by name"
                if tests
                else f"source_split is not told, as there are no more than {_TEST_RUNS} runs",
            ],
        }
        return Listing(
            table=table, records=records, further=_FURTHER, left_out=self._left_out, notes=self._notes,
            described=described,
        )  # fmt: skip

    def label(self, number: int) -> str:
        return self._states[number].key

    def read_rows(self, numbers: Sequence[int], record: NetworkRecord) -> tuple[NDArray[np.float32], dict[int, str]]:
        weights = np.empty((len(numbers), record.layout.size), np.float32)
        reasons: dict[int, str] = {}
        by_folder: dict[Path, list[int]] = {}
        for position, number in enumerate(numbers):
            by_folder.setdefault(self._states[number].folder, []).append(position)
        for folder, positions in by_folder.items():
            keys = [self._states[numbers[position]].key for position in positions]
            try:
                file = LmdbFile(folder / DATA, self._process, dict.fromkeys(keys, 4 * record.layout.size))
                for position, value in zip(positions, file.values(keys), strict=True):
                    weights[position] = np.frombuffer(value, "<f4")
            except CheckpointError as error:
                reasons |= dict.fromkeys(positions, str(error))
        good = [position for position in range(len(numbers)) if position not in reasons]
        return weights[good] if reasons else weights, reasons


_EMPTY = pa.table({"model_id": pa.array([], pa.string()), "epoch": pa.array([], pa.int32()),
                   "layout": pa.array([], pa.string())})  # fmt: skip


def _is_number(run: str) -> bool:
    return run.isascii() and run.isdigit() and len(run) <= 18


def _sizes(arch: memoryview) -> tuple[int, ...]:
    """The numbers of elements of a state's tensors, which the files hold as float32.

    Raises:
        CheckpointError: if they are none.
    """
    if len(arch) % 4 or not 0 < len(arch) <= 4 * _MAX_TENSORS:
        raise CheckpointError(f"its {_ARCH} has {len(arch):,} bytes, expected a float32 for each tensor")
    values = np.frombuffer(arch, "<f4").astype(np.float64)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or (values < 1).any():
        raise CheckpointError(f"its {_ARCH} holds what is no number of elements")
    if values.sum() >= MAX_SIZE:
        raise CheckpointError(f"its {_ARCH} says {values.sum():,.0f} elements, less than {MAX_SIZE:,} expected")
    return tuple(values.astype(np.int64).tolist())


def _figures(held: Mapping[str, Any]) -> dict[str, float | None]:
    """Losses, accuracies of errors in percent, and the return of Cartpole."""
    figures = {name: finite_number(held.get(theirs)) for name, theirs in {**_FIGURES, _RETURN: _RETURN}.items()}
    errors = {name: finite_number(held.get(theirs)) for name, theirs in _ERRORS.items()}
    accuracies = {
        name: 1 - error / 100 if error is not None and 0 <= error <= 100 else None for name, error in errors.items()
    }
    return {**figures, **accuracies}


def _steps(states: Sequence[_State]) -> tuple[Callable[[_State], int], str]:
    """How many optimizer steps lie behind a state, and how that is derived.

    The iterations in the names begin anew in each epoch, as the authors' code counts them; files in which they do not
    count them over the whole training.
    """
    by_run: dict[str, list[tuple[int, int]]] = {}
    for state in states:
        by_run.setdefault(state.run, []).append((state.epoch, state.iteration))
    anew = any(
        later[0] > earlier[0] and later[1] <= earlier[1]
        for places in by_run.values()
        for earlier, later in itertools.pairwise(sorted(places))
    )
    if not anew:
        return (lambda state: state.iteration), "the iteration in the name, which counts over all epochs"
    most = max(state.iteration for state in states)
    known = states[0].task.iterations
    length = known if known is not None and known >= most else most
    origin = "of the published code" if length == known else "the last of any epoch"
    text = f"epoch × {length} + iteration, as iterations begin anew in each epoch; {length} is {origin}"
    return (lambda state: state.epoch * length + state.iteration), text
