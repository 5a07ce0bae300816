"""Which rows make which shard: known before anything is read, so that shards can be written in any order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zoo_datasets.builders.shards import writer as shards
from zoo_datasets.builders.sources.base import StateBlock
from zoo_datasets.repository.row import SPLITS

SHARD_BYTES = 500_000_000
# Threads share the work shard by shard, and a build that was killed loses those that it had begun: a split of a
# block is cut in sixteen, but not for the sake of a few megabytes, as a reader afar fetches the footer of each.
SMALL_SHARD_BYTES = 16_000_000
SHARDS_OF_A_SPLIT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPart:
    """The contents of one shard: models of one split at some epochs; `place` is that of the shard in its split."""

    split: str
    place: int
    block: StateBlock


def plan(blocks: Sequence[StateBlock], row_bytes: int, states: int) -> list[ShardPart]:
    """The shards of a source, by block, split, epoch and model.

    A split of a block is cut into shards of about equal size, whole epochs where they are small enough; none has
    more than `SHARD_BYTES` of raw weights, but for one row that is larger. The cuts of a block depend on it alone
    as long as a source has a state of each model at each epoch; where many are missing, shards span more.

    Args:
        row_bytes: of raw weights in a row.
        states: of the source; fewer than models × epochs where some have none, more where epochs have steps.
    """
    places = {split: itertools.count() for split in SPLITS}
    rectangles = sum(len(block.models) * len(block.epochs) for block in blocks)
    share = states / max(rectangles, 1)
    return [
        ShardPart(split=split, place=next(places[split]), block=part)
        for by_split in (block.by_split() for block in blocks)
        for split in SPLITS
        if split in by_split
        for part in _cut(by_split[split], row_bytes, share)
    ]


def _cut(block: StateBlock, row_bytes: int, share: float) -> Iterator[StateBlock]:
    models, epochs = len(block.models), len(block.epochs)
    if not models or not epochs:
        return
    expected = models * epochs * row_bytes * share
    size = min(max(expected / SHARDS_OF_A_SPLIT, SMALL_SHARD_BYTES), SHARD_BYTES) / share
    if models * row_bytes <= size:
        for start, stop in _even(epochs, int(size // (models * row_bytes))):
            yield dataclasses.replace(block, epochs=block.epochs[start:stop])
        return
    most = max(int(size // row_bytes), 1)
    group = shards.rows_of_a_group(row_bytes)
    most -= most % group if most > group else 0
    for epoch in block.epochs:
        for start in range(0, models, most):
            yield StateBlock(models=block.models[start : start + most], epochs=(epoch,))


def _even(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of about equal length, none longer than `most`."""
    pieces = -(-count // most)
    for index in range(pieces):
        yield index * count // pieces, (index + 1) * count // pieces
