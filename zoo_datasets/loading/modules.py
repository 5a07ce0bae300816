"""Back from batches of weights to networks: modules, and their accuracy and loss in stacked passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from zoo_datasets.loading.rows import columns_of, names_of, plain, row_of
from zoo_datasets.networks.architectures import is_architecture
from zoo_datasets.networks.fields import CONVENTION_COLUMNS, FIELD, SIREN, Convention, field_layers
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import ACTIVATIONS, Activate, Layer, build_layout
from zoo_datasets.networks.layers.chain import flat_layers
from zoo_datasets.networks.layers.documents import layers_from_json
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.networks.module import module_of_layers
from zoo_datasets.networks.records import record_named
from zoo_datasets.repository.row import HYPERPARAMETERS, LAYOUT, RAW, RAW_END, WEIGHTS
from zoo_datasets.stacked import evaluate_stack

ModuleFactory = Callable[[Mapping[str, Any]], nn.Module]
_SHOWN = 5  # tensors that a message names
NEEDED = (WEIGHTS, RAW, LAYOUT, *KIND_COLUMNS, "activation", "dropout", "task", *CONVENTION_COLUMNS)


def to_modules(batch: Any, factory: ModuleFactory | None = None, convention: Any = None) -> list[nn.Module]:
    """The networks of a batch, in eval mode, each with a copy of its weights.

    Args:
        batch: of `batches`, or several rows of a zoo in any format of `datasets`.
        factory, convention: as of `to_module`.

    Raises:
        SpecError: if the batch lacks a column.
        LayoutError: if the weights do not fit.
    """
    columns = columns_of(batch, NEEDED if factory is None else names_of(batch))
    count = len(columns[WEIGHTS]) if WEIGHTS in columns else 1
    rows = ({name: plain(values[index]) for name, values in columns.items()} for index in range(count))
    return [to_module(row, factory, convention) for row in rows]


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


def layers_of_row(row: Any, convention: Any = None) -> tuple[Layer, ...]:
    """The layers of a row's network, which symmetries and graphs take.

    Args:
        row, convention: as of `to_module`.

    Raises:
        LayoutError: if the row's weights lie in another order than layers have them: bias before weight.
        SpecError, UnknownNameError: as `to_module`.
    """
    values = row_of(row, NEEDED)
    layers = layers_of(values, convention)
    if (layout := _layout_of(values, None)).slices() != build_layout(layers).slices():
        raise LayoutError(
            f"the row's tensors lie in the order {', '.join(layout.slices())[:200]}, expected "
            f"{', '.join(build_layout(layers).slices())[:200]}; reorder the weights by to_state_dict"
        )
    return layers


def layout_of_row(row: Any) -> WeightLayout:
    """The layout of a row's weights: the one that it names, or that of its architecture, in_channels and classes.

    Raises:
        SpecError: if the row lacks these columns, a number is out of its range, or this process does not know the
            layout.
        UnknownNameError: if there is no such architecture.
    """
    return _layout_of(row_of(row, NEEDED), None)


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
    values = row_of(row, NEEDED)
    layout = _layout_of(values, layout)
    weights = _weights_of(values, layout)
    raw = bytes(_value_of(values, RAW)).removesuffix(RAW_END) if layout.raw_bytes else b""
    return layout.restore(weights.detach().cpu().to(torch.float32), raw)


def _layout_of(row: Mapping[str, Any], layout: WeightLayout | None) -> WeightLayout:
    if layout is not None:
        return layout
    return record_named(row[LAYOUT]).layout if row.get(LAYOUT) is not None else _network_of(row).layout


def _weights_of(row: Mapping[str, Any], layout: WeightLayout) -> Tensor:
    given = _value_of(row, WEIGHTS)
    try:
        weights = given if isinstance(given, Tensor) else _as_tensor(given)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise LayoutError(f"weights hold {brief(given)}, expected {layout.size} numbers") from error
    if weights.ndim != 1 or len(weights) != layout.size:
        known = f" for {row['architecture']}" if row.get("architecture") is not None else ""
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [{layout.size}]{known}; give one row, not a batch"
        )
    return weights


def _as_tensor(values: Any) -> Tensor:
    """Numbers of a list or an array as a float32 tensor, a copy."""
    array = np.array(values) if hasattr(values, "__array__") else values  # that of jax, too
    return torch.tensor(array, dtype=torch.float32)


def to_module(row: Any, factory: ModuleFactory | None = None, convention: Any = None) -> nn.Module:
    """The row's network with its weights, activation and dropout rate, in eval mode.

    A classifier maps images [B, C, H, W] to logits [B, classes]; a field coordinates [N, 2] to values [N, C].

    Args:
        row: as of `to_state_dict`.
        factory: a function of one's own that is called with the row and makes a module for its weights, whose state
            dict has the tensors of the row's layout; None for the network of the row's layers.
        convention: of networks of sines, a `zoo_datasets.Convention` or a dict of its fields. It is needed where the
            row's columns do not tell the convention, and counts before them.

    Raises:
        SpecError: if the row lacks a column, or a number is out of its range; if the network is not known and there is
            no `factory`, or `factory` makes no module; if a network of sines lacks its convention.
        LayoutError: if the weights do not fit, naming the tensors that the module lacks or has besides.
    """
    if factory is not None:
        return _loaded(_module_of(factory, row_of(row, names_of(row))), to_state_dict(row))
    values = row_of(row, NEEDED)
    layers = layers_of(values, convention)
    state = to_state_dict(values)
    asked = any(isinstance(layer, Activate) and layer.activation is None for layer in flat_layers(layers))
    activation = _value_of(values, "activation") if asked else next(iter(ACTIVATIONS))
    rate = values.get("dropout") if values.get("task") == FIELD else _value_of(values, "dropout")
    module = module_of_layers(layers, activation, 0.0 if rate is None else _dropout(rate))  # null: not known
    return _loaded(module, state)


def layers_of(row: Mapping[str, Any], convention: Any = None) -> tuple[Layer, ...]:
    """The layers that compute with the weights of a row, given by its columns of `NEEDED`.

    Raises:
        SpecError: if nothing tells them.
    """
    if convention is not None:
        return field_layers(_layout_of(row, None), _complete(row, convention))
    is_siren = row.get("architecture") == SIREN
    if row.get(LAYOUT) is None:
        network = _network_of(row)
        return field_layers(network.layout, _complete(row, None)) if is_siren else network.layers
    record = record_named(row[LAYOUT])
    if record.layers is not None:
        return layers_from_json(parse_json(record.layers))
    if is_siren and not Convention.of_row(row).missing:
        return field_layers(record.layout, _complete(row, None))
    if all(row.get(name) is not None for name in KIND_COLUMNS) and is_architecture(row["architecture"]):
        network = _network_of(row)
        if network.layout == record.layout:
            return network.layers
    if is_siren:
        return field_layers(record.layout, _complete(row, None))
    fields = "convention=, which tells ω₀ and output offset of a network of sines; " if row.get("task") == FIELD else ""
    raise SpecError(
        f"what computes with this row's weights is not recorded: pass {fields}factory=, a function that makes the "
        "module of a row; or take the tensors by to_state_dict"
    )


def _complete(row: Mapping[str, Any], convention: Any) -> Convention:
    """A convention that is given, completed by what a row's columns tell.

    Raises:
        SpecError: if it lacks something still.
    """
    whole = convention_of(row, convention)
    if whole.missing:
        raise SpecError(
            f"nothing tells {' and '.join(whole.missing)} of this row's network of sines: pass "
            "convention=zoo_datasets.Convention(omega=…, output_offset=…), as its authors' code has it"
        )
    return whole


def convention_of(row: Mapping[str, Any], convention: Any = None) -> Convention:
    """What is known of the convention of a row, given by its columns of `NEEDED`: first what is passed."""
    return Convention.of(convention).over(Convention.of_row(row))


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
    return NetworkKind.of_row({name: _value_of(row, name) for name in KIND_COLUMNS})


def _value_of(row: Mapping[str, Any], column: str) -> Any:
    """A column's value; None if it is not known.

    Raises:
        SpecError: if the row lacks it.
    """
    if column not in row or (row[column] is None and column not in HYPERPARAMETERS):
        raise SpecError(f"row lacks column {column!r}; load it with columns=None or add {column!r} to columns")
    return row[column]
