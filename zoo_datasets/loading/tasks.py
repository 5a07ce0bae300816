"""The tasks of the model zoo paper (Schürholt et al., 2022, section 4), each as batches of one call.

Every task takes a zoo as `load_zoo` gives it for one split, and the options of `batches` (batch_size, shuffle,
seed, drop_last, device, dtype, layers, copy, buffer, even). A batch holds `weights`, what is given, and `target`, what
is wanted. Reconstruction and property prediction take streamed zoos too; the others need rows that lie far apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, Unpack

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading.batches import Batches, Options, batches_of, reader_of
from zoo_datasets.loading.order import integer_argument
from zoo_datasets.loading.samples import Batch, ZooReader, floating_dtype, values_of
from zoo_datasets.native.rows import Positions
from zoo_datasets.repository.row import WEIGHTS

TARGET = "target"
STEP = "step"
State: TypeAlias = int | tuple[int, int]
"""An epoch, or an epoch and a step."""


def reconstruction(zoo: Dataset | IterableDataset, columns: Sequence[str] = (), **options: Unpack[Options]) -> Batches:
    """w → w: `target` is `weights` itself, float32 [B, D]; `columns` come with it."""
    return batches_of(reader_of(zoo, [WEIGHTS, *columns]), lambda batch: batch | {TARGET: batch[WEIGHTS]}, **options)


def property_prediction(zoo: Dataset | IterableDataset, targets: Sequence[str], **options: Unpack[Options]) -> Batches:
    """w → properties: `target` [B, P] holds the columns `targets` in their order; a null is NaN.

    Raises:
        SpecError: if a target is no column of numbers.
    """
    if isinstance(targets, str) or not targets:
        raise SpecError(f"targets={targets!r}: expected a list of at least one column")
    reader = reader_of(zoo, [WEIGHTS, *targets])
    for name in targets:
        if not (pa.types.is_integer(kind := reader.schema.field(name).type) or pa.types.is_floating(kind)):
            raise SpecError(f"target {name!r} is a column of {kind}, expected numbers")
    dtype = options.get("dtype", torch.float32)
    dtype = None if dtype is None else floating_dtype(dtype)

    def finish(batch: Batch) -> Batch:
        values = [batch[name] if dtype is None else batch[name].to(dtype) for name in targets]
        return batch | {TARGET: torch.stack(values, dim=1)}

    return batches_of(reader, finish, **options)


def sequence_prediction(
    zoo: Dataset, source: State, target: State, columns: Sequence[str] = (), **options: Unpack[Options]
) -> Batches:
    """w at `source` → w at `target` of the same model, each [B, D].

    `columns` come for the source under their names and for the target as `target_…`. Models that lack one of the
    states are left out.

    Args:
        source, target: epochs, of which the last step counts; or pairs (epoch, step).

    Raises:
        SpecError: if no model has both states.
    """
    _, rows = _States(zoo).grid([source, target])
    return batches_of(ZooReader(zoo, [WEIGHTS, *columns], rows), _pair, **options)


def trajectories(
    zoo: Dataset, epochs: Iterable[State] | None = None, columns: Sequence[str] = (), **options: Unpack[Options]
) -> Batches:
    """Whole trainings: `weights` [B, T, D], `epoch` and, where states have steps, `step` [B, T]; one row of each batch
    a model.

    Args:
        epochs: T of them, or of pairs (epoch, step), in the order wanted. None means all states that the zoo has by
            (epoch, step); by epoch alone where no model has two of one epoch. Models that lack one are left out.

    Raises:
        SpecError: if no model has all of them.
    """
    states = _States(zoo)
    rows = states.grid(states.held() if epochs is None else list(epochs))[1]
    key = ["epoch"] if states.steps is None else ["epoch", STEP]
    return batches_of(ZooReader(zoo, list(dict.fromkeys([WEIGHTS, *key, *columns])), rows), **options)


def dense_sparse_pairs(
    dense: Dataset,
    sparse: Dataset,
    columns: Sequence[str] = (),
    dense_epoch: int | None = None,
    sparse_epoch: int | None = None,
    **options: Unpack[Options],
) -> Batches:
    """A dense model → its sparse twin: `weights` and `target`, each [B, D].

    `columns` come for the dense model under their names and for the twin as `target_…`. Twins whose parent is not
    in `dense` are left out.

    Args:
        dense_epoch, sparse_epoch: None means the last one of each zoo.

    Raises:
        SpecError: if no twin has its parent here.
    """
    pairs = _twins(dense, sparse, dense_epoch, sparse_epoch)
    rows = pairs + np.array([0, len(dense)])
    names = [WEIGHTS, *columns]
    both = datasets.concatenate_datasets([part.select_columns(names) for part in (dense, sparse)])
    layout = ZooReader(dense, []).layout if options.get("layers") else None
    return batches_of(ZooReader(both, names, rows, layout), _pair, **options)


def join_twins(
    dense: Dataset,
    sparse: Dataset,
    columns: Sequence[str] | None = None,
    dense_epoch: int | None = None,
    sparse_epoch: int | None = None,
) -> pa.Table:
    """Dense models beside their sparse twins: a row for each twin whose parent is in `dense`.

    Args:
        dense, sparse: as `load_zoo` gives them for one split, not streamed.
        columns: those to join; None means all that both zoos have but the weights.
        dense_epoch, sparse_epoch: None means the last one of each zoo.

    Returns:
        the columns of the dense model under their names, those of its twin as `sparse_…`.

    Raises:
        SpecError: if no twin has its parent here, or `columns` are no list.
        UnknownNameError: if a zoo lacks a column.
    """
    if isinstance(columns, str):
        raise SpecError(f"columns={columns!r}: expected a list of names")
    pairs = _twins(dense, sparse, dense_epoch, sparse_epoch)
    common = [name for name in dense.column_names if name in sparse.column_names and name != WEIGHTS]
    joined = {}
    for zoo, rows, prefix in ((dense, pairs[:, 0], ""), (sparse, pairs[:, 1], "sparse_")):
        for name in common if columns is None else dict.fromkeys(columns):
            if name not in zoo.column_names:
                raise UnknownNameError("column", name, zoo.column_names, "Was it left out of load_zoo's columns?")
            joined[f"{prefix}{name}"] = values_of(zoo, name).take(pa.array(rows))
    return pa.table(joined)


def _twins(dense: Dataset, sparse: Dataset, dense_epoch: int | None, sparse_epoch: int | None) -> Positions:
    """The rows of dense models and of their twins, int64 [P, 2], in the order of the twins.

    Raises:
        SpecError: if no twin has its parent here, or no model an epoch.
    """
    parents, dense_rows = _States(dense).grid([_last(dense) if dense_epoch is None else dense_epoch])
    _, sparse_rows = _States(sparse).grid([_last(sparse) if sparse_epoch is None else sparse_epoch])
    parent_ids = values_of(sparse, "parent_id").take(pa.array(sparse_rows[:, 0]))
    place = pc.index_in(parent_ids, value_set=parents).fill_null(-1).to_numpy()
    paired = place >= 0
    if not paired.any():
        raise SpecError(f"none of the {len(place):,} twins has its parent among the {len(parents):,} dense models")
    return np.stack([dense_rows[place[paired], 0], sparse_rows[paired, 0]], axis=1)


def _pair(batch: Batch) -> Batch:
    """Columns of two rows a sample as two columns."""
    pairs: Batch = {}
    for name, values in batch.items():
        target = TARGET if name == WEIGHTS else f"{TARGET}_{name}"
        pairs[name], pairs[target] = (_step(values, step) for step in (0, 1))
    return pairs


def _step(values: Any, step: int) -> Any:
    if isinstance(values, Tensor):
        return values[:, step]
    if isinstance(values, dict):  # layers
        return {name: tensor[:, step] for name, tensor in values.items()}
    return [pair[step] for pair in values]


class _States:
    """The rows of a zoo by model, epoch and step.

    Attributes:
        steps: int64, −1 where a row has none; None if no row has one, or the column was not loaded.
    """

    def __init__(self, zoo: Dataset) -> None:
        models = values_of(zoo, "model_id").combine_chunks().dictionary_encode()
        if isinstance(models, pa.ChunkedArray):
            models = models.combine_chunks()
        self._ids = models.dictionary
        self._models = models.indices.to_numpy()
        self._epochs = values_of(zoo, "epoch").to_numpy()
        column = values_of(zoo, STEP) if STEP in zoo.column_names else None
        self.steps = None if column is None or column.null_count == len(column) else pc.fill_null(column, -1).to_numpy()
        # Of several steps of an epoch the last one is written last, and counts.
        self._order = np.arange(len(self._epochs)) if self.steps is None else np.argsort(self.steps, kind="stable")

    def held(self) -> list[State]:
        """All states of the zoo, ascending: epochs, or pairs if models have several steps of an epoch.

        Raises:
            SpecError: if several rows of a model and epoch cannot be told apart.
        """
        keys = np.stack([self._models, self._epochs], axis=1)
        if len(np.unique(keys, axis=0)) == len(keys):
            return [int(epoch) for epoch in np.unique(self._epochs)]
        if self.steps is None:
            raise SpecError("models have several rows of one epoch; load the zoo with its column step")
        pairs = np.unique(np.stack([self._epochs, self.steps], axis=1), axis=0).tolist()
        return [(epoch, step) for epoch, step in pairs]

    def grid(self, states: Sequence[State]) -> tuple[pa.Array, Positions]:
        """The models that have all the states, and their rows in the zoo, int64 [M, T]; in the order of first rows.

        Raises:
            SpecError: if a state is neither an epoch nor a pair, or no model has all of them.
        """
        rows = np.full((len(self._ids), len(states)), -1, np.int64)
        for place, state in enumerate(states):
            here = self._order[self._at(state)[self._order]]
            rows[self._models[here], place] = here
        complete = (rows >= 0).all(axis=1)
        if not states or not complete.any():
            what = "epochs" if self.steps is None else "epochs and steps"
            held = sorted(set(self._epochs.tolist()))
            raise SpecError(f"no model has all of the {what} {list(states)}; the zoo holds {held}")
        return self._ids.filter(pa.array(complete)), rows[complete]

    def _at(self, state: State) -> NDArray[np.bool_]:
        """Whether each row is of a state."""
        if not isinstance(state, tuple):
            return np.asarray(self._epochs == integer_argument("epoch", state))
        if len(state) != 2:
            raise SpecError(f"found {brief(state)}, expected an epoch, or a pair of epoch and step")
        epoch, step = integer_argument("epoch", state[0]), integer_argument("step", state[1])
        if self.steps is None:
            raise SpecError(f"found the pair {brief(state)}, but the rows have no steps; give epochs")
        return np.asarray((self._epochs == epoch) & (self.steps == step))


def _last(zoo: Dataset) -> int:
    return int(pc.max(values_of(zoo, "epoch")).as_py())
