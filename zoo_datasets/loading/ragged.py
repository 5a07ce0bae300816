"""Batches of networks of different shapes: as tokens, padded, or one by one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.adapters.tokens import to_tokens, token_map
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.loading.order import integer_argument
from zoo_datasets.loading.samples import Batch
from zoo_datasets.native.ragged import RaggedBatch, place_rows
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord, record_named, remember
from zoo_datasets.repository.row import LAYOUT, WEIGHTS

RaggedForm: TypeAlias = Literal["tokens", "padded", "list"]
TOKENS, MASK, POSITION, WEIGHTS_MASK = "tokens", "mask", "position", "weights_mask"


@dataclass(frozen=True, slots=True)
class RaggedFinish:
    """Makes of the rows of a batch what a user asked for; it can go into another process.

    Attributes:
        size: numbers in a token, of tokens.
        records: the networks of the rows, by hash.
        layout: of rows that do not name theirs.
    """

    form: RaggedForm | None
    size: int
    records: Mapping[str, NetworkRecord]
    layout: WeightLayout | None = None

    def __call__(self, batch: Batch) -> Batch:
        weights = batch.pop(WEIGHTS)
        if self.form == "tokens":
            return {**self._tokens(weights, batch.get(LAYOUT)), **batch}
        if isinstance(weights, Tensor):  # all of one length
            if self.form == "list":
                return {WEIGHTS: list(weights), **batch}
            whole = {WEIGHTS_MASK: torch.ones_like(weights, dtype=torch.bool)} if self.form == "padded" else {}
            return {WEIGHTS: weights, **whole, **batch}
        if self.form == "list":
            return {WEIGHTS: weights.rows(), **batch}
        if self.form is None:
            return {WEIGHTS: weights.matrix(), **batch}
        padded = weights.padded()
        mask = torch.arange(padded.shape[1]) < torch.from_numpy(weights.lengths)[:, None]
        return {WEIGHTS: padded, WEIGHTS_MASK: mask, **batch}

    def _tokens(self, weights: RaggedBatch | Tensor, layouts: Sequence[str] | None) -> Batch:
        remember(self.records.values())  # in a worker that begins anew
        if isinstance(weights, Tensor):
            layout = self.layout or record_named((layouts or [""])[0]).layout
            tokens = to_tokens(weights, layout, self.size)
            return {TOKENS: tokens.values, MASK: tokens.mask, POSITION: tokens.position}
        assert layouts is not None
        maps = {name: _cut_of(record_named(name).layout, self.size) for name in dict.fromkeys(layouts)}
        rows = [maps[name] for name in layouts]
        for name, length in zip(layouts, weights.lengths.tolist(), strict=True):
            if length != maps[name].weights:
                raise LayoutError(f"a row has {length:,} weights, its layout {name} says {maps[name].weights:,}")
        longest = max((len(row.position) for row in rows), default=0)
        values = weights.cut([row.plan for row in rows], longest * self.size)
        return {
            TOKENS: values.view(len(rows), longest, self.size),
            MASK: place_rows([row.mask for row in rows], longest),
            POSITION: place_rows([row.position for row in rows], longest),
        }


@dataclass(frozen=True, slots=True)
class _Cut:
    """How rows of one layout become tokens: pieces int32 [P, 3], mask bool [T, d], position int64 [T, 3]."""

    weights: int
    plan: NDArray[np.int32]
    mask: Tensor
    position: Tensor


@functools.lru_cache(maxsize=1 << 14)
def _cut_of(layout: WeightLayout, size: int) -> _Cut:
    source, position = token_map(layout, size)
    flat = source.flatten().numpy()
    places = np.flatnonzero(flat >= 0)
    numbers = flat[places]
    # A piece ends where the next number, or the next place, is not the neighbour.
    ends = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(places) != 1))
    starts = np.concatenate([[0], ends + 1]) if len(places) else np.empty(0, np.int64)
    lengths = np.diff([*starts, len(places)])
    plan = np.stack([numbers[starts], places[starts], lengths], axis=1).astype(np.int32)
    return _Cut(layout.size, np.ascontiguousarray(plan), (source >= 0).contiguous(), position.contiguous())


def ragged_finish(
    form: object,
    size: int | None,
    columns: Sequence[str],
    layouts: Sequence[str] | None,
    layout: WeightLayout | None = None,
) -> RaggedFinish:
    """What makes batches of rows that name their layouts.

    Args:
        form: as of `batches`.
        columns: of the batches.
        layouts: the hashes that the rows have; None if they name none.
        layout: of rows that name none.

    Raises:
        SpecError: if the form makes no sense, or networks of different shapes are asked for as one matrix.
    """
    if form is not None and form not in get_args(RaggedForm):
        raise SpecError(f"ragged={form!r}: expected {', '.join(map(repr, get_args(RaggedForm)))} or None")
    if form == "tokens":
        if size is None:
            raise SpecError("token_size=None: expected a whole number from 1 on, the numbers in a token")
        size = integer_argument("token_size", size, 1)
        if layouts is not None and LAYOUT not in columns:
            raise SpecError(f"tokens need the column {LAYOUT!r}; add it to columns")
    elif size is not None:
        raise SpecError("token_size is for ragged='tokens'")
    if form is None and layouts is not None and len(layouts) > 1:
        raise SpecError(
            f"the rows are networks of {len(layouts)} layouts, which no matrix [B, D] holds: pass ragged='tokens' with "
            "token_size=, ragged='padded' or ragged='list', or take the rows of each layout by by_layout(zoo)"
        )
    records = {} if layouts is None else {name: record_named(name) for name in layouts}
    return RaggedFinish(form, size or 0, records, layout)  # type: ignore[arg-type]


def by_layout(zoo: Dataset) -> dict[str, Dataset]:
    """The rows of a zoo by the hash of their layout: each part gives batches [B, D]; the largest part first.

    Raises:
        SpecError: if the rows do not name their layouts.
    """
    if not isinstance(zoo, Dataset) or LAYOUT not in zoo.column_names:
        raise SpecError(
            f"expected a prepared zoo of one split with the column {LAYOUT!r}, whose rows name their layouts"
        )
    names = zoo.select_columns(LAYOUT).with_format("arrow")[:][LAYOUT].to_pylist()
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name, []).append(position)
    ordered = sorted(positions, key=lambda name: (-len(positions[name]), name))
    return {name: zoo.select(positions[name]) for name in ordered}
