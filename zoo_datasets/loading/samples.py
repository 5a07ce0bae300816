"""Samples of a prepared zoo as tensors: which rows a sample is made of, and reading some of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading.order import Order
from zoo_datasets.native.ragged import RaggedRows, is_ragged
from zoo_datasets.native.rows import MappedRows, Positions, Recycled, is_numbers_list
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import record_named
from zoo_datasets.repository.row import LAYOUT, WEIGHTS

Batch: TypeAlias = dict[str, Any]
# What rows of weights of any length are taken for where that is not known.
_RAGGED_BYTES = 16_384
_FLOATING = ("float16", "bfloat16", "float32", "float64")
LAYERS = "layers"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleForm:
    """How values are returned.

    Attributes:
        dtype: of everything that is a floating-point number; None leaves each column as it is.
        device: where the tensors go; for CUDA they are read into pinned memory. None is the CPU.
        layers: whether `weights` come layer by layer too, as `layers`.
        copy: False gives weights in stored order as views of the read-only file where possible.
    """

    dtype: torch.dtype | None = torch.float32
    device: torch.device | None = None
    layers: bool = False
    copy: bool = True

    @classmethod
    def of(cls, *, dtype: Any = torch.float32, device: Any = None, **options: bool) -> SampleForm:
        """The form of the options of `batches`.

        Raises:
            SpecError: if the dtype is not of floating-point numbers, or there is no such device.
        """
        return cls(
            dtype=None if dtype is None else floating_dtype(dtype),
            device=None if device is None else available_device(device),
            **options,
        )

    @property
    def pinned(self) -> bool:
        """Whether tensors start in pinned memory."""
        return self.device is not None and self.device.type == "cuda"

    def give(self, batch: Batch) -> Batch:
        """A batch, or several of them by name, on the device and in the dtype."""

        def nested(values: Any) -> Any:
            return self.give(values) if isinstance(values, dict) else values

        return {name: self.place(v) if isinstance(v, Tensor) else nested(v) for name, v in batch.items()}

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, in the dtype."""
        if self.dtype is not None and tensor.dtype == torch.float64:  # which some devices lack
            tensor = tensor.to(self.dtype)
        if self.device is not None:
            if self.pinned and not tensor.is_pinned():
                tensor = tensor.pin_memory()
            tensor = tensor.to(self.device, non_blocking=self.pinned)
        return tensor.to(self.dtype) if self.dtype is not None and tensor.is_floating_point() else tensor


def floating_dtype(dtype: Any) -> torch.dtype:
    """A torch dtype of floating-point numbers, also by its name or as numpy's.

    Raises:
        SpecError: if it is another one: weights as whole numbers would nearly all be 0.
    """
    name = str(dtype) if isinstance(dtype, (str, torch.dtype)) else getattr(dtype, "__name__", str(dtype))
    name = name.removeprefix("torch.")
    if name not in _FLOATING:
        raise SpecError(f"dtype={brief(name)}: expected {', '.join(_FLOATING)}, or None for the stored ones")
    return cast(torch.dtype, getattr(torch, name))


def available_device(device: Any) -> torch.device:
    """A device of torch's that this process can use.

    Raises:
        SpecError: if there is no such device.
    """
    try:
        place = torch.device(device)
        if place.type == "cuda":  # asked so that CUDA is not started, which would keep workers from it
            usable = (place.index or 0) < torch.cuda.device_count()
        else:
            usable = torch.empty(0, device=place).device.type == place.type
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        reason = str(error).partition("\n")[0][:150]
        raise SpecError(f"device={brief(device)} cannot be used here: {reason}") from None
    if not usable:
        raise SpecError(
            f"device={str(device)!r}: torch sees {torch.cuda.device_count()} CUDA devices here; use device='cpu', or a "
            "torch that was built for them"
        )
    return place


class Epoch(Protocol):
    """The samples of one epoch in its order."""

    def read(self, start: int, stop: int, form: SampleForm) -> Batch:
        """Samples start … stop − 1, in memory and as they are stored; starts never fall.

        After the last sample, S − 1, the epoch begins again: position S is that of sample 0."""

    def close(self) -> None:
        """Give up what was read ahead."""


class Reader(Protocol):
    """Where samples come from.

    Attributes:
        columns: those read of each row.
        in_pieces: whether neighbouring samples are cheaper to read than scattered ones, so that each process, and
            each worker of a DataLoader, should have a piece of the epoch of its own.
        row_bytes: bytes of a sample in memory, nearly.
    """

    in_pieces: bool

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def row_bytes(self) -> int: ...

    def __len__(self) -> int:
        """Number of samples S."""

    @property
    def layout(self) -> WeightLayout:
        """The layout of the weights."""

    def epoch(self, order: Order, epoch: int, stop: int) -> Epoch:
        """The samples of an epoch, of which those up to `stop` − 1 will be read."""


