"""Zoos of networks of different sizes in one loader, as tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor

from zoo_datasets.adapters.tokens import count_tokens, mix, position_sizes, to_tokens
from zoo_datasets.errors import SpecError
from zoo_datasets.loading.batches import Batches, Options, batches_of, reader_of
from zoo_datasets.loading.order import Order, integer_argument
from zoo_datasets.loading.samples import Batch, Epoch, Reader, SampleForm
from zoo_datasets.native.rows import Positions
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.row import WEIGHTS

TOKENS, MASK, POSITION, ZOO = "tokens", "mask", "position", "zoo"
_PARTS, _PLACES = "parts", "places"


def mixed_tokens(
    zoos: Mapping[str, Dataset | IterableDataset],
    size: int,
    columns: Sequence[str] = (),
    **options: Unpack[Options],
) -> Batches:
    """Rows of several zoos in one loader: `tokens` and bool `mask` [B, T, size], `position` int64 [B, T, 3], and
    `zoo`, a list of the names; see `adapters.to_tokens`. T is that of the largest network; `columns` come too.
    `position_sizes` of the batches says how many values each number of a position takes, as `nn.Embedding` needs it.

    Shuffled, each batch draws from each zoo in proportion to its rows; otherwise one zoo follows another.

    Args:
        zoos: as `load_zoo` gives them for a list of names and one split, prepared or streamed.
        size: numbers in a token.

    Raises:
        SpecError: if there is no zoo, or layers are asked for.
        UnknownNameError: if a zoo lacks a column.
    """
    if not zoos:
        raise SpecError("mixed_tokens got no zoos, expected at least one")
    if options.get("layers"):
        raise SpecError("layers=True: networks of different architectures come as tokens only")
    size = integer_argument("size", size, 1)
    parts = [reader_of(zoo, [WEIGHTS, *(name for name in columns if name != ZOO)]) for zoo in zoos.values()]
    layouts = [part.layout for part in parts]
    finish = functools.partial(_tokenised, names=tuple(zoos), layouts=layouts, size=size)
    batches = batches_of(_MixedReader(parts), finish, **options)
    batches.position_sizes = position_sizes(layouts, size)
    return batches


class _MixedReader:
    """The samples of several readers, of which each batch holds those of each side by side."""

    def __init__(self, parts: Sequence[Reader]) -> None:
        self._parts = parts
        self.columns = parts[0].columns
        self.in_pieces = any(part.in_pieces for part in parts)
        self.row_bytes = max(part.row_bytes for part in parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def layout(self) -> WeightLayout:
        raise SpecError("networks of different architectures have no common layout")

    def epoch(self, order: Order, epoch: int, stop: int) -> Epoch:
        turns = np.repeat(np.arange(len(self._parts)), [len(part) for part in self._parts])
        permutation = order.permutation(len(turns), epoch, "zoos")
        if permutation is not None:
            turns = turns[permutation]
        if stop > len(turns):  # the epoch begins again, and so do the parts, since each has given all it holds
            turns = np.resize(turns, stop)
        places = [np.flatnonzero(turns == number) for number in range(len(self._parts))]
        stops = [int(np.searchsorted(place, stop)) for place in places]
        epochs = [part.epoch(order, epoch, end) for part, end in zip(self._parts, stops, strict=True)]
        return _MixedEpoch(epochs, places)


@dataclass(frozen=True, slots=True)
class _MixedEpoch:
    """`places` says for each part at which places of the epoch its samples come, one after another."""

    epochs: list[Epoch]
    places: list[Positions]

    def read(self, start: int, stop: int, form: SampleForm) -> Batch:
        parts: dict[int, Batch] = {}
        places = []
        for number, (epoch, place) in enumerate(zip(self.epochs, self.places, strict=True)):
            first, last = np.searchsorted(place, [start, stop]).tolist()
            if last > first:
                places.append(place[first:last] - start)
                parts[number] = epoch.read(first, last, form)
        return {_PARTS: parts, _PLACES: np.concatenate(places)}

    def close(self) -> None:
        for epoch in self.epochs:
            epoch.close()


def _tokenised(batch: Batch, names: tuple[str, ...], layouts: list[WeightLayout], size: int) -> Batch:
    """The parts of a batch as one, in the order of their places."""
    parts: dict[int, Batch] = batch[_PARTS]
    longest = max(count_tokens(layout, size) for layout in layouts)
    mixed = mix([to_tokens(part[WEIGHTS], layouts[number], size) for number, part in parts.items()], longest)
    back = np.argsort(batch[_PLACES])
    index = torch.from_numpy(back).to(mixed.values.device)
    tokens: Batch = {TOKENS: mixed.values[index], MASK: mixed.mask[index], POSITION: mixed.position[index]}
    zoos = [names[number] for number, part in parts.items() for _ in range(len(part[WEIGHTS]))]
    tokens[ZOO] = [zoos[place] for place in back.tolist()]
    for name in next(iter(parts.values())):
        if name != WEIGHTS:
            tokens[name] = _ordered([part[name] for part in parts.values()], back, index)
    return tokens


def _ordered(values: list[Tensor | list[object]], back: Positions, index: Tensor) -> Tensor | list[object]:
    if all(isinstance(value, Tensor) for value in values):
        return torch.cat([value for value in values if isinstance(value, Tensor)])[index]
    listed = [entry for value in values for entry in (value.tolist() if isinstance(value, Tensor) else value)]
    return [listed[place] for place in back.tolist()]
