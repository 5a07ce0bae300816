"""Pictures of fields: many networks of coordinates, asked at every pixel in stacked passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from zoo_datasets.documents import brief
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.loading.modules import NEEDED, convention_of, layers_of, layout_of_row
from zoo_datasets.loading.rows import columns_of, is_table, plain
from zoo_datasets.networks.fields import Convention, grid_points
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layers.chain import inputs_of, tensors_of
from zoo_datasets.repository.row import LAYOUT, WEIGHTS
from zoo_datasets.stacked.network import values_at

_PIECE_BYTES = 64_000_000  # of what the widest layer gives for the networks of a pass
_ROWS_AT_ONCE = 4096  # that are taken out of a data set


@dataclass(frozen=True)
class _Kind:
    """What networks that are computed together have in common."""

    layers: tuple[Layer, ...]
    convention: Convention


def render(rows: Any, size: int, *, convention: Any = None) -> Tensor:
    """The pictures that fields draw: float32 [n, C, size, size], in the order of the rows.

    The first axis of a picture is the channel, the second the row from the top, the third the column from the left.
    Which coordinate is which is told by the column `grid`: in `xy[-1,1]` the first coordinate is the column and the
    second the row, in `yx[-1,1]` the other way round; the first pixel is at −1, the last at 1, whatever the size.
    Values are those of the networks, or where `signal_mean` and `signal_std` are known value · std + mean, which are
    pixels in [0, 1] where a network fits well; nothing is clipped.

    Args:
        rows: of a zoo: a `Dataset`, a batch of it in any format, a list of rows, or one row.
        size: pixels a side, from 2 on; any, not only that of the images.
        convention: as of `to_module`; it counts before what the rows tell.

    Raises:
        SpecError: if the rows lack a column, a convention or a grid, or their networks take no two coordinates.
        LayoutError: if weights do not fit, or networks give different numbers of channels.
    """
    grid_points("xy[-1,1]", size)
    pictures: list[Tensor] = []
    for batch in _batches(rows):
        pictures += _render(batch, size, convention)
    if not pictures:
        raise SpecError("there are no rows to render")
    if len(channels := {len(picture) for picture in pictures}) > 1:
        raise LayoutError(f"the networks give {', '.join(map(str, sorted(channels)))} channels; render them separately")
    return torch.stack(pictures)


def _batches(rows: Any) -> Iterator[list[dict[str, Any]]]:
    """Rows in pieces, each row by column."""
    if isinstance(rows, Dataset):
        table = rows.select_columns([name for name in NEEDED if name in rows.column_names]).with_format("arrow")
        for batch in table.iter(batch_size=_ROWS_AT_ONCE):
            yield _rows_of(batch)
    elif isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        yield [{name: plain(value) for name, value in columns_of(row, NEEDED).items()} for row in rows]
    else:
        yield _rows_of(rows)


def _rows_of(batch: Any) -> list[dict[str, Any]]:
    columns = columns_of(batch, NEEDED)
    if WEIGHTS not in columns:
        raise SpecError(f"rows lack column {WEIGHTS!r}; load them with columns=None or add it to columns")
    one = not is_table(batch) and np.ndim(columns[WEIGHTS][0]) == 0
    if one:
        return [{name: plain(value) for name, value in columns.items()}]
    return [{name: plain(values[row]) for name, values in columns.items()} for row in range(len(columns[WEIGHTS]))]


def _render(rows: Sequence[Mapping[str, Any]], size: int, convention: Any) -> list[Tensor]:
    """The picture of each row, [C, size, size]."""
    kinds: dict[tuple[Any, ...], _Kind] = {}
    members: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        key = tuple(value for name, value in sorted(row.items()) if name not in (WEIGHTS, "raw"))
        if key not in kinds:
            kinds[key] = _Kind(layers_of(row, convention), convention_of(row, convention))
        members.setdefault(key, []).append(place)
    pictures: list[Tensor | None] = [None] * len(rows)
    for key, places in members.items():
        drawn = draw(kinds[key].layers, [rows[place] for place in places], kinds[key].convention, size)
        for place, picture in zip(places, drawn, strict=True):
            pictures[place] = picture
    return [picture for picture in pictures if picture is not None]


def draw(
    layers: Sequence[Layer], rows: Sequence[Mapping[str, Any]], convention: Convention, size: int
) -> Iterable[Tensor]:
    """The pictures of rows of one network and convention, [C, size, size] each."""
    if convention.grid is None:
        raise SpecError(
            "nothing tells where the pixels of a picture are: pass convention=zoo_datasets.Convention(grid='xy[-1,1]') "
            "where the first coordinate is the column, or 'yx[-1,1]' where it is the row"
        )
    if (inputs := inputs_of(layers)) != 2:
        raise SpecError(f"these networks take {inputs} coordinates, and the pixels of a picture have 2")
    points = grid_points(convention.grid, size).float()
    weights = _weights(rows, layers)
    widest = max(tensor.shape[0] for tensor in tensors_of(layers))
    step = max(_PIECE_BYTES // (4 * widest * len(points)), 1)
    for part in torch.split(weights, step):
        values = values_at(layers, part, points)
        yield from _pixels(values, convention).transpose(1, 2).reshape(len(part), -1, size, size)


def _weights(rows: Sequence[Mapping[str, Any]], layers: Sequence[Layer]) -> Tensor:
    """The weights of rows in the order of the layers, float32 [K, D]."""
    wanted = build_layout(layers)
    own = layout_of_row(rows[0]) if rows[0].get(LAYOUT) is not None else wanted
    vectors = [np.asarray(row[WEIGHTS], np.float32) for row in rows]
    if (bad := next((vector for vector in vectors if vector.shape != (own.size,)), None)) is not None:
        raise LayoutError(f"weights have shape {list(bad.shape)}, expected [{own.size}]")
    weights = torch.from_numpy(np.stack(vectors))
    if own.slices() == wanted.slices():
        return weights
    named = own.unflatten(weights)
    return torch.cat([named[name].flatten(1) for name in wanted.slices()], dim=1)


def _pixels(values: Tensor, convention: Convention) -> Tensor:
    """Values [K, N, C] as pixels."""
    if convention.signal_mean is None or convention.signal_std is None:
        return values
    mean, std = convention.signal_mean, convention.signal_std
    if len(mean) not in (1, values.shape[-1]) or len(std) != len(mean):
        raise SpecError(f"signal_mean={brief(mean)}: expected a number for each of {values.shape[-1]} channels")
    return values * torch.tensor(std, dtype=values.dtype) + torch.tensor(mean, dtype=values.dtype)
