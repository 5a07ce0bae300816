"""Features and targets of the rows of a split, read once in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.evaluation.features.base import Matrix, Transform
from zoo_datasets.loading.load import SplitBy, load_zoo
from zoo_datasets.loading.repositories.cuts import parse_cut
from zoo_datasets.loading.repositories.location import Location
from zoo_datasets.loading.samples import SampleForm, ZooReader, values_of
from zoo_datasets.networks.kind import KIND_COLUMNS
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.row import LAYOUT, SPLITS, WEIGHTS
from zoo_datasets.storage.cores import cores

_BATCH_BYTES = 8_000_000
GROUP, STEP = "group", "step"
_IDS = ("model_id", "parent_id", "epoch", "activation", *KIND_COLUMNS)


@dataclass(frozen=True)
class SampleRows:
    """The rows of one split of a zoo whose weights are finite.

    Attributes:
        zoo: the config's name.
        kept: positions of the rows with finite weights, int64 [N].
        cut: the column by whose value rows are in a split, where it is not the repository's own cut.
        left_out: number of the others.
    """

    zoo: str
    split: str
    data: Dataset
    kept: NDArray[np.int64]
    cut: str | None = None

    @property
    def left_out(self) -> int:
        return len(self.data) - len(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    @cached_property
    def reader(self) -> ZooReader:
        return ZooReader(self.data, [WEIGHTS], self.kept)

    @property
    def layout(self) -> WeightLayout:
        return self.reader.layout

    @cached_property
    def models(self) -> NDArray[np.int64]:
        """The number of each row's model, int64 [N]; models are numbered from 0 on."""
        names = self.column("model_id").combine_chunks().dictionary_encode()
        names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
        return cast(NDArray[np.int64], names.indices.to_numpy().astype(np.int64))

    @cached_property
    def families(self) -> frozenset[str]:
        """The ids of the models, of a twin its parent's."""
        own, parents = self.column("model_id"), self.column("parent_id")
        return frozenset(pc.unique(pc.coalesce(parents, own)).to_pylist())

    @cached_property
    def group_codes(self) -> NDArray[np.int64]:
        """The number of each row's group, int64 [N], from 0 on. Groups lie in one split whole: by the column of the
        cut, or else by `group`, where a model without one is in that of its parent."""
        if self.cut is not None:
            names = self.column(self.cut)
        else:
            columns = [name for name in (GROUP, "parent_id", "model_id") if name in self.data.column_names]
            names = pc.coalesce(*map(self.column, columns))
        coded = names.combine_chunks().dictionary_encode(null_encoding="encode")
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        return cast(NDArray[np.int64], coded.indices.to_numpy().astype(np.int64))

    @property
    def groups(self) -> int:
        """Number of groups; see `group_codes`."""
        return int(self.group_codes.max()) + 1 if len(self) else 0

    def column(self, name: str) -> pa.ChunkedArray:
        """A column, in the order of the rows."""
        return values_of(self.data, name).take(pa.array(self.kept))

    def table(self, names: Sequence[str]) -> pa.Table:
        """Some columns, in the order of the rows."""
        return pa.table({name: self.column(name) for name in names})

    def sample(self, limit: int, seed: int = 0) -> Matrix:
        """The weights of at most `limit` rows drawn without replacement, float32 [·, D]."""
        places = np.arange(len(self)) if len(self) <= limit else _draw(len(self), limit, seed)
        return cast(Matrix, self.reader.read(places, SampleForm())[WEIGHTS].numpy())