class ZooReader:
    """Columns of a map-style zoo, read at any samples.

    A sample is one row, or T rows where `samples` is [S, T]: then tensors have the shape [B, T, …] and
    texts come as lists of T.

    Args:
        zoo: as `load_zoo` gives it for one split; selections, filters and shuffles of it are followed.
        columns: the columns wanted; None means all.
        samples: rows of the zoo that each sample is made of, int64 [S] or [S, T]; None means each row.
        layout: of the weights; None derives it from the columns of the zoo when it is needed.

    Raises:
        SpecError: if the zoo is no map-style dataset.
        UnknownNameError: if it has no such column.
        LayoutError: if weights are no lists of fixed length, or are null.
    """

    in_pieces = False

    def __init__(
        self,
        zoo: Dataset,
        columns: Sequence[str] | None = None,
        samples: Positions | None = None,
        layout: WeightLayout | None = None,
    ) -> None:
        if not isinstance(zoo, Dataset):
            raise SpecError(
                f"got a {type(zoo).__name__}, expected a datasets.Dataset; give load_zoo a split, or choose one by "
                'zoo["train"]'
            )
        if isinstance(columns, str):
            raise SpecError(f"columns={columns!r}: expected a list of names")
        self.zoo = zoo
        self.columns = list(zoo.column_names if columns is None else dict.fromkeys(columns))
        self.samples = samples
        self._layout = layout
        for name in self.columns:
            if name not in zoo.column_names:
                raise UnknownNameError("column", name, zoo.column_names, "Was it left out of load_zoo's columns?")
        # A selection is an index in front of the table; `datasets` has no public name for it.
        index = zoo._indices
        self._index: Positions | None = None if index is None else index.column(0).to_numpy().astype(np.int64)
        self._table = Columns(zoo.data, self.columns, Recycled())

    def __len__(self) -> int:
        """Number of samples S."""
        return len(self.zoo) if self.samples is None else len(self.samples)

    @property
    def schema(self) -> pa.Schema:
        """Of the zoo's table."""
        return self.zoo.data.schema

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a sample in memory, nearly."""
        steps = 1 if self.samples is None or self.samples.ndim == 1 else self.samples.shape[1]
        ragged = sum(source.mean_bytes for source in self._table.ragged)
        return steps * row_bytes(self.schema, [name for name in self.columns if not self._is_ragged(name)]) + ragged

    def _is_ragged(self, name: str) -> bool:
        return name == WEIGHTS and is_ragged(self.schema.field(name).type)

    def __reduce__(self) -> tuple[Any, ...]:
        # The matrices are views of mapped files: another process maps them anew.
        return ZooReader, (self.zoo, self.columns, self.samples, self._layout)

    @cached_property
    def layout(self) -> WeightLayout:
        """The layout of the weights.

        Raises:
            SpecError: if the zoo lacks the columns that tell it, or mixes architectures.
        """
        if self._layout is not None:
            return self._layout
        return layout_of_columns(self.zoo)

    @cached_property
    def layouts(self) -> list[str] | None:
        """The hashes of the layouts of open rows; None of others."""
        if LAYOUT not in self.zoo.column_names:
            return None
        return [str(name) for name in pc.unique(values_of(self.zoo, LAYOUT)).to_pylist()]

    def epoch(self, order: Order, epoch: int, stop: int) -> Epoch:
        """The samples in the order of an epoch."""
        return _Permuted(self, len(self), order.permutation(len(self), epoch))

    def read(self, samples: slice | Positions, form: SampleForm) -> Batch:
        """Some samples, in memory and as they are stored: `samples` is a slice with start and stop, or int64 [B]."""
        where, steps = self._rows(samples)
        return self._table.read(where, form, steps)

    def _rows(self, samples: slice | Positions) -> tuple[slice | Positions, tuple[int, ...]]:
        """Rows of the table, flat, and the lengths of the axes that follow B."""
        steps: tuple[int, ...] = ()
        rows = samples
        if self.samples is not None:
            grid = self.samples[samples]
            rows, steps = grid.reshape(-1), grid.shape[1:]
        if self._index is not None:
            rows = self._index[rows]
        return rows, steps


@dataclass(frozen=True, slots=True)
class _Permuted:
    reader: ZooReader
    count: int
    order: Positions | None

    def read(self, start: int, stop: int, form: SampleForm) -> Batch:
        samples = slice(start, stop) if stop <= self.count else np.arange(start, stop) % self.count
        return self.reader.read(samples if self.order is None else self.order[samples], form)

    def close(self) -> None:
        pass


class Columns:
    """Some columns of a table: a tensor for each column of numbers, a list for each column of texts.

    Null is NaN in columns of floating-point numbers; a column of whole numbers with a null among them, and of
    anything else, is a list.

    Args:
        memory: of the batches of weights.
    """

    def __init__(self, table: Any, names: Sequence[str], memory: Recycled) -> None:
        self._memory = memory
        self._sources = {name: _source(table.column(name), name) for name in names}

    @property
    def ragged(self) -> list[RaggedRows]:
        """The columns of weights of any length."""
        return [source for source in self._sources.values() if isinstance(source, RaggedRows)]

    def read(self, where: slice | Positions, form: SampleForm, steps: tuple[int, ...] = ()) -> Batch:
        """Some rows, a slice with start and stop or int64 [B · steps]; tensors have the shape [B, *steps, …]."""
        return {name: self._column(name, where, steps, form) for name in self._sources}

    def _column(self, name: str, where: slice | Positions, steps: tuple[int, ...], form: SampleForm) -> Any:
        source = self._sources[name]
        if isinstance(source, RaggedRows):
            if steps:
                raise SpecError(
                    "rows of several steps need networks of one layout; take those of one by by_layout(zoo)"
                )
            return source.batch(where)
        if isinstance(source, MappedRows):
            rows = self._read_rows(source, where, form)
            return rows.view(-1, *steps, source.width) if steps else rows
        if isinstance(source, Tensor):
            values = source[where].clone() if isinstance(where, slice) else source[torch.from_numpy(where)]
            return values.view(-1, *steps) if steps else values
        listed = source.read(where)
        if not steps:
            return listed
        size = steps[0]
        return [listed[start : start + size] for start in range(0, len(listed), size)]

    def _read_rows(self, source: MappedRows, where: slice | Positions, form: SampleForm) -> Tensor:
        if isinstance(where, slice):
            if not form.copy and not form.pinned:
                view = source.view(where.start, where.stop)
                if view is not None:
                    return view
            out = self._empty(where.stop - where.start, source, form)
            source.copy(where.start, where.stop, out)
        else:
            out = self._empty(len(where), source, form)
            source.gather(where, out)
        return out

    def _empty(self, rows: int, source: MappedRows, form: SampleForm) -> Tensor:
        if form.pinned:  # torch itself uses pinned memory again
            return torch.empty(rows, source.width, dtype=source.dtype, pin_memory=True)
        return self._memory.empty(rows, source.width, source.dtype)


def layout_of_columns(zoo: Dataset) -> WeightLayout:
    """The layout that all rows of a zoo share, by their architecture, in_channels and classes.

    Raises:
        SpecError: if a column is missing, the rows differ, or the zoo has none.
    """
    if LAYOUT in zoo.column_names:
        names = pc.unique(values_of(zoo, LAYOUT)).to_pylist()
        if len(names) != 1:
            raise SpecError(f"the rows have {len(names)} layouts, expected one; take those of one by by_layout(zoo)")
        return record_named(names[0]).layout
    constants: dict[str, Any] = {}
    for name in KIND_COLUMNS:
        if name not in zoo.column_names:
            raise SpecError(
                f"the zoo lacks column {name!r}, which its layout follows from; add it to load_zoo's columns"
            )
        values = pc.unique(zoo.data.column(name)).to_pylist()
        if len(values) != 1:
            raise SpecError(f"column {name!r} holds {values}, expected one value: layers need one architecture")
        constants[name] = values[0]
    return NetworkKind.of_row(constants).layout


class _Texts:
    """A column of few different values: their numbers, so that a batch costs no decoding."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        self._values = [*encoded.dictionary.to_pylist(), None]
        # Null is the last entry: what a number of −1 finds.
        self._numbers: Positions = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)

    def read(self, where: slice | Positions) -> list[Any]:
        return [self._values[number] for number in self._numbers[where].tolist()]


