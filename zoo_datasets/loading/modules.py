"""Back from batches of weights to networks: modules, and their accuracy and loss in stacked passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_datasets.documents import brief, parse_json
from zoo_datasets.errors import (
    ImagesError,
    LayoutError,
    SpecError,
    UnknownNameError,
)
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.loading.one_row import as_row, value_of
from zoo_datasets.networks.architectures import ARCHITECTURES
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import ACTIVATIONS, Activate, Layer
from zoo_datasets.networks.layers.chain import flat_layers
from zoo_datasets.networks.layers.documents import layers_from_json
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.networks.module import Network
from zoo_datasets.networks.records import record_named
from zoo_datasets.repository.row import LAYOUT, RAW, RAW_END, WEIGHTS
from zoo_datasets.stacked import evaluate_stack

ModuleFactory = Callable[[Mapping[str, Any]], nn.Module]
_SHOWN = 5  # tensors that a message names
_NEEDED = (WEIGHTS, RAW, LAYOUT, *KIND_COLUMNS, "activation", "dropout")


def to_modules(batch: Mapping[str, Any], factory: ModuleFactory | None = None) -> list[nn.Module]:
    """The networks of a batch of `batches`, in eval mode, each with a copy of its weights.

    Args:
        factory: as of `to_module`.

    Raises:
        SpecError: if the batch lacks a column.
        LayoutError: if the weights do not fit.
    """
    columns = [name for name in (_NEEDED if factory is None else batch) if name in batch]
    count = len(batch[WEIGHTS]) if WEIGHTS in batch else 1
    return [to_module({name: _item(batch[name][index]) for name in columns}, factory) for index in range(count)]


def evaluate(
    weights: Tensor, images: ImageData, architecture: str, activation: str, split: str = "test"
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of weight vectors of one architecture and activation, in stacked passes.

    Args:
        weights: [B, D], of a zoo or generated.
        images: as `load_images` gives them.
        split: train, val or test.

    Returns:
        loss float64 [B], accuracy float64 [B] in [0, 1].

    Raises:
        UnknownNameError: if it names an architecture that does not exist, activation or split.
        LayoutError: if the weights do not fit the architecture on these images.
        ImagesError: if the images have no such split.
    """
    network = NetworkKind.on(architecture, images)
    layers = network.layers  # its errors come before those of the others
    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    splits = {"train": images.train, "val": images.val, "test": images.test}
    if split not in splits:
        raise UnknownNameError("split", split, splits)
    size = network.layout.size
    if weights.ndim != 2 or weights.shape[1] != size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [B, {size}] for {architecture} with "
            f"{images.channels} input channels and {images.classes} classes"
        )
    part = splits[split]
    if part is None:
        raise ImagesError(f"{images.spec.name} has no {split} images")
    loss, correct = evaluate_stack(layers, activation, weights.detach().cpu().float(), images, part)
    return loss, correct.double() / len(part.labels)


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and not value.ndim else value


def layers_of_row(row: Any) -> tuple[Layer, ...]:
    """The layers of a row's network, which symmetries and graphs take; errors as `to_module`."""
    return _layers_of(as_row(row))


def layout_of_row(row: Any) -> WeightLayout:
    """The layout of a row's weights: the one that it names, or that of its architecture, in_channels and classes.

    Raises:
        SpecError: if the row lacks these columns, a number is out of its range, or this process does not know the
            layout.
        UnknownNameError: if there is no such architecture.
    """
    return _layout_of(as_row(row), None)


def to_state_dict(row: Any, layout: WeightLayout | None = None) -> dict[str, Tensor]:
    """The tensors of a row's network by name, as copies: float32, or of an open row each in its own dtype.

    Args:
        row: as `datasets` gives it in any format: a mapping, or a table of pandas, pyarrow or polars with one row.
            `weights` may be a list, a numpy array or a tensor of D numbers.
        layout: of its weights; None: what the row tells.

    Raises:
        SpecError: if the row lacks a column, a number is out of its range, or this process does not know the layout.
        LayoutError: if the weights are not one vector of the layout's length.
    """
    values = as_row(row)
    layout = _layout_of(values, layout)
    weights = _weights_of(values, layout)
    raw = bytes(value_of(values, RAW)).removesuffix(RAW_END) if layout.raw_bytes else b""
    return layout.restore(weights.detach().cpu().to(torch.float32), raw)


