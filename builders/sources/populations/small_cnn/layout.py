"""The layout of the Small CNN Zoo: variables of TensorFlow in a row, and their network in torch's order."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.documents import brief
from zoo_datasets.errors import SourceError
from zoo_datasets.networks.architectures import MAX_WIDTH, get_architecture
from zoo_datasets.networks.layers import Activate, Conv, Dropout, GlobalAveragePool, Layer, Linear, build_layout
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.layout import MAX_SIZE
from zoo_datasets.networks.records import NetworkRecord

LAYOUT_FILE = "layout.csv"
LARGEST_LAYOUT = 1 << 20
_STRIDE = 2  # of every convolution, none of which is padded
SMALL_CNN_ARCHITECTURE = "small_cnn"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of TensorFlow in each row: its layer, whether it is a bias, and where it lies."""

    layer: str
    bias: bool
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Where the next one begins."""
        return self.start + math.prod(self.shape)


def read_layout(data: bytes) -> list[Variable]:
    """The variables of a layout file, in the order of a row.

    Raises:
        SourceError: if it is none, or its variables do not lie side by side.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{LAYOUT_FILE} is no CSV: {error}") from error
    variables = sorted(map(_variable, rows), key=lambda one: one.start)
    place = 0
    for one in variables:
        if one.start != place:
            what = "leaves out" if one.start > place else "has twice"
            low, high = sorted((place, one.start))
            raise SourceError(f"{LAYOUT_FILE} {what} the weights {low:,} to {high:,}; expected each once")
        place = one.stop
    if not variables or place > MAX_SIZE:
        raise SourceError(f"{LAYOUT_FILE} tells {place:,} weights, 1 to {MAX_SIZE:,} expected")
    return variables


def _variable(row: Mapping[str, Any]) -> Variable:
    name, start, stop, shape = (row.get(column) for column in ("varname", "start_idx", "end_idx", "shape"))
    if not all(isinstance(text, str) for text in (name, start, stop, shape)):
        raise SourceError(f"{LAYOUT_FILE}: expected the columns varname, start_idx, end_idx and shape in each row")
    layer, _, kind = str(name).rpartition(":")[0].rpartition("/")
    axes = _shape(str(shape))
    try:
        begin, end = int(str(start)), int(str(stop))
    except ValueError:
        begin = end = -1
    if begin < 0 or end - begin != math.prod(axes):
        raise SourceError(
            f"{LAYOUT_FILE}: {brief(name)} of shape {list(axes)} reaches from {brief(start)} to {brief(stop)}; "
            f"expected {math.prod(axes):,} weights"
        )
    if len(axes) not in {"bias": (1,), "kernel": (2, 4)}.get(kind, ()):
        raise SourceError(
            f"{LAYOUT_FILE}: {brief(name)} has the shape {list(axes)}; expected kernels of 4 axes (convolutions) or 2 "
            "(dense), and biases of 1"
        )
    return Variable(layer, kind == "bias", begin, axes)


def _shape(text: str) -> tuple[int, ...]:
    """The text of a tuple, read as a literal of at most a few numbers: nothing in it is ever run."""
    try:
        value = ast.literal_eval(text.strip()) if len(text) <= 100 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    axes = value if isinstance(value, (tuple, list)) else ()
    whole = all(isinstance(axis, int) and not isinstance(axis, bool) and 1 <= axis <= MAX_WIDTH for axis in axes)
    if not 1 <= len(axes) <= 4 or not whole:
        raise SourceError(f"{LAYOUT_FILE}: the shape {brief(text)} is none; expected as (3, 3, 1, 16)")
    return tuple(axes)


@dataclass(frozen=True)
class Orientation:
    """The network of a layout, and where each of its weights, in torch's order, lies in a row of TensorFlow's."""

    layers: tuple[Layer, ...]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, variables: Sequence[Variable]) -> Orientation:
        """Convolutions of stride 2 without padding, each with activation and dropout, the mean of all pixels, and a
        dense layer.

        Raises:
            SourceError: if the variables are not of such a network.
        """
        by_layer: dict[str, dict[bool, Variable]] = {}
        for one in variables:
            if by_layer.setdefault(one.layer, {}).setdefault(one.bias, one) is not one:
                raise SourceError(f"{LAYOUT_FILE}: two kernels, or biases, of {brief(one.layer)}; expected one")
        layers: list[Layer] = []
        sources: dict[str, NDArray[np.int64]] = {}
        width: int | None = None
        for number, (name, parts) in enumerate(by_layer.items(), 1):
            kernel, last = parts.get(False), number == len(by_layer)
            if kernel is None or len(kernel.shape) != (2 if last else 4):
                expected = "a dense layer at the end" if last else "convolutions before the last layer"
                raise SourceError(
                    f"{LAYOUT_FILE}: {brief(name)} is another layer than expected: {expected}, with kernel"
                )
            inputs, outputs = kernel.shape[-2:]
            own = "fc" if last else f"conv{number}"
            bias = parts.get(True)
            square = last or kernel.shape[0] == kernel.shape[1]
            if not square or (width not in (None, inputs)) or (bias is not None and bias.shape != (outputs,)):
                raise SourceError(
                    f"{LAYOUT_FILE}: {brief(name)} of shape {list(kernel.shape)} does not fit: square kernels, as many "
                    "inputs as the layer before has outputs, and as many biases as outputs expected"
                )
            width = outputs
            if last:
                layers += [GlobalAveragePool(), Linear(own, inputs, outputs)]
            else:
                convolution = Conv(own, inputs, outputs, kernel.shape[0], _STRIDE, bias=bias is not None)
                layers += [convolution, Activate(), Dropout()]
            if last and bias is None:
                raise SourceError(f"{LAYOUT_FILE}: {brief(name)} has no bias; expected one")
            axes = (1, 0) if last else (3, 2, 0, 1)  # (in, out) and HWIO
            sources[f"{own}.weight"] = _indices(kernel).transpose(axes)
            if bias is not None:
                sources[f"{own}.bias"] = _indices(bias)
        ordered = [sources[spec.name].ravel() for spec in build_layout(layers).tensors]
        return cls(tuple(layers), np.concatenate(ordered))

    @cached_property
    def record(self) -> NetworkRecord:
        """What rows name their network by."""
        return NetworkRecord(build_layout(self.layers), json.dumps(layers_to_json(self.layers)))

    def columns(self) -> dict[str, Any]:
        """`architecture`, where it is that of the table, and numbers of inputs and classes."""
        first, last = self.layers[0], self.layers[-1]
        inputs = first.in_channels if isinstance(first, Conv) else 1
        classes = last.out_features if isinstance(last, Linear) else 1
        known = get_architecture(SMALL_CNN_ARCHITECTURE).layers(inputs, classes) == self.layers
        return {
            "architecture": SMALL_CNN_ARCHITECTURE if known else None,
            "in_channels": inputs,
            "classes": classes,
        }


def _indices(one: Variable) -> NDArray[np.int64]:
    return np.arange(one.start, one.stop).reshape(one.shape)
