"""WeightLayout: where each tensor of a network lies in one flat vector, there and back bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor

from zoo_datasets.documents import brief, parse_json
from zoo_datasets.errors import DocumentError, LayoutError

TensorKind = Literal["parameter", "buffer"]

# Counts BatchNorm's batches; it does not act with torch's default momentum and is not a weight.
IGNORED_SUFFIX = "num_batches_tracked"

# Of a layout that a file tells: weights in all, and axes of one tensor.
MAX_SIZE = 1 << 31
_MAX_AXES = 8
# Tensors that `repr` lists.
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a layout; `offset` counts elements of the flat vector."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: TensorKind
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightLayout:
    """The tensors of a network in the order of its flat weight vector, without gaps."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, tuple[int, ...], TensorKind]], dtype: str = "float32") -> WeightLayout:
        """A layout of (name, shape, kind) in order; offsets follow from the shapes."""
        specs = []
        offset = 0
        for name, shape, kind in tensors:
            specs.append(TensorSpec(name, tuple(shape), dtype, kind, offset))
            offset += specs[-1].size
        return cls(tuple(specs))

    def __post_init__(self) -> None:
        offset = 0
        seen: set[str] = set()
        for spec in self.tensors:
            if spec.name in seen:
                raise LayoutError(f"layout: tensor {brief(spec.name)} stands in it twice")
            if spec.offset != offset:
                raise LayoutError(f"layout: tensor {brief(spec.name)} starts at {spec.offset}, expected {offset}")
            if spec.kind not in ("parameter", "buffer"):
                raise LayoutError(
                    f"layout: tensor {brief(spec.name)} is of kind {brief(spec.kind)}, expected parameter or buffer"
                )
            seen.add(spec.name)
            offset += spec.size

    def __repr__(self) -> str:
        shown = [f"{spec.name} {list(spec.shape)}" for spec in self.tensors[:_SHOWN]]
        more = [f"… {len(self.tensors) - _SHOWN} more"] if len(self.tensors) > _SHOWN else []
        return f"WeightLayout({self.size:,} numbers: {', '.join(shown + more)})"

    @cached_property
    def size(self) -> int:
        """D, the length of the flat vector."""
        return sum(spec.size for spec in self.tensors)

    @cached_property
    def parameters(self) -> int:
        """Number of trainable weights: the size without buffers."""
        return sum(spec.size for spec in self.tensors if spec.kind == "parameter")

    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in the flat vector."""
        return {spec.name: slice(spec.offset, spec.offset + spec.size) for spec in self.tensors}

    def flatten(self, state: Mapping[str, Tensor]) -> Tensor:
        """The flat vector [D] of a state dict, or [K, D] of one whose tensors are stacked as [K, …].

        Raises:
            LayoutError: naming the tensor that is missing, surplus, or of a wrong shape or dtype.
        """
        self._check_names(state)
        stack = self._stack_shape(state)
        parts = []
        for spec in self.tensors:
            tensor = state[spec.name]
            if tuple(tensor.shape) != (*stack, *spec.shape):
                raise LayoutError(
                    f"tensor {spec.name!r} has shape {list(tensor.shape)}, expected {[*stack, *spec.shape]}"
                )
            if tensor.dtype != getattr(torch, spec.dtype):
                raise LayoutError(
                    f"tensor {spec.name!r} is {tensor.dtype}, expected torch.{spec.dtype}; convert it first"
                )
            parts.append(tensor.reshape((*stack, spec.size)))
        return torch.cat(parts, dim=-1)

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Views into `weights` [..., D] by name, each [..., *shape].

        Raises:
            LayoutError: where the last axis is not D long.
        """
        if weights.ndim == 0 or weights.shape[-1] != self.size:
            raise LayoutError(f"weights have shape {list(weights.shape)}, expected {self.size} on the last axis")
        stack = weights.shape[:-1]
        return {
            spec.name: weights[..., spec.offset : spec.offset + spec.size].reshape((*stack, *spec.shape))
            for spec in self.tensors
        }

    def with_buffers(self, parameters: Tensor, value: float) -> Tensor:
        """Parameters [..., P] in the places that they have in the flat vector, [..., D], and `value` elsewhere."""
        wide = parameters.new_full((*parameters.shape[:-1], self.size), value)
        places = torch.cat([torch.full((spec.size,), spec.kind == "parameter") for spec in self.tensors])
        wide[..., places.to(parameters.device)] = parameters
        return wide

    def to_json(self) -> str:
        """The layout as a JSON text; `from_json` reads it back."""
        return json.dumps(self.to_list())

    def to_list(self) -> list[Any]:
        """The layout as JSON values: [name, shape, dtype, kind, offset] of each tensor."""
        return [[s.name, list(s.shape), s.dtype, s.kind, s.offset] for s in self.tensors]

    @classmethod
    def from_json(cls, text: str) -> WeightLayout:
        """The layout that `to_json` wrote.

        Raises:
            LayoutError: where the text is no layout.
        """
        try:
            return cls.from_list(parse_json(text))
        except DocumentError as error:
            raise LayoutError(f"this is not a weight layout: {error}; found {brief(text)}") from error

    @classmethod
    def from_list(cls, value: Any) -> WeightLayout:
        """The inverse of `to_list`.

        Raises:
            LayoutError: where the value is no layout, or one of more than 2³¹ weights.
        """
        if not isinstance(value, list):
            raise LayoutError(f"this is not a weight layout: expected a list of tensors, found {brief(value)}")
        layout = cls(tuple(map(_tensor_spec, value)))
        if not 0 < layout.size < MAX_SIZE:
            raise LayoutError(f"layout of {layout.size:,} weights: expected 1 to {MAX_SIZE - 1:,}")
        return layout

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        names = {spec.name for spec in self.tensors}
        missing = [spec.name for spec in self.tensors if spec.name not in state]
        surplus = [name for name in state if name not in names and not name.endswith(IGNORED_SUFFIX)]
        if missing or surplus:
            raise LayoutError(
                "the tensors do not fit the layout: "
                + "; ".join(
                    f"{what} {', '.join(map(repr, which))}"
                    for what, which in (("missing", missing), ("surplus", surplus))
                    if which
                )
            )

    def _stack_shape(self, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """The leading axes of a stack, read off the first tensor; () for a single state dict."""
        first = self.tensors[0]
        extra = state[first.name].ndim - len(first.shape)
        return tuple(state[first.name].shape[: max(extra, 0)])


def _tensor_spec(entry: Any) -> TensorSpec:
    match entry:
        case [str() as name, list() as shape, str() as dtype, str() as kind, int() as offset] if (
            len(shape) <= _MAX_AXES
            and all(type(length) is int and 0 <= length < MAX_SIZE for length in shape)
            and isinstance(getattr(torch, dtype, None), torch.dtype)
        ):
            return TensorSpec(name, tuple(shape), dtype, cast(TensorKind, kind), offset)
    raise LayoutError(
        f"layout entry {brief(entry)}: expected [name, shape, dtype, kind, offset], "
        f"the shape at most {_MAX_AXES} whole numbers from 0 to {MAX_SIZE - 1:,}"
    )
