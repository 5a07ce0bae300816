"""Back from batches of weights to networks: modules, and their accuracy and loss in stacked passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_datasets.documents import brief
from zoo_datasets.errors import (
    ImagesError,
    LayoutError,
    SpecError,
    UnknownNameError,
)
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.loading.rows import columns_of, plain, row_of
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import ACTIVATIONS
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.repository.row import HYPERPARAMETERS, WEIGHTS
from zoo_datasets.stacked import evaluate_stack

_NEEDED = (WEIGHTS, *KIND_COLUMNS, "activation", "dropout")


def to_modules(batch: Any) -> list[nn.Module]:
    """The networks of a batch, in eval mode, each with a copy of its weights.

    Args:
        batch: of `batches`, or several rows of a zoo in any format of `datasets`.

    Raises:
        SpecError: if the batch lacks a column.
        LayoutError: if the weights do not fit.
    """
    columns = columns_of(batch, _NEEDED)
    count = len(columns[WEIGHTS]) if WEIGHTS in columns else 1
    return [to_module({name: plain(values[index]) for name, values in columns.items()}) for index in range(count)]


def evaluate(
    weights: Tensor, images: ImageData, architecture: str, activation: str | Sequence[str], split: str = "test"
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of weight vectors of one architecture, in stacked passes.

    Args:
        weights: [B, D], of a zoo or generated.
        images: as `load_images` returns them.
        activation: of all of them, or of each: the column of a batch.
        split: train, val or test.

    Returns:
        loss float64 [B], accuracy float64 [B] in [0, 1].

    Raises:
        UnknownNameError: if there is no such architecture, activation or split.
        LayoutError: if the weights do not fit the architecture on these images, or the activations the weights.
        ImagesError: if the images have no such split.
    """
    network = NetworkKind.on(architecture, images)
    layers = network.layers  # its errors come before those of the others
    names = [activation] if isinstance(activation, str) else [str(name) for name in activation]
    for name in dict.fromkeys(names):
        if name not in ACTIVATIONS:
            raise UnknownNameError("activation", name, ACTIVATIONS)
    splits = {"train": images.train, "val": images.val, "test": images.test}
    if split not in splits:
        raise UnknownNameError("split", split, splits)
    size = network.layout.size
    if weights.ndim != 2 or weights.shape[1] != size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [B, {size}] for {architecture} with "
            f"{images.channels} input channels and {images.classes} classes"
        )
    if isinstance(activation, str):
        names *= len(weights)
    elif len(names) != len(weights):
        raise LayoutError(f"got {len(names)} activations for {len(weights)} weight vectors, expected one of each")
    part = splits[split]
    if part is None:
        raise ImagesError(f"{images.spec.name} has no {split} images")
    weights = weights.detach().cpu().float()
    loss, accuracy = torch.empty(2, len(weights), dtype=torch.float64)
    for name in dict.fromkeys(names):
        rows = torch.tensor([row for row, other in enumerate(names) if other == name])
        loss[rows], correct = evaluate_stack(layers, name, weights[rows], images, part)
        accuracy[rows] = correct.double() / len(part)
    return loss, accuracy


def layout_of_row(row: Any) -> WeightLayout:
    """The layout of a row's weights, from its architecture, in_channels and classes.

    Raises:
        SpecError: if the row lacks one of these columns, or a number is out of its range.
        UnknownNameError: if it names an architecture that does not exist.
    """
    return _network_of(row_of(row, KIND_COLUMNS)).layout


def to_state_dict(row: Any) -> dict[str, Tensor]:
    """The tensors of a row's network by name, float32, as a copy.

    Args:
        row: of a zoo, a mapping in any format of `datasets` (Python's values, numpy, torch, jax), or a table or
            dataframe of one row (pandas, polars, Arrow).

    Raises:
        SpecError: if the row lacks a column, or a number is out of its range.
        LayoutError: if the weights are not one vector of the layout's length.
    """
    row = row_of(row, _NEEDED)
    _need(row, WEIGHTS)
    network = _network_of(row)
    layout = network.layout
    values = row[WEIGHTS]
    try:
        weights = values if isinstance(values, Tensor) else _as_tensor(values)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise LayoutError(f"weights hold {brief(values)}, expected {layout.size} numbers") from error
    if weights.ndim != 1 or len(weights) != layout.size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [{layout.size}] for {network.architecture} with "
            f"{network.in_channels} input channels and {network.classes} classes; give one row, not a batch"
        )
    flat = weights.detach().to(torch.float32, copy=True)
    return {name: tensor.clone() for name, tensor in layout.unflatten(flat).items()}


def _as_tensor(values: Any) -> Tensor:
    """Numbers of a list or an array as a float32 tensor, a copy."""
    array = np.array(values) if hasattr(values, "__array__") else values  # that of jax, too
    return torch.tensor(array, dtype=torch.float32)


def to_module(row: Any) -> nn.Module:
    """The row's network with its weights, activation and dropout rate, in eval mode.

    Args:
        row: see `to_state_dict`.

    Raises:
        SpecError: if the row lacks a column, or a number is out of its range.
        LayoutError: if the weights do not fit.
    """
    row = row_of(row, _NEEDED)
    _need(row, "activation", "dropout")
    state = to_state_dict(row)
    rate = 0.0 if row["dropout"] is None else _dropout(row["dropout"])  # null: an imported zoo does not tell it
    module = _network_of(row).module(row["activation"], rate)
    counters = {key: value for key, value in module.state_dict().items() if key.endswith(IGNORED_SUFFIX)}
    module.load_state_dict(state | counters)
    return module.eval()


def _dropout(value: Any) -> float:
    """A rate in [0, 1].

    Raises:
        SpecError: if it is none.
    """
    try:
        rate = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        rate = math.nan
    if not 0 <= rate <= 1:
        raise SpecError(f"dropout={brief(value)}: expected a rate from 0 to 1")
    return rate


def _network_of(row: Mapping[str, Any]) -> NetworkKind:
    _need(row, *KIND_COLUMNS)
    return NetworkKind.of_row(row)


def _need(row: Mapping[str, Any], *columns: str) -> None:
    for column in columns:
        if column not in row or (row[column] is None and column not in HYPERPARAMETERS):
            raise SpecError(f"row lacks column {column!r}; load it with columns=None or add {column!r} to columns")
