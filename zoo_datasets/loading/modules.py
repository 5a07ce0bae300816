"""Back from batches of weights to networks: modules, and their accuracy and loss in stacked passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
from zoo_datasets.loading.load import _dropout
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import ACTIVATIONS, Layer
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.repository.row import HYPERPARAMETERS, WEIGHTS
from zoo_datasets.stacked import evaluate_stack

ModuleFactory = Callable[[Mapping[str, Any]], nn.Module]
_SHOWN = 5  # tensors that a message names
_NEEDED = (WEIGHTS, *KIND_COLUMNS, "activation", "dropout")


def to_modules(batch: Mapping[str, Any], factory: ModuleFactory | None = None) -> list[nn.Module]:
    """The networks of a batch of `batches`, in eval mode, each with a copy of its weights.

    Args:
        factory: as of `to_module`.

    Raises:
        SpecError: where the batch lacks a column.
        LayoutError: where the weights do not fit.
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
        UnknownNameError: where there is no such architecture, activation or split.
        LayoutError: where the weights do not fit the architecture on these images.
        ImagesError: where the images have no such split.
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
    chosen = splits[split]
    if chosen is None:
        raise ImagesError(f"{images.spec.name} has no {split} images")
    loss, correct = evaluate_stack(layers, activation, weights.detach().cpu().float(), images, chosen)
    return loss, correct.double() / len(chosen.labels)


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and not value.ndim else value


def layers_of_row(row: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of a row's network, which symmetries and graphs take; errors as `layout_of_row`."""
    return _network_of(row).layers


def layout_of_row(row: Mapping[str, Any]) -> WeightLayout:
    """The layout of a row's weights, from its architecture, in_channels and classes.

    Raises:
        SpecError: where the row lacks one of these columns, or a number is out of its range.
        UnknownNameError: where there is no such architecture.
    """
    return _network_of(row).layout


def to_state_dict(row: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a row's network by name, float32, as a copy.

    `row["weights"]` may be a list, a numpy array or a tensor of D numbers.

    Raises:
        SpecError: where the row lacks a column, or a number is out of its range.
        LayoutError: where the weights are not one vector of the layout's length.
    """
    _need(row, "weights")
    network = _network_of(row)
    layout = network.layout
    given = row["weights"]
    try:
        weights = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise LayoutError(f"weights hold {brief(given)}, expected {layout.size} numbers") from error
    if weights.ndim != 1 or len(weights) != layout.size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [{layout.size}] for {network.architecture} with "
            f"{network.in_channels} input channels and {network.classes} classes; give one row, not a batch"
        )
    flat = weights.detach().to(torch.float32, copy=True)
    return {name: tensor.clone() for name, tensor in layout.unflatten(flat).items()}


def to_module(row: Mapping[str, Any], factory: ModuleFactory | None = None) -> nn.Module:
    """The row's network with its weights, activation and dropout rate, in eval mode.

    Args:
        factory: a function of one's own that is called with the row and makes a module for its weights, whose state
            dict has the tensors of the row's layout; None for the network of the row's layers.

    Raises:
        SpecError: where the row lacks a column, or a number is out of its range; where `factory` makes no module.
        LayoutError: where the weights do not fit, naming the tensors that the module lacks or has besides.
    """
    if factory is not None:
        return _loaded(_module_of(factory, row), to_state_dict(row))
    _need(row, "activation", "dropout")
    state = to_state_dict(row)
    rate = 0.0 if row["dropout"] is None else _dropout(row["dropout"])  # null: not known
    module = _network_of(row).module(row["activation"], rate)
    return _loaded(module, state)


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


def _network_of(row: Mapping[str, Any]) -> NetworkKind:
    _need(row, *KIND_COLUMNS)
    return NetworkKind.of_row(row)


def _need(row: Mapping[str, Any], *columns: str) -> None:
    if not isinstance(row, Mapping):
        raise SpecError(f"expected one row, a mapping from columns to values, found {brief(row)}")
    if isinstance(row.get("architecture"), list):
        raise SpecError(f"expected one row, found a batch of {len(row['architecture'])}; take zoo[i], not zoo[i:j]")
    for column in columns:
        if column not in row or (row[column] is None and column not in HYPERPARAMETERS):
            raise SpecError(f"row lacks column {column!r}; load it with columns=None or add {column!r} to columns")
