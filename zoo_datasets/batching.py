"""Batches of a zoo for a training loop: shuffled, sharded, resumable, at the speed of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import torch
from datasets import Dataset
from torch.utils.data import IterableDataset as TorchIterable
from torch.utils.data import get_worker_info

from zoo_datasets.errors import SpecError
from zoo_datasets.gather import Positions
from zoo_datasets.reading import Batch, Form, ZooReader
from zoo_datasets.specs import digest_of

Finish = Callable[[Batch], Batch]


def batches(
    zoo: Dataset,
    batch_size: int = 256,
    columns: Sequence[str] | None = None,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = torch.float32,
    layers: bool = False,
    copy: bool = True,
) -> Batches:
    """The rows of a zoo in batches: dictionaries of `weights` [B, D] and the other columns as tensors [B] or lists.

    It can be iterated any number of times; each time is an epoch with an order of its own. Under Accelerate or
    torch.distributed each process gets its share of every epoch: equally many batches, and each row in one
    process only. `Accelerator.prepare` hands it through as it is.

    Args:
        zoo: a map-style zoo of one split, as `load_zoo` gives it; selections of it are followed.
        batch_size: rows in a batch, of each process.
        columns: the columns wanted; None means all. Fewer are faster.
        shuffle: whether each epoch has a random order, which follows from `seed` and the epoch's number alone.
        drop_last: whether rows that do not fill a batch in every process are left out.
        device: where the tensors go. For CUDA they are read into pinned memory and copied without waiting.
        dtype: of everything that is a floating-point number; None leaves each column as it is.
        layers: whether to add `layers`: the weights as tensors by name, [B, *shape], views of `weights`.
        copy: False gives unshuffled weights as views of the mapped file where a batch lies in one piece. They are
            faster, but writing to them ends the process.

    Raises:
        SpecError: where an argument makes no sense or the zoo is no map-style dataset.
        UnknownNameError: where the zoo has no such column.
    """
    form = Form(dtype=dtype, device=None if device is None else torch.device(device), layers=layers, copy=copy)
    order = Order(batch_size=batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    return Batches(ZooReader(zoo, columns), order, form)


class Options(TypedDict, total=False):
    """What `batches` and each task take: see `batches`."""

    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    device: torch.device | str | None
    dtype: torch.dtype | None
    layers: bool
    copy: bool


def batches_of(reader: ZooReader, options: Options, finish: Finish | None = None) -> Batches:
    """Batches of any samples; `finish` makes of what is read what is given."""
    made = batches(reader.zoo, columns=[], **options)
    return Batches(reader, made.order, made.form, finish)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """How samples become batches; see `batches`."""

    batch_size: int = 256
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SpecError(f"batch_size={self.batch_size}: expected at least 1")

    def permutation(self, samples: int, epoch: int) -> Positions | None:
        """The order of an epoch, int64 [samples]; None where it is the stored one."""
        if not self.shuffle:
            return None
        key = int(digest_of(["batches", self.seed, epoch])[:15], 16)
        order: Positions = torch.randperm(samples, generator=torch.Generator().manual_seed(key)).numpy()
        return order


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which part of an epoch's order each batch of each rank is.

    Every rank has the same number of batches, and every sample is in one of them. Rounds are full until
    the last one, or the last two where fewer samples than ranks would be left: these are divided evenly.
    """

    samples: int
    batch_size: int
    ranks: int
    drop_last: bool

    def __post_init__(self) -> None:
        if self._left and not self._tail:
            raise SpecError(
                f"{self.samples:,} samples in batches of {self.batch_size} cannot be shared out so that each of "
                f"{self.ranks} processes has equally many batches; use drop_last=True or another batch_size"
            )

    @property
    def _round(self) -> int:
        return self.ranks * self.batch_size

    @property
    def _left(self) -> int:
        return 0 if self.drop_last else self.samples % self._round

    @property
    def _tail(self) -> int:
        """Number of rounds at the end that are divided evenly."""
        if not self._left:
            return 0
        if self._left >= self.ranks:
            return 1
        return 2 if self.samples >= self._round and self.batch_size > 1 else 0

    @property
    def rounds(self) -> int:
        """Batches of a rank."""
        return self.samples // self._round + bool(self._left)

    def bounds(self, number: int, rank: int) -> tuple[int, int]:
        """Start and stop of a rank's batch in the order of the epoch."""
        full = self.rounds - self._tail
        if number < full:
            start = number * self._round + rank * self.batch_size
            return start, start + self.batch_size
        rest, parts = self.samples - full * self._round, self._tail * self.ranks
        part = (number - full) * self.ranks + rank
        begin = full * self._round
        return begin + rest * part // parts, begin + rest * (part + 1) // parts


