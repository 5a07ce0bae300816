"""A cohort of a run: its members, its files, its metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from zoo_datasets.documents import brief, problems_of, read_json, whole_number
from zoo_datasets.errors import CohortInUseError, DocumentError, LayoutError, RunError, StorageError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.specs.spec import MAX_EPOCH, Member
from zoo_datasets.storage.files import remove_temporaries, replacing, write_bytes, write_json
from zoo_datasets.storage.locks import hold_folder

_T = TypeVar("_T")


MEMBERS = "members.json"


SPARSITY = "sparsity"


LOG_SIGMA2 = "log_sigma2"


METRICS_SCHEMA = pa.schema(
    [pa.field("model_id", pa.string(), nullable=False), pa.field("epoch", pa.int32(), nullable=False)]
    + [pa.field(f"{split}_{what}", pa.float32()) for split in ("train", "val", "test") for what in ("loss", "acc")]
    + [pa.field("diverged", pa.bool_(), nullable=False), pa.field(SPARSITY, pa.float32())]
)


_MEMBERS: TypeAdapter[list[Member]] = TypeAdapter(list[Member])


class Cohort:
    """The folder of one cohort: members that train as one stack."""

    def __init__(self, path: Path, layout: WeightLayout) -> None:
        self.path = path
        self.layout = layout

    @cached_property
    def members(self) -> list[Member]:
        """The members, in the order of the stack.

        Raises:
            RunError: where members.json is missing or broken.
        """
        return _read_members(self.path / MEMBERS)

    def begin(self, members: Sequence[Member]) -> None:
        """Write members.json, or check that it lists these very members.

        Raises:
            RunError: where the folder belongs to other members.
        """
        file = self.path / MEMBERS
        if file.is_file():
            if self.members != list(members):
                raise RunError(f"{file} lists other members than planned; this folder belongs to another run")
        else:
            write_json(file, [member.to_dict() for member in members])
        remove_temporaries(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cohort for this process; a killed process lets go by itself.

        Raises:
            CohortInUseError: where another process trains it.
            StorageError: where there can be no such folder, or the file system has no locks.
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

    def epochs(self) -> list[int]:
        """The finished epochs, ascending."""
        return sorted(set(self.metrics()["epoch"].to_pylist()))

    def metrics(self) -> pa.Table:
        """All rows of metrics.parquet (`METRICS_SCHEMA`), by epoch, then in the order of the stack."""
        file = self.path / "metrics.parquet"
        if not file.is_file():
            return METRICS_SCHEMA.empty_table()
        try:
            table = pq.read_table(file)
            if SPARSITY not in table.column_names:
                table = table.append_column(SPARSITY, pa.nulls(len(table), pa.float32()))
            return table.cast(METRICS_SCHEMA)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(f"{file} could not be read: {error}") from error

    def epoch_file(self, epoch: int) -> Path:
        """Where the tensors of an epoch lie."""
        return self.path / f"epoch-{epoch:04d}.safetensors"

    def tensors(self, epoch: int) -> dict[str, Tensor]:
        """The stacked tensors [K, …] of an epoch, by name.

        Raises:
            RunError: where the file is missing or broken.
        """
        file = self.epoch_file(epoch)
        if not file.is_file():  # opening a pipe would wait forever
            raise RunError(f"{file} could not be read: there is no such file; train its cohort again")
        try:
            tensors: dict[str, Tensor] = load_file(file)
            return tensors
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(
                f"{file} could not be read: {error}; delete the cohort's folder and train it again"
            ) from error

    def weights(self, epoch: int, positions: Sequence[int] | None = None) -> Tensor:
        """The weights at an epoch of all members, or of those at some positions of the stack: float32 [K, D].

        Raises:
            RunError: where the file is missing, broken or of another layout.
        """
        names = set(self.layout.slices())
        tensors = {name: tensor for name, tensor in self.tensors(epoch).items() if name in names}
        count = len(self.members)
        if positions is not None and all(tensor.ndim and len(tensor) == count for tensor in tensors.values()):
            # The file is mapped, so that only these are read.
            chosen = torch.tensor(positions, dtype=torch.int64)
            tensors = {name: tensor.index_select(0, chosen) for name, tensor in tensors.items()}
            count = len(positions)
        try:
            weights = self.layout.flatten(tensors)
        except LayoutError as error:
            raise RunError(f"{self.epoch_file(epoch)}: {error}") from error
        if weights.shape[0] != count:
            raise RunError(f"{self.epoch_file(epoch)}: {weights.shape[0]} models found, {count} expected")
        return weights

    def log_sigma2(self, epoch: int) -> Tensor | None:
        """log σ² of all members at an epoch, float32 [K, D]; None in runs that have none.

        Raises:
            RunError: where the file is missing, broken or of another layout.
        """
        found = self.tensors(epoch).get(LOG_SIGMA2)
        if found is not None and found.shape != (len(self.members), self.layout.size):
            expected = [len(self.members), self.layout.size]
            raise RunError(f"{self.epoch_file(epoch)}: {LOG_SIGMA2} {list(found.shape)} found, {expected} expected")
        return found

    def write_epoch(self, epoch: int, tensors: Mapping[str, Tensor], metrics: pa.Table) -> None:
        """Write the tensors [K, …] of an epoch, then the metrics with its rows added.

        `metrics` are the rows of this epoch alone; rows of this and later epochs that an interrupted
        process wrote are replaced.
        """
        write_bytes(self.epoch_file(epoch), save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        earlier = self.metrics()
        earlier = earlier.filter(pa.compute.less(earlier["epoch"], epoch))
        table = pa.concat_tables([earlier, metrics.cast(METRICS_SCHEMA)]).combine_chunks()
        with replacing(self.path / "metrics.parquet") as temporary:
            pq.write_table(table, temporary)

    def write_resume(self, epoch: int, state: Mapping[str, Tensor]) -> None:
        """Write the optimizer state after `epoch`, which finishes the epoch."""
        # One metadata key only: safetensors writes several in random order.
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_bytes(self.path / "resume.safetensors", save(tensors, metadata={"epoch": str(epoch)}))

    def resume_epoch(self) -> int | None:
        """The last epoch finished by training, without reading the state; None if there is none.

        Raises:
            RunError: where the file is broken.
        """
        return self._open_resume(lambda epoch, opened: epoch)

    def read_resume(self) -> tuple[int, dict[str, Tensor]] | None:
        """The last epoch finished by training and the optimizer state after it; None if there is none.

        Raises:
            RunError: where the file is broken.
        """
        return self._open_resume(
            lambda epoch, opened: (epoch, {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        )

    def _open_resume(self, read: Callable[[int, Any], _T]) -> _T | None:
        file = self.path / "resume.safetensors"
        if not file.is_file():
            return None
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                text = (opened.metadata() or {})["epoch"]
                epoch = whole_number(text)
                if epoch is None or epoch > MAX_EPOCH:
                    raise DocumentError(f"its epoch is {brief(text)}, expected 0 to {MAX_EPOCH:,}")
                return read(epoch, opened)
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise RunError(f"{file} could not be read: {error}; delete the cohort's folder to train it anew") from error


def _read_members(file: Path) -> list[Member]:
    try:
        members = _MEMBERS.validate_python(read_json(file))
        for member in members:
            member.check()
        return members
    except ValidationError as error:
        raise RunError(f"{file} is no list of members: {problems_of(error)}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file} could not be read: {error}") from error


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