class _Others:
    """A column of any other type, as Python's objects."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def read(self, where: slice | Positions) -> list[Any]:
        if isinstance(where, slice):
            return list(self._column.slice(where.start, where.stop - where.start).to_pylist())
        return list(self._column.take(pa.array(where)).to_pylist())


def _source(column: pa.ChunkedArray, name: str) -> MappedRows | RaggedRows | Tensor | _Texts | _Others:
    type_ = column.type
    if name == WEIGHTS and is_ragged(type_):
        return RaggedRows(column, name)
    if name == WEIGHTS or (is_numbers_list(type_) and not column.null_count):
        return MappedRows(column, name)
    if pa.types.is_floating(type_):
        return torch.from_numpy(pc.fill_null(column, float("nan")).to_numpy().copy())
    if (pa.types.is_integer(type_) or pa.types.is_boolean(type_)) and not column.null_count:
        return torch.from_numpy(column.to_numpy().copy())
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return _Texts(column)
    return _Others(column)


def row_bytes(schema: pa.Schema, columns: Sequence[str]) -> int:
    """Bytes of a row's columns in memory, nearly: of texts only their numbers are kept."""
    kinds = [schema.field(name).type for name in columns]
    return 8 + sum(map(_bytes_of, kinds))


def _bytes_of(kind: pa.DataType) -> int:
    if is_numbers_list(kind):
        return 4 * int(kind.list_size)
    return _RAGGED_BYTES if is_ragged(kind) else 8


def values_of(zoo: Dataset, name: str) -> pa.ChunkedArray:
    """A whole column in the order of the zoo's rows.

    Raises:
        SpecError: if the zoo lacks it, or is streamed.
    """
    if not isinstance(zoo, Dataset):
        raise SpecError(
            f"got a {type(zoo).__name__}: trajectories and pairs need rows that lie far apart; expected a prepared "
            "zoo of one split, load_zoo without streaming"
        )
    if name not in zoo.column_names:
        raise SpecError(f"the zoo lacks column {name!r}; add it to load_zoo's columns")
    column = zoo.data.column(name)
    return column if zoo._indices is None else column.take(zoo._indices.column(0))
