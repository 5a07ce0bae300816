"""Batches of a zoo for a training loop: shuffled, sharded, resumable, at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, fields, replace
from typing import Any, TypedDict, Unpack

import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import IterableDataset as TorchIterable

from zoo_datasets.errors import SpecError
from zoo_datasets.loading.ahead import Pace, read_ahead
from zoo_datasets.loading.order import BatchPlan, Order, integer_argument
from zoo_datasets.loading.processes import Reporting, device_of_process, place, reads_for_others, skipped_batches
from zoo_datasets.loading.ragged import RaggedFinish, RaggedForm, ragged_finish
from zoo_datasets.loading.row_groups import StreamFiles, StreamReader, source_of
from zoo_datasets.loading.samples import LAYERS, Batch, Epoch, Reader, SampleForm, ZooReader
from zoo_datasets.native.ragged import RaggedBatch, is_ragged
from zoo_datasets.repository.row import WEIGHTS

Finish = Callable[[Batch], Batch]
# Small batches are read several at a time, since handing one from thread to thread costs as much as copying 200 KB;
# more at once would not stay in the processor's cache until they are used.
_BLOCK_BYTES, _BLOCK = 4_000_000, 8


def batches(
    zoo: Dataset | IterableDataset,
    batch_size: int = 256,
    columns: Sequence[str] | None = None,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = torch.float32,
    layers: bool = False,
    copy: bool = True,
    buffer: int | None = None,
    even: bool = True,
    ragged: RaggedForm | None = None,
    token_size: int | None = None,
) -> Batches:
    """The rows of a zoo in batches: dictionaries of `weights` [B, D] and the other columns as tensors [B] or lists.

    Null is NaN in columns of floating-point numbers; a column of whole numbers with a null among them, and of
    anything but numbers, is a list.

    It can be iterated any number of times; each time is an epoch with an order of its own. A thread reads a few
    batches ahead. Under Accelerate or torch.distributed each process gets its share of every epoch: equally many
    batches, and each row in one process only. `Accelerator.prepare` hands it through as it is; it tells Accelerate of
    the end of an epoch, and `gather_for_metrics` of the rows that are repeated, as Accelerate's own loaders do.

    Args:
        zoo: one split as `load_zoo` gives it, prepared or streamed. Selections of a prepared zoo are followed; of a
            streamed one everything is chosen in `load_zoo`.
        batch_size: rows in a batch, of each process.
        columns: the columns wanted; None means all. Fewer are faster.
        shuffle: whether each epoch has a random order, which follows from `seed` and the epoch's number alone. A
            streamed zoo's row groups come in random order, and their rows out of a buffer of some of them.
        drop_last: whether rows that do not fill a batch in every process are left out.
        device: where the tensors go. For CUDA they are read into pinned memory and copied without waiting. None is
            the device of the Accelerator of this process, and the CPU without one.
        dtype: of everything that is a floating-point number: float16, bfloat16, float32 or float64, also by name; None
            leaves each column as it is.
        layers: whether to add `layers`: the weights as tensors by name, [B, *shape], views of `weights`.
        copy: False gives unshuffled weights as views of the mapped file where a batch lies in one piece. They are
            faster, but writing to them ends the process.
        buffer: rows that a streamed zoo is shuffled in, rounded up to row groups; twice as many are in memory.
            None means four batches, or 128 MB if that is more.
        even: among several processes, whether the last round of batches is filled with rows that were given before,
            from the epoch's start (of a streamed zoo, from the start of the next process's rows), so that all batches
            have `batch_size` rows; `gather_for_metrics` drops them. False divides what is left evenly: each row comes
            once, but the lengths of the processes' last batches may differ by one, which `gather` cannot take.
        ragged: how networks of different shapes come, which no matrix [B, D] holds. `tokens`: `tokens` and bool `mask`
            [B, T, token_size] and `position` int64 [B, T, 3], as of `adapters.to_tokens`, T being that of the largest
            network of the batch. `padded`: `weights` [B, D] with zeros behind them, D being the largest of the batch,
            and bool `weights_mask`. `list`: `weights` as a list of B tensors [D_i].
        token_size: numbers in a token.

    Raises:
        SpecError: if an argument makes no sense, there is no such device, the rows are of different shapes and nothing
            says how they come, or the zoo is no dataset of one split.
        UnknownNameError: if the zoo has no such column.
    """
    form = SampleForm.of(dtype=dtype, device=device, layers=layers, copy=copy)
    order = Order(batch_size=batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, buffer=buffer, even=even)
    if layers and ragged is not None:
        raise SpecError("layers=True is for networks of one shape; leave it out, or take one layout by by_layout(zoo)")
    reader = reader_of(zoo, columns)
    return Batches(reader, order, form, _ragged(reader, ragged, token_size))


def _ragged(reader: ZooReader | StreamReader, form: RaggedForm | None, size: int | None) -> RaggedFinish | None:
    """What makes batches of networks of any shapes; None where all have one, and no other form is asked for."""
    if WEIGHTS not in reader.columns:
        return None
    if form is None and not is_ragged(reader.schema.field(WEIGHTS).type):
        return None
    layouts = reader.layouts
    return ragged_finish(form, size, reader.columns, layouts, reader.layout if layouts is None else None)


def reader_of(zoo: Dataset | IterableDataset, columns: Sequence[str] | None = None) -> ZooReader | StreamReader:
    """What reads a zoo of one split, prepared or streamed.

    Raises:
        SpecError: if it is neither.
        UnknownNameError: if it has no such column.
    """
    source = source_of(zoo) if isinstance(zoo, IterableDataset) else zoo
    return StreamReader(source, columns) if isinstance(source, StreamFiles) else ZooReader(source, columns)


class Options(TypedDict, total=False):
    """What `batches` and each task take: see `batches`."""

    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    device: torch.device | str | None
    dtype: torch.dtype | str | None
    layers: bool
    copy: bool
    buffer: int | None
    even: bool


def batches_of(reader: Reader, finish: Finish | None = None, **options: Unpack[Options]) -> Batches:
    """Batches of any samples; `finish` makes of what is read what is given."""
    remaining: dict[str, Any] = dict(options)
    order = Order(**{field.name: remaining.pop(field.name) for field in fields(Order) if field.name in remaining})
    return Batches(reader, order, SampleForm.of(**remaining), finish)


# Epoch, number of the next batch, and where the piece of a worker ends.
_At = tuple[int, int, int | None]


class Batches(TorchIterable[Batch], Reporting):
    """Samples in batches, epoch after epoch; `batches` and the tasks make them.

    `state_dict` and `load_state_dict` go on in the middle of an epoch, with the very next batch. Within a torch
    `DataLoader(…, batch_size=None, num_workers=…)` each worker makes every n-th batch, in the same order, or of a
    streamed zoo a piece of the epoch; torch's state of such a loader is that of its workers (torchdata's
    StatefulDataLoader keeps it).

    Attributes:
        total_batch_size: samples in a round: a batch of each process.
        total_dataset_length: samples an epoch, over all processes.
        position_sizes: of batches of tokens, how many values each of the three numbers of `position` takes, as
            `nn.Embedding` needs them; see `adapters.position_sizes`. None of other batches.
        dataset, batch_size, drop_last, prefetch_factor: what `accelerate.skip_first_batches` asks of a loader: here
            one whose dataset gives whole batches, without workers. Their size is `order.batch_size`.
    """

    position_sizes: tuple[int, int, int] | None = None
    batch_size = None
    drop_last = False
    prefetch_factor = None

    def __init__(self, reader: Reader, order: Order, form: SampleForm, finish: Finish | None = None) -> None:
        super().__init__()
        self._reader = reader
        self.order = order
        self.form = form
        self._finish = finish
        self._epochs = _Epochs()
        self._pace = Pace()
        self._resume: _At = (-1, 0, None)
        self._at: _At | None = None
        self._place_of_parent: tuple[int, int] | None = None

    def __repr__(self) -> str:
        order = f"shuffled by seed {self.order.seed}" if self.order.shuffle else "in stored order"
        columns = f" of {', '.join(self._reader.columns)}" if self._reader.columns else ""
        return f"Batches({len(self._reader):,} samples{columns}, {self.order.batch_size} at a time, {order})"

    def __len__(self) -> int:
        """Batches an epoch, in each process."""
        return self._plan(self._place()[1]).rounds

    @property
    def dataset(self) -> Batches:
        return self

    @property
    def total_batch_size(self) -> int:
        return self.order.batch_size * self._place()[1]

    @property
    def total_dataset_length(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        epoch = self._epochs.begin(None if worker is None else worker.seed - worker.id)
        first, stop = self._resume[1:] if self._resume[0] == epoch else (0, None)
        self._at = (epoch, first, stop)
        if worker is not None:
            self._refuse_skipping()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if not self._reader.in_pieces:
            return self._run(epoch, range(first + offset, len(self), step), step - offset, None)
        if stop is None and worker is not None:
            rest = len(self) - first
            first, stop = first + rest * offset // step, first + rest * (offset + 1) // step
        return self._run(epoch, range(first, len(self) if stop is None else stop), 1, stop)

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_skipping()
        # A worker that does not inherit this process's memory cannot ask Accelerate for its rank.
        return self.__dict__ | {"_place_of_parent": self._place()}

    def loader(self, workers: int, **options: Any) -> DataLoader[Batch]:
        """A torch DataLoader over these batches, which Accelerate's `prepare` hands through as it is.

        A loader that Accelerate prepares by itself reads all batches in one process. Workers copy every batch from
        process to process, which costs more than reading it: they pay where `finish` does much.

        Args:
            workers: processes that make batches; 0 is this one.
            options: of `torch.utils.data.DataLoader`.
        """
        return _Loader(self, batch_size=None, num_workers=integer_argument("workers", workers, 0), **options)

    def _run(self, epoch: int, numbers: range, step: int, stop: int | None) -> Iterator[Batch]:
        rank, ranks = self._place()
        plan = self._plan(ranks)
        last = numbers[-1] if numbers else None
        form, skipped = self._form(), skipped_batches(self)
        with nullcontext() if get_worker_info() else self.reporting(plan.remainder):
            for number in numbers[:skipped]:
                self._at = (epoch, number + step, stop)
                yield {}
            numbers = numbers[skipped:]
            bounds = plan.side_by_side(rank) if self._reader.in_pieces else None
            wanted = [plan.bounds(number, rank) if bounds is None else bounds[number] for number in numbers]
            samples = self._reader.epoch(self.order, epoch, wanted[-1][1] if wanted else 0)
            with closing(samples), closing(self._read(samples, wanted, form)) as blocks:
                for number, stored in zip(numbers, blocks, strict=True):
                    if isinstance(stored.get(WEIGHTS), RaggedBatch) and not isinstance(self._finish, RaggedFinish):
                        stored[WEIGHTS] = stored[WEIGHTS].matrix()
                    batch = form.give(stored)
                    if not isinstance(self._finish, RaggedFinish):
                        self._add_layers(batch, form)
                    # Before the yield: a state that is taken while the batch is in use is that of the next one, and
                    # such that a worker, which begins later by its number, begins there.
                    self._at = (epoch, number + step, stop)
                    self.end_of_dataloader = number == last
                    yield self._finished(batch, form)
        self._at = (epoch + 1, 0, None)

    def _add_layers(self, batch: Batch, form: SampleForm) -> None:
        if form.layers and WEIGHTS in batch:
            batch[LAYERS] = self._reader.layout.unflatten(batch[WEIGHTS])

    def _finished(self, batch: Batch, form: SampleForm) -> Batch:
        if isinstance(self._finish, RaggedFinish):  # whose rows become tensors only now
            finished = form.give(self._finish(batch))
            self._add_layers(finished, form)
            return finished
        return batch if self._finish is None else self._finish(batch)

    def _refuse_skipping(self) -> None:
        if skipped_batches(self):
            raise SpecError(
                "accelerate.skip_first_batches over workers never learns of the end of the epoch; skip batches of "
                "`loader(0)`, or go on by load_state_dict"
            )

    def _form(self) -> SampleForm:
        # A worker cannot use the GPU of the process that it is of: the loader moves what it makes.
        if self.form.device is not None or get_worker_info() is not None:
            return self.form
        return replace(self.form, device=device_of_process())

    def _read(self, samples: Epoch, wanted: list[tuple[int, int]], form: SampleForm) -> Generator[Batch]:
        size = max(1, min(_BLOCK, _BLOCK_BYTES // (self.order.batch_size * self._reader.row_bytes)))
        blocks = [wanted[start : start + size] for start in range(0, len(wanted), size)]

        def read(block: list[tuple[int, int]]) -> list[Batch]:
            return [samples.read(start, stop, form) for start, stop in block]

        # Views of a mapped file cost nothing until they are used; what is streamed waits for a disk or a network.
        views = not (form.copy or self.order.shuffle or self._reader.in_pieces)
        if views:
            read_blocks: Iterator[list[Batch]] = map(read, blocks)
        else:
            read_blocks = read_ahead(read, blocks, 1) if self._reader.in_pieces else self._pace.run(read, blocks)
        with closing(read_blocks) if isinstance(read_blocks, Generator) else nullcontext():
            for block in read_blocks:
                yield from block

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of epoch `epoch`, counted from 0.

        Raises:
            SpecError: if a loader of Accelerate calls it that would share the batches out a second time.
        """
        if reads_for_others(self):
            raise SpecError(
                "Accelerate prepared a DataLoader over these batches and would share them out among the processes, but "
                "they do so themselves; prepare the batches themselves or their `loader(workers)`"
            )
        self._epochs.next = integer_argument("epoch", epoch)
        self._resume = (-1, 0, None)
        self._at = None

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, as JSON values: the batches that were given are not given again.

        Raises:
            SpecError: if the workers of a DataLoader iterate, and this process does not know how far they are.
        """
        if self._at is None and self._epochs.elsewhere:
            raise SpecError(
                "the batches are made by the workers of a DataLoader; take the state of torchdata's "
                "StatefulDataLoader, or iterate without workers (which is faster here)"
            )
        epoch, batch, stop = self._at or (self._epochs.next, 0, None)
        return {"epoch": epoch, "batch": batch} | ({} if stop is None else {"stop": stop}) | self._identity()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: the next iteration gives the rest of that epoch.

        Raises:
            SpecError: if the state is that of other batches.
        """
        state = {"even": False} | dict(state)  # what older states had no name for
        expected = self._identity()
        for key, value in expected.items():
            if state.get(key) != value:
                raise SpecError(
                    f"this state has {key}={state.get(key)!r}, expected {value!r}: it belongs to other batches"
                )
        self.set_epoch(int(state["epoch"]))
        self._resume = (int(state["epoch"]), int(state["batch"]), state.get("stop"))
        self._at = self._resume

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to mean the same batches."""
        ranks = self._place()[1]
        identity = {"samples": len(self._reader), "ranks": ranks} | asdict(self.order)
        if ranks == 1:
            del identity["even"]
        return identity

    def _plan(self, ranks: int) -> BatchPlan:
        return BatchPlan(
            samples=len(self._reader),
            batch_size=self.order.batch_size,
            ranks=ranks,
            drop_last=self.order.drop_last,
            even=self.order.even,
        )

    def _place(self) -> tuple[int, int]:
        return self._place_of_parent or place()


class _Loader(DataLoader[Batch], Reporting):
    """A torch DataLoader over batches, which Accelerate takes for one that it has prepared."""

    _is_accelerate_prepared = True
    dataset: Batches

    def __iter__(self) -> Any:
        loaded = super().__iter__()
        device = device_of_process()
        # Without workers the batches do by themselves what follows.
        return loaded if device is None or not self.num_workers else self._reported(loaded, device)

    def set_epoch(self, epoch: int) -> None:
        """As that of the batches."""
        self.dataset.set_epoch(epoch)

    def _reported(self, loaded: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
        form = SampleForm(dtype=None, device=self.dataset.form.device or device)
        ranks = self.dataset._place()[1]
        with self.reporting(self.dataset._plan(ranks).remainder):
            following = next(loaded, None)
            while following is not None:
                batch, following = following, next(loaded, None)
                self.end_of_dataloader = following is None
                yield form.give(batch)


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