class Batches(TorchIterable[Batch]):
    """Samples in batches, epoch after epoch; `batches` and the tasks make them.

    `state_dict` and `load_state_dict` go on in the middle of an epoch, with the very next batch. Within a torch
    `DataLoader(…, batch_size=None, num_workers=…)` each worker makes every n-th batch, in the same order; torch's
    state of such a loader is that of its workers (torchdata's StatefulDataLoader keeps it).
    """

    def __init__(self, reader: ZooReader, order: Order, form: Form, finish: Finish | None = None) -> None:
        super().__init__()
        self._reader = reader
        self.order = order
        self.form = form
        self._finish = finish
        self._epochs = _Epochs()
        self._resume = (-1, 0)
        self._at: tuple[int, int] | None = None
        self._place_of_parent: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Batches an epoch, in each process."""
        return self._plan(self._place()[1]).rounds

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        epoch = self._epochs.begin(None if worker is None else worker.seed - worker.id)
        first = self._resume[1] if self._resume[0] == epoch else 0
        self._at = (epoch, first)
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._run(epoch, first, offset, step)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that does not inherit this process's memory cannot ask Accelerate for its rank.
        return self.__dict__ | {"_place_of_parent": self._place()}

    def _run(self, epoch: int, first: int, offset: int, step: int) -> Iterator[Batch]:
        rank, ranks = self._place()
        plan = self._plan(ranks)
        order = self.order.permutation(plan.samples, epoch)
        for number in range(first + offset, plan.rounds, step):
            start, stop = plan.bounds(number, rank)
            batch = self._reader.read(slice(start, stop) if order is None else order[start:stop], self.form)
            # Before the yield: a state that is taken while the batch is in use is that of the next one, and such
            # that a worker, which begins `offset` later, begins there.
            self._at = (epoch, number + step - offset)
            yield batch if self._finish is None else self._finish(batch)
        self._at = (epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of epoch `epoch`, counted from 0."""
        self._epochs.next = epoch
        self._resume = (-1, 0)
        self._at = None

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, as JSON values: the batches that were given are not given again.

        Raises:
            SpecError: where the workers of a DataLoader iterate, and this process does not know how far they are.
        """
        if self._at is None and self._epochs.elsewhere:
            raise SpecError(
                "the batches are made by the workers of a DataLoader; take the state of torchdata's "
                "StatefulDataLoader, or iterate without workers (which is faster here)"
            )
        epoch, batch = self._at or (self._epochs.next, 0)
        return {"epoch": epoch, "batch": batch} | self._identity()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: the next iteration gives the rest of that epoch.

        Raises:
            SpecError: where the state is that of other batches.
        """
        expected = self._identity()
        for key, value in expected.items():
            if state.get(key) != value:
                raise SpecError(
                    f"this state has {key}={state.get(key)!r}, expected {value!r}: it belongs to other batches"
                )
        self.set_epoch(int(state["epoch"]))
        self._resume = (int(state["epoch"]), int(state["batch"]))
        self._at = self._resume

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to mean the same batches."""
        return {"samples": len(self._reader), "ranks": self._place()[1]} | asdict(self.order)

    def _plan(self, ranks: int) -> Plan:
        return Plan(
            samples=len(self._reader),
            batch_size=self.order.batch_size,
            ranks=ranks,
            drop_last=self.order.drop_last,
        )

    def _place(self) -> tuple[int, int]:
        return self._place_of_parent or place()


def place() -> tuple[int, int]:
    """(rank, ranks) of this process: Accelerate's where it is initialised, else torch.distributed's, else (0, 1)."""
    accelerate = sys.modules.get("accelerate.state")  # who initialised it has imported it
    if accelerate is not None and accelerate.PartialState._shared_state:
        state = accelerate.PartialState()
        return int(state.process_index), int(state.num_processes)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _Epochs:
    """Counts the epochs begun, over this process and the workers of a DataLoader.

    A DataLoader makes new workers for each epoch, which know nothing of the epochs before; what they share is
    one word of memory: the number of epochs begun and, above it, whose they are. All workers of one epoch write
    the same word, so that none has to wait for another.
    """

    _BITS = 32

    def __init__(self) -> None:
        self._word = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._last: int | None = None

    @property
    def next(self) -> int:
        """The epoch that an iteration would be, in this process."""
        return int(self._word) & ((1 << self._BITS) - 1)

    @next.setter
    def next(self, epoch: int) -> None:
        if not 0 <= epoch < 1 << self._BITS:
            raise SpecError(f"epoch {epoch}: expected a whole number from 0 on")
        self._word[0] = epoch
        self._last = None

    @property
    def elsewhere(self) -> bool:
        """Whether the workers of a DataLoader began the last epoch."""
        return int(self._word) >> self._BITS != 0

    def begin(self, generation: int | None) -> int:
        """The number of the epoch that begins now. `generation` is the number that a DataLoader draws when it
        makes its workers; None in a process that is no worker."""
        if generation is None:
            epoch = self.next
            self._word[0] = epoch + 1
            return epoch
        mark = 1 + generation % ((1 << 30) - 1)
        if self._last is not None:  # persistent workers begin again
            epoch = self._last + 1
        elif int(self._word) >> self._BITS == mark:  # another worker was here first
            epoch = self.next - 1
        else:
            epoch = self.next
        self._word[0] = (mark << self._BITS) | (epoch + 1)
        self._last = epoch
        return epoch