def _draw(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = np.random.default_rng(seed).permutation(count)[:limit]
    return np.sort(drawn)


def read_splits(
    repo: str | Path,
    name: str,
    columns: Sequence[str],
    *,
    where: str | None = None,
    split_by: SplitBy = "model",
    revision: str | None = None,
) -> dict[str, SampleRows]:
    """The splits of a zoo, with weights and some columns; rows with weights that are not finite are left out.

    Raises:
        RepositoryError: if a model, or a twin of it, is in two splits.
        UnknownNameError: if the repository has no such zoo, or the zoo no such column.
    """
    cut = parse_cut(split_by)
    by = None if cut is None or cut.named else cut.column
    ids = [*_IDS, *_ids_of_open(repo, name, revision), *([] if by is None else [by])]
    wanted = list(dict.fromkeys([*ids, *columns, WEIGHTS]))
    loaded = load_zoo(repo, name, columns=wanted, where=where, split_by=split_by, revision=revision)
    splits = cast(DatasetDict, loaded).items()
    parts = {split: replace(finite_rows(name, split, data), cut=by) for split, data in splits}
    present = [part for part in SPLITS if part in parts]
    for place, first in enumerate(present):
        for second in present[place + 1 :]:
            check_apart(parts[first], parts[second])
    return parts


def _ids_of_open(repo: str | Path, name: str, revision: str | None) -> tuple[str, ...]:
    """What tells the networks and groups of open rows, their own columns among it; nothing of others."""
    manifest = Location.of(repo, revision).resolved()[0].zoo_manifest(name)
    if manifest is None or manifest.open is None:
        return ()
    return (GROUP, LAYOUT, STEP, *(column.name for column in manifest.open.further))


def check_apart(first: SampleRows, second: SampleRows) -> None:
    """That no model, nor a twin of it, is in both.

    Raises:
        RepositoryError: naming one that is.
    """
    both = first.families & second.families
    if both:
        raise RepositoryError(
            f"{len(both):,} models are in {first.zoo} {first.split} and in {second.zoo} {second.split}, as "
            f"{min(both)}; expected none: what is learned from one must not be tested on it"
        )


def finite_rows(name: str, split: str, data: Dataset) -> SampleRows:
    """The rows of one split whose weights are finite."""
    reader = ZooReader(data, [WEIGHTS])
    finite: list[NDArray[np.bool_]] = _in_batches(reader, lambda weights: np.isfinite(weights).all(axis=1))
    kept = np.flatnonzero(np.concatenate(finite)) if finite else np.zeros(0, np.int64)
    return SampleRows(name, split, data, kept)


def features_of(rows: SampleRows, transform: Transform) -> Matrix:
    """The features of all rows, float32 [N, F], computed in batches by as many threads as there are cores.

    Raises:
        SpecError: if no row has finite weights.
    """
    if not len(rows):
        raise SpecError(f"{rows.zoo} {rows.split} has no rows with finite weights")
    matrices: list[Matrix] = _in_batches(rows.reader, transform, rows=len(rows))
    return matrices[0]


def _in_batches(reader: ZooReader, of: Callable[[Matrix], Any], rows: int | None = None) -> list[Any]:
    """`of` each batch of weights, in order. With `rows` the results are put into one matrix as they come."""
    size = max(_BATCH_BYTES // (4 * reader_width(reader)), 1)
    form = SampleForm(copy=False)
    done: list[Any] = []
    matrix: Matrix | None = None

    def jobs(pool: ThreadPoolExecutor) -> Iterator[tuple[int, Future[Any]]]:
        for start in range(0, len(reader), size):
            # Read here, in one thread: the reader's memory is not shared between threads.
            weights = reader.read(slice(start, min(start + size, len(reader))), form)[WEIGHTS].numpy()
            yield start, pool.submit(of, weights)

    def put(start: int, result: Any) -> None:
        nonlocal matrix
        if rows is None:
            done.append(result)
            return
        if matrix is None:
            matrix = np.empty((rows, result.shape[1]), np.float32)
        matrix[start : start + len(result)] = result

    threads = cores()
    waiting: deque[tuple[int, Future[Any]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs(pool):
            waiting.append(job)
            if len(waiting) > 2 * threads:
                start, future = waiting.popleft()
                put(start, future.result())
        for start, future in waiting:
            put(start, future.result())
    return done if rows is None else [matrix]


def reader_width(reader: ZooReader) -> int:
    """Length D of the weight vectors that a reader gives.

    Raises:
        SpecError: if they have several lengths.
    """
    kind = reader.zoo.data.schema.field(WEIGHTS).type
    if not pa.types.is_fixed_size_list(kind):
        raise SpecError(
            "the weights of these rows have several lengths, as they are networks of several layouts, and features are "
            "of one; write the rows of one layout into a config of their own by zoo select"
        )
    return int(kind.list_size)


def types_of(rows: SampleRows) -> dict[str, pa.DataType]:
    """The Arrow types of the columns."""
    schema = rows.data.data.schema
    return {field.name: field.type for field in schema}


def numbers_of(rows: SampleRows, name: str) -> NDArray[np.float64]:
    """A column of numbers, float64 [N]; null is NaN.

    Raises:
        UnknownNameError: if the rows have no such column.
        SpecError: if it holds no numbers.
    """
    if name not in rows.data.column_names:
        raise UnknownNameError("column", name, rows.data.column_names)
    column = rows.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise SpecError(f"column {name!r} is {column.type}, expected numbers")
    return cast(NDArray[np.float64], pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy())
