"""A cohort of a run: its members, its files, its metrics."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from zoo_datasets.documents import brief, problems_of, read_json, whole_number
from zoo_datasets.errors import CohortInUseError, DamagedError, DocumentError, LayoutError, RunError, StorageError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.variational import LOG_SIGMA2
from zoo_datasets.runs.manifest import RUN_MANIFEST
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.members import Member
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.checksums import RECORD, Record, read_record, write_checked
from zoo_datasets.storage.files import remove_temporaries, write_json
from zoo_datasets.storage.locks import hold_folder
from zoo_datasets.text import one_line, ranges

_T = TypeVar("_T")

MEMBERS = "members.json"
METRICS = "metrics.parquet"
STEPS = "steps.parquet"
RESUME = "resume.safetensors"
ACTING = "acting"
SPARSITY = "sparsity"
LABELS = "labels"
"""In an epoch's file of fields, beside their tensors: the labels of the members' signals, int64 [K]."""

METRICS_SCHEMA = pa.schema(
    [pa.field("model_id", pa.string(), nullable=False), pa.field("epoch", pa.int32(), nullable=False)]
    + [pa.field(f"{split}_{what}", pa.float32()) for split in ("train", "val", "test") for what in ("loss", "acc")]
    + [pa.field("diverged", pa.bool_(), nullable=False), pa.field(SPARSITY, pa.float32())]
)
# Of states within epochs.
STEPS_SCHEMA = METRICS_SCHEMA.insert(2, pa.field("step", pa.int64(), nullable=False))
UNCHECKED = "files of this run carry no checksums, as earlier versions wrote them: damage in these cannot be seen"
_AGAIN = "the command that trained the run then trains these models again from epoch 0, to the same weights"
# What readers raise of a file that is not what it should be.
_UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, RuntimeError, AttributeError,
    pa.ArrowException, safetensors.SafetensorError,
)  # fmt: skip
_MEMBERS: TypeAdapter[list[Member]] = TypeAdapter(list[Member])


class Cohort:
    """The folder of one cohort: members that train as one stack.

    Args:
        layout: of the weights, or what tells it of the first member.
        checkpoints: the epochs whose states are kept; None: all.
        steps_within: the steps within an epoch after which states are kept, of the first member; None: none.

    Attributes:
        unchecked: names of the files read so far that carry no checksum.
    """

    def __init__(
        self,
        path: Path,
        layout: WeightLayout | Callable[[Member], WeightLayout],
        checkpoints: Collection[int] | None = None,
        steps_within: Callable[[Member, int], range] | None = None,
    ) -> None:
        self.path = path
        self._steps_within = steps_within
        self._layout = layout
        self._checkpoints = None if checkpoints is None else frozenset(checkpoints)
        self.unchecked: set[str] = set()
        self._records: dict[str, tuple[tuple[int, ...], Record | None]] = {}

    @cached_property
    def layout(self) -> WeightLayout:
        """Of the weights of its members.

        Raises:
            RunError: if it depends on members that cannot be read.
        """
        return self._layout if isinstance(self._layout, WeightLayout) else self._layout(self.members[0])

    @cached_property
    def members(self) -> list[Member]:
        """The members, in the order of the stack.

        Raises:
            RunError: if members.json is missing or broken.
        """
        return read_members(self.path / MEMBERS)

    def begin(self, members: Sequence[Member]) -> None:
        """Write members.json, or check that it lists these very members.

        Raises:
            RunError: if the folder belongs to other members.
        """
        file = self.path / MEMBERS
        if file.is_file():
            if self.members != list(members):
                raise RunError(
                    f"{file} lists other members than planned; this folder belongs to another run, or the file is "
                    "damaged: then delete it, and the same command writes it again"
                )
        else:
            write_json(file, [member.to_dict() for member in members])
        remove_temporaries(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cohort for this process; a killed process lets go by itself.

        Raises:
            CohortInUseError: if another process trains it.
            StorageError: if there can be no such folder, or the file system has no locks.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be made: {error.strerror or error}; choose a folder to write to"
            ) from error
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold_folder(self.path))
            except TimeoutError as error:
                raise CohortInUseError(
                    f"{self.path} is being trained by another process; wait for it or stop it"
                ) from error
            except OSError as error:
                raise StorageError(
                    f"{self.path} cannot be locked: {error.strerror or error}; processes keep out of each other's way "
                    "by flock, so a run needs a file system that has it"
                ) from error
            yield

    def check_members(self, members: Mapping[str, Member], seen: Collection[str] = ()) -> None:
        """Compare members.json with the members of the run by id, and with those that stand in other cohorts.

        Raises:
            RunError: if one differs; names the first one.
        """
        file = self.path / MEMBERS
        for member in self.members:
            name = f"{file}: model {member.model_id:.64}"
            if member.model_id not in members:
                raise RunError(f"{name} is no member of the run that {RUN_MANIFEST} describes")
            if member.model_id in seen:
                raise RunError(f"{name} stands in another cohort too")
            if member != members[member.model_id]:
                raise RunError(
                    f"{name} is not as the run has it; delete the file, and the command that trained the run writes it "
                    "again"
                )

    def keeps(self, epoch: int) -> bool:
        """Whether the states of an epoch are kept."""
        return self._checkpoints is None or epoch in self._checkpoints

    def _kept_before(self, epoch: int) -> set[int]:
        """The epochs before one whose states are kept."""
        return {earlier for earlier in range(epoch) if self.keeps(earlier)}

    def steps_within(self, epoch: int) -> range:
        """The steps within an epoch after which states are kept, counted from the start of the training."""
        return range(0) if self._steps_within is None else self._steps_within(self.members[0], epoch)

    def epochs(self) -> list[int]:
        """The finished epochs whose states are kept, ascending."""
        return sorted(set(self.metrics()["epoch"].to_pylist()))

    def metrics(self) -> pa.Table:
        """All rows of metrics.parquet (`METRICS_SCHEMA`), by epoch, then in the order of the stack."""
        file = self.path / METRICS
        if not file.is_file():
            return METRICS_SCHEMA.empty_table()
        with _reading(file, f"delete it: {_AGAIN}"):
            self._check(file)
            with pq.ParquetFile(file) as opened:
                table = opened.read()
            if SPARSITY not in table.column_names:
                table = table.append_column(SPARSITY, pa.nulls(len(table), pa.float32()))
            table = table.cast(METRICS_SCHEMA)
            table.validate(full=True)
            _check_ranges(table)
            epochs = table["epoch"].to_numpy()
            ascending = bool((epochs[1:] >= epochs[:-1]).all())
            return table.combine_chunks() if ascending else table.take(np.argsort(epochs, kind="stable"))

    def figures(self, epoch: int) -> pa.Table | None:
        """The rows of an epoch in the order of the stack; None where the epoch is not finished.

        Raises:
            RunError: if the metrics are broken, or of other models.
        """
        return self.figures_in(self.metrics(), epoch)

    def figures_in(self, metrics: pa.Table, epoch: int) -> pa.Table | None:
        """As `figures`, of what `metrics` returned."""
        begin, end = np.searchsorted(metrics["epoch"].to_numpy(), (epoch, epoch + 1))
        rows = metrics.slice(begin, end - begin)
        if not rows.num_rows:
            return None
        if not rows["model_id"].equals(self._ids):
            raise RunError(f"{self.path}: {METRICS} lists other models at epoch {epoch} than {MEMBERS}")
        return rows

    def setback(self) -> str | None:
        """Why training begins again at epoch 0 although later epochs were finished; None where it does not.

        Raises:
            RunError: if a file is broken.
        """
        if lost := self.lost_figures():
            return f"{METRICS} has lost the figures of epochs {ranges(lost)}"
        if self._finished_epoch() is None and (max(self.epochs(), default=0) > 0 or self.without_figures()):
            return f"{RESUME} is missing"
        return None

    def without_figures(self) -> list[int]:
        """Epochs that were finished, as far as any file tells, but whose figures are not in the metrics.

        Raises:
            RunError: if a file is broken.
        """
        names = [file.stem.removeprefix("epoch-") for file in self.path.glob("epoch-*.safetensors")]
        written = [int(name) for name in names if name.isascii() and name.isdecimal() and int(name) <= MAX_EPOCH]
        # The last one may have been interrupted before its figures were written.
        before = self._kept_before(max(written, default=0)).difference(self.epochs())
        return sorted(before.union(self.lost_figures()))

    def lost_figures(self) -> list[int]:
        """Epochs up to the one that training would go on from, whose figures are not in the metrics.

        Raises:
            RunError: if a file is broken.
        """
        last = self._finished_epoch()
        if last is None:
            return []
        rows = np.bincount(self.metrics()["epoch"].to_numpy(), minlength=last + 1)
        lost: list[int] = np.flatnonzero(rows[: last + 1] != len(self.members)).tolist()
        lost = [epoch for epoch in lost if self.keeps(epoch)]
        if self._steps_within is None:
            return lost
        there = Counter(self.step_metrics()["step"].to_pylist())
        whole = len(self.members)
        without = [n for n in range(last + 1) if any(there[step] != whole for step in self.steps_within(n))]
        return sorted({*lost, *without})

    def step_metrics(self) -> pa.Table:
        """All rows of steps.parquet (`STEPS_SCHEMA`), by step, then in the order of the stack: the figures of states
        within epochs; `epoch` is the one that the step is of, and train figures are averages over it so far."""
        file = self.path / STEPS
        if not file.is_file():
            return STEPS_SCHEMA.empty_table()
        with _reading(file, f"delete it: {_AGAIN}"):
            self._check(file)
            with pq.ParquetFile(file) as opened:
                table = opened.read().cast(STEPS_SCHEMA)
            table.validate(full=True)
            _check_ranges(table)
            return table.combine_chunks().sort_by([("step", "ascending")]) if _descends(table["step"]) else table

    def step_figures(self, metrics: pa.Table, step: int) -> pa.Table | None:
        """The rows of a step, of what `step_metrics` returned, in the order of the stack; None where there are none.

        Raises:
            RunError: if they are of other models.
        """
        rows = metrics.filter(pc.equal(metrics["step"], step))
        if not rows.num_rows:
            return None
        if rows["model_id"].to_pylist() != [member.model_id for member in self.members]:
            raise RunError(f"{self.path}: {STEPS} lists other models at step {step} than {MEMBERS}")
        return rows

    def step_file(self, step: int) -> Path:
        """Where the tensors after a step within an epoch lie."""
        return self.path / f"step-{step:08d}.safetensors"

    def epoch_file(self, epoch: int) -> Path:
        """Where the tensors of an epoch lie."""
        return self.path / f"epoch-{epoch:04d}.safetensors"

    def tensors(self, epoch: int, step: int | None = None) -> dict[str, Tensor]:
        """The stacked tensors [K, …] of an epoch, or after a step within it, by name.

        Raises:
            RunError: if the file is missing or broken.
        """
        file = self.epoch_file(epoch) if step is None else self.step_file(step)
        if not file.is_file():  # opening a pipe would wait forever
            raise RunError(f"{file} could not be read: there is no such file; delete {RESUME} beside it: {_AGAIN}")
        with _reading(file, f"delete {RESUME} beside it: {_AGAIN}"):
            self._check(file, epoch)
            tensors: dict[str, Tensor] = load_file(file)
            return tensors

    def weights(self, epoch: int, positions: Sequence[int] | None = None, step: int | None = None) -> Tensor:
        """The weights at an epoch, or after a step within it, of all members, or of those at some positions of the
        stack: float32 [K, D].

        Raises:
            RunError: if the file is missing, broken or of another layout.
        """
        file = self.epoch_file(epoch) if step is None else self.step_file(step)
        names = set(self.layout.slices())
        tensors = {name: tensor for name, tensor in self.tensors(epoch, step).items() if name in names}
        count = len(self.members)
        if positions is not None and all(tensor.ndim and len(tensor) == count for tensor in tensors.values()):
            # The file is mapped, so that only these are read.
            index = torch.tensor(positions, dtype=torch.int64)
            tensors = {name: tensor.index_select(0, index) for name, tensor in tensors.items()}
            count = len(positions)
        try:
            weights = self.layout.flatten(tensors)
        except LayoutError as error:
            raise RunError(f"{file}: {error}") from error
        if weights.shape[0] != count:
            raise RunError(f"{file}: {weights.shape[0]} models found, {count} expected")
        return weights

    def labels(self, epoch: int) -> Tensor:
        """The labels of the signals of all members, of fields: int64 [K].

        Raises:
            RunError: if the file is missing or broken, or has none.
        """
        labels = self.tensors(epoch).get(LABELS)
        if labels is None or labels.shape != (len(self.members),) or labels.dtype != torch.int64:
            raise RunError(f"{self.epoch_file(epoch)}: there are no labels of {len(self.members)} signals in it")
        return labels

    def log_sigma2(self, epoch: int) -> Tensor | None:
        """log σ² of all members at an epoch, float32 [K, D]; None in runs that have none.

        Raises:
            RunError: if the file is missing, broken or of another layout.
        """
        values = self.tensors(epoch).get(LOG_SIGMA2)
        if values is not None and values.shape != (len(self.members), self.layout.size):
            expected = [len(self.members), self.layout.size]
            raise RunError(f"{self.epoch_file(epoch)}: {LOG_SIGMA2} {list(values.shape)} found, {expected} expected")
        return values

    def write_step(self, epoch: int, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors [K, …] after a step within an epoch; its figures follow with those of the epoch."""
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=self._record(epoch))
        write_checked(self.step_file(step), data)

    def write_step_metrics(self, epoch: int, metrics: pa.Table) -> None:
        """Write steps.parquet with the rows of an epoch added; rows of this and later epochs are replaced."""
        earlier = self.step_metrics()
        earlier = earlier.filter(pc.less(earlier["epoch"], epoch))
        self._write_table(self.path / STEPS, epoch, pa.concat_tables([earlier, metrics.cast(STEPS_SCHEMA)]))

    def write_epoch(self, epoch: int, tensors: Mapping[str, Tensor], metrics: pa.Table) -> None:
        """Write the tensors [K, …] of an epoch, then the metrics with its rows added.

        `metrics` are the rows of this epoch alone; rows of this and later epochs that an interrupted
        process wrote are replaced.

        Raises:
            RunError: if the metrics of earlier epochs are lost; nothing is written then.
        """
        earlier = self.metrics()
        earlier = earlier.filter(pc.less(earlier["epoch"], epoch))
        lost = sorted(self._kept_before(epoch).difference(earlier["epoch"].to_pylist()))
        if lost:
            raise RunError(
                f"{self.path / METRICS} has no figures of epochs {ranges(lost)} any more; nothing was written over it. "
                "Run the same command again"
            )
        record = self._record(epoch)
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=record)
        write_checked(self.epoch_file(epoch), data)
        self._write_table(self.path / METRICS, epoch, pa.concat_tables([earlier, metrics.cast(METRICS_SCHEMA)]))

    def _write_table(self, file: Path, epoch: int, table: pa.Table) -> None:
        table = table.combine_chunks()
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(self._record(epoch))
        write_checked(file, sink.getvalue().to_pybytes())

    def write_resume(self, epoch: int, state: Mapping[str, Tensor]) -> None:
        """Write the optimizer state after `epoch`, which finishes the epoch; with `ACTING`, the weights [K, D], where
        those of the epoch are not kept."""
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_checked(self.path / RESUME, save(tensors, metadata=self._record(epoch)))

    def _record(self, epoch: int) -> dict[str, str]:
        # One metadata key only: safetensors writes several in random order.
        return {RECORD: Record(epoch, self._digest).line()}

    @cached_property
    def _ids(self) -> pa.ChunkedArray:
        return pa.chunked_array([[member.model_id for member in self.members]], pa.string())

    @cached_property
    def _digest(self) -> str:
        return digest_of_members(self.members)

    def _check(self, file: Path, epoch: int | None = None) -> Record | None:
        """The record of a file that holds what was written, of this cohort and of `epoch` where one is given.

        Raises:
            DamagedError: if it does not.
            OSError: if it cannot be read.
        """
        status = file.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        before, record = self._records.get(file.name, ((), None))
        if before != stamp:
            record = read_record(file)
            self._records[file.name] = stamp, record
        if record is None:
            self.unchecked.add(file.name)
            return None
        if record.members != self._digest:
            raise DamagedError(f"{file} is of other models than {MEMBERS} beside it lists")
        if epoch is not None and record.epoch != epoch:
            raise DamagedError(f"{file} was written after epoch {record.epoch}, expected epoch {epoch}")
        return record

    def resume_epoch(self) -> int | None:
        """The epoch that training goes on from, without reading the state; None where it begins at epoch 0.

        It begins anew where figures of a finished epoch are lost (`lost_figures`): running averages of training
        are in no other file, and the state of no earlier epoch is kept.

        Raises:
            RunError: if the file, or the metrics, are broken.
        """
        return self._resumable(lambda epoch, opened: epoch)

    def read_resume(self) -> tuple[int, dict[str, Tensor]] | None:
        """As `resume_epoch`, with the optimizer state [K, …] after the epoch.

        Raises:
            RunError: if the file, or the metrics, are broken.
        """
        resume = self._resumable(
            lambda epoch, opened: (epoch, {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        )
        count = len(self.members)
        for name, tensor in ({} if resume is None else resume[1]).items():
            if tensor.ndim == 0 or len(tensor) != count:
                raise RunError(
                    f"{self.path / RESUME}: {brief(name)} has shape {list(tensor.shape)}, expected [{count}, …]; "
                    f"delete it: {_AGAIN}"
                )
        return resume

    def _resumable(self, read: Callable[[int, Any], _T]) -> _T | None:
        return None if self.lost_figures() else self._open_resume(read)

    def _finished_epoch(self) -> int | None:
        """The epoch that the resume file was written after; None if there is none."""
        return self._open_resume(lambda epoch, opened: epoch)

    def _open_resume(self, read: Callable[[int, Any], _T]) -> _T | None:
        file = self.path / RESUME
        if not file.is_file():
            return None
        with _reading(file, f"delete it: {_AGAIN}"):
            record = self._check(file)
            with safetensors.safe_open(file, framework="pt") as opened:
                text = (opened.metadata() or {})["epoch"] if record is None else str(record.epoch)
                epoch = whole_number(text)
                if epoch is None or epoch > MAX_EPOCH:
                    raise DocumentError(f"its epoch is {brief(text)}, expected 0 to {MAX_EPOCH:,}")
                return read(epoch, opened)


@contextlib.contextmanager
def _reading(file: Path, remedy: str) -> Iterator[None]:
    """Make an error of ours of whatever reading a file raises, with what to do about it."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}; {remedy}") from error
    except RunError:
        raise
    except _UNREADABLE as error:
        raise RunError(f"{file} could not be read: {one_line(error)[:200]}; {remedy}") from error


def read_members(file: Path) -> list[Member]:
    try:
        members = _MEMBERS.validate_python(read_json(file))
        if not members:
            raise ValueError("it lists no models")
        for member in members:
            member.check()
        return members
    except ValidationError as error:
        problem = f"is no list of members: {problems_of(error)}"
    except _UNREADABLE as error:
        problem = f"could not be read: {one_line(error)}"
    raise RunError(f"{file} {problem}; delete it, and the command that trained the run writes it again")


def digest_of_members(members: Sequence[Member]) -> str:
    """What records say of their models: a hash of the ids, in order."""
    return digest_of([member.model_id for member in members])[:16]


def _descends(values: pa.ChunkedArray) -> bool:
    numbers = values.to_numpy()
    return bool((numbers[1:] < numbers[:-1]).any())


def _check_ranges(table: pa.Table) -> None:
    """Raise ValueError where a figure or an epoch is none."""
    limits: dict[str, tuple[float, float]] = {"epoch": (0, MAX_EPOCH), SPARSITY: (0, 1)}
    limits |= {f"{split}_acc": (0, 1) for split in ("train", "val", "test")}
    limits |= {f"{split}_loss": (0, np.inf) for split in ("train", "val", "test")}
    for name, (low, high) in limits.items():
        smallest, largest = pc.min_max(table[name]).as_py().values()
        if smallest is not None and (smallest < low or largest > high):
            raise ValueError(f"{name} reaches from {smallest} to {largest}, expected {low} to {high}")


def metrics_table(
    members: Sequence[Member], epoch: int, figures: Mapping[str, Tensor | None], diverged: Tensor
) -> pa.Table:
    """Rows of `METRICS_SCHEMA` for one epoch: `figures` by column [K], None where a split is missing."""
    count = len(members)
    columns: dict[str, Any] = {
        "model_id": [member.model_id for member in members],
        "epoch": [epoch] * count,
        "diverged": diverged.tolist(),
    }
    for field in METRICS_SCHEMA:
        if field.name not in columns:
            values = figures.get(field.name)
            # From numpy, so that NaN stays NaN and does not become null.
            columns[field.name] = (
                pa.nulls(count, field.type) if values is None else pa.array(values.to(torch.float32).cpu().numpy())
            )
    return pa.table([columns[field.name] for field in METRICS_SCHEMA], schema=METRICS_SCHEMA)