def _layout_of(row: Mapping[str, Any], layout: WeightLayout | None) -> WeightLayout:
    if layout is not None:
        return layout
    return record_named(row[LAYOUT]).layout if row.get(LAYOUT) is not None else _network_of(row).layout


def _weights_of(row: Mapping[str, Any], layout: WeightLayout) -> Tensor:
    given = value_of(row, WEIGHTS)
    try:
        if hasattr(given, "__array__") and not isinstance(given, Tensor):
            given = np.asarray(given)  # of any library
            given = given.tolist() if given.dtype == object else given
        weights = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise LayoutError(f"weights hold {brief(given)}, expected {layout.size} numbers") from error
    if weights.ndim != 1 or len(weights) != layout.size:
        known = f" for {row['architecture']}" if row.get("architecture") is not None else ""
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [{layout.size}]{known}; give one row, not a batch"
        )
    return weights


def to_module(row: Any, factory: ModuleFactory | None = None) -> nn.Module:
    """The row's network with its weights, activation and dropout rate, in eval mode.

    Args:
        row: as of `to_state_dict`.
        factory: a function of one's own that is called with the row and makes a module for its weights, whose state
            dict has the tensors of the row's layout; None for the network of the row's layers.

    Raises:
        SpecError: if the row lacks a column, or a number is out of its range; if the network is not known and there is
            no `factory`, or `factory` makes no module.
        LayoutError: if the weights do not fit, naming the tensors that the module lacks or has besides.
    """
    if factory is not None:
        return _loaded(_module_of(factory, row), to_state_dict(row))
    values = as_row(row)
    layers = _layers_of(values)
    state = to_state_dict(values)
    activation = values.get("activation")
    if activation is None:
        if any(isinstance(layer, Activate) for layer in flat_layers(layers)):
            value_of(values, "activation")
        activation = next(iter(ACTIVATIONS))  # which no layer uses
    rate = value_of(values, "dropout")
    module = Network(layers, activation, 0.0 if rate is None else _dropout(rate))  # null: not known
    return _loaded(module, state)


def _layers_of(row: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers that compute with a row's weights.

    Raises:
        SpecError: if nothing tells them.
    """
    if row.get(LAYOUT) is None:
        return _network_of(row).layers
    record = record_named(row[LAYOUT])
    if record.layers is not None:
        return layers_from_json(parse_json(record.layers))
    if all(row.get(name) is not None for name in KIND_COLUMNS):
        network = _network_of(row)
        if network.architecture in ARCHITECTURES and network.layout == record.layout:
            return network.layers
    raise SpecError(
        "what computes with this row's weights is not recorded: pass factory=, a function that makes the module of a "
        "row, or take the tensors by to_state_dict"
    )


def _module_of(factory: ModuleFactory, row: Mapping[str, Any]) -> nn.Module:
    if not callable(factory):
        raise SpecError(f"factory={brief(factory)}: expected a function that takes the row and gives a module")
    module = factory(row)
    if not isinstance(module, nn.Module):
        raise SpecError(f"the factory gave {brief(module)}, expected a torch.nn.Module")
    return module


def _loaded(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A module with the tensors of a state dict, all of them and no others, in eval mode."""
    own = module.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith(IGNORED_SUFFIX)}
    given = {**counters, **state}
    missing, surplus = (sorted(one.keys() - other.keys()) for one, other in ((own, given), (given, own)))
    shapes = [
        f"{name} is {list(own[name].shape)}, the row's {list(given[name].shape)}"
        for name in own.keys() & given.keys()
        if own[name].shape != given[name].shape
    ]
    problems = [
        f"{what} {', '.join(which[:_SHOWN])}{f' and {len(which) - _SHOWN:,} more' if len(which) > _SHOWN else ''}"
        for what, which in (
            ("the row has no", missing), ("the module has no", surplus), ("of other shapes:", sorted(shapes)),
        )
        if which
    ]  # fmt: skip
    if problems:
        raise LayoutError(f"the row's tensors do not fit the module: {'; '.join(problems)}")
    module.load_state_dict(given)
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
    return NetworkKind.of_row({name: value_of(row, name) for name in KIND_COLUMNS})
