"""WeightLayout: where each tensor of a network lies in one flat vector, there and back bit for bit.

Tensors of float32, float16 and bfloat16 are numbers of the flat float32 vector, which holds them exactly. What float32
cannot hold (float64, integers, booleans, complex numbers) are raw tensors: they lie behind each other in a row of
bytes of their own, little-endian. A tied tensor is another one under a second name, and is stored once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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

# By the last part of their names.
BUFFERS = frozenset({"running_mean", "running_var", IGNORED_SUFFIX})

FLAT_DTYPES = ("float32", "float16", "bfloat16")
"""What the flat float32 vector holds exactly."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a layout.

    Attributes:
        offset: elements of the flat vector before it; of a raw tensor, bytes of the raw tensors before it.
        tied: the name of the earlier tensor that it is; its shape, dtype and offset are that one's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: TensorKind
    offset: int
    tied: str | None = None

    @property
    def size(self) -> int:
        """Number of elements: the product of `shape`."""
        return math.prod(self.shape)

    @property
    def raw(self) -> bool:
        """Whether it is stored as bytes, as the flat vector cannot hold it."""
        return self.dtype not in FLAT_DTYPES

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        return cast(torch.dtype, getattr(torch, self.dtype))

    @property
    def raw_bytes(self) -> int:
        """Its size in bytes where it is raw, else 0."""
        return self.size * self.torch_dtype.itemsize if self.raw else 0


@dataclass(frozen=True)
class WeightLayout:
    """The tensors of a network in the order of its flat weight vector, without gaps."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, tuple[int, ...], TensorKind]], dtype: str = "float32") -> WeightLayout:
        """A layout of (name, shape, kind) in order; offsets follow from the shapes."""
        return cls.of_dtypes((name, shape, dtype, kind, None) for name, shape, kind in tensors)

    @classmethod
    def of_dtypes(cls, tensors: Iterable[tuple[str, tuple[int, ...], str, TensorKind, str | None]]) -> WeightLayout:
        """A layout of (name, shape, dtype, kind, tied to) in order; offsets follow from the shapes.

        Raises:
            LayoutError: if a name comes twice, or a tensor is not what it is tied to.
        """
        specs: dict[str, TensorSpec] = {}
        offset = raw_offset = 0
        for name, shape, dtype, kind, tied in tensors:
            if name in specs:
                raise LayoutError(f"layout: tensor {brief(name)} stands in it twice")
            spec = TensorSpec(name, tuple(shape), dtype, kind, 0, tied)
            if tied is not None:
                place = specs[tied].offset if tied in specs else 0
            else:
                place = raw_offset if spec.raw else offset
                raw_offset += spec.raw_bytes
                offset += 0 if spec.raw else spec.size
            specs[name] = replace(spec, offset=place)
        return cls(tuple(specs.values()))

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> WeightLayout:
        """The layout of a state dict in its order: each tensor in its dtype; what shares all of another's memory is
        tied to it. Running statistics and counters are buffers, by their names.

        Raises:
            LayoutError: if it holds what is no tensor of a plain dtype.
        """
        owners: dict[tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype], str] = {}
        entries: list[tuple[str, tuple[int, ...], str, TensorKind, str | None]] = []
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
                raise LayoutError(f"{brief(name)} is no plain tensor ({brief(type(tensor).__name__)}); leave it out")
            kind: TensorKind = "buffer" if name.rpartition(".")[2] in BUFFERS else "parameter"
            shape = tuple(tensor.shape)
            key = (tensor.data_ptr(), shape, tensor.stride(), tensor.dtype)
            owner = owners.setdefault(key, name) if tensor.numel() else name
            entries.append(
                (name, shape, str(tensor.dtype).removeprefix("torch."), kind, None if owner == name else owner)
            )
        return cls.of_dtypes(entries)

    def __post_init__(self) -> None:
        offset = raw_offset = 0
        seen: dict[str, TensorSpec] = {}
        for spec in self.tensors:
            if spec.name in seen:
                raise LayoutError(f"layout: tensor {brief(spec.name)} stands in it twice")
            if spec.kind not in ("parameter", "buffer"):
                raise LayoutError(
                    f"layout: tensor {brief(spec.name)} is of kind {brief(spec.kind)}, expected parameter or buffer"
                )
            if spec.tied is not None:
                _check_tied(spec, seen.get(spec.tied))
            elif spec.raw:
                _check_offset(spec, raw_offset)
                raw_offset += spec.raw_bytes
            else:
                _check_offset(spec, offset)
                offset += spec.size
            seen[spec.name] = spec

    @cached_property
    def flat(self) -> tuple[TensorSpec, ...]:
        """The tensors that make up the flat vector: neither raw nor tied."""
        return tuple(spec for spec in self.tensors if not spec.raw and spec.tied is None)

    def __repr__(self) -> str:
        shown = [f"{spec.name} {list(spec.shape)}" for spec in self.tensors[:_SHOWN]]
        more = [f"… {len(self.tensors) - _SHOWN} more"] if len(self.tensors) > _SHOWN else []
        return f"WeightLayout({self.size:,} numbers: {', '.join(shown + more)})"

    @cached_property
    def size(self) -> int:
        """D, the length of the flat vector."""
        return sum(spec.size for spec in self.flat)

    @cached_property
    def raw_bytes(self) -> int:
        """Bytes of the raw tensors."""
        return sum(spec.raw_bytes for spec in self.tensors if spec.tied is None)

    @cached_property
    def parameters(self) -> int:
        """Number of trainable weights: the size without buffers."""
        return sum(spec.size for spec in self.flat if spec.kind == "parameter")

    def slices(self) -> dict[str, slice]:
        """Where each tensor of the flat vector lies in it, but for tied ones."""
        return {spec.name: slice(spec.offset, spec.offset + spec.size) for spec in self.flat}

    def flatten(self, state: Mapping[str, Tensor]) -> Tensor:
        """The flat vector [D] of a state dict, or [K, D] of one whose tensors are stacked as [K, …].

        Raises:
            LayoutError: if a tensor is missing, surplus, or of a wrong shape or dtype; names it.
        """
        self._check_names(state)
        stack = self._stack_shape(state)
        parts = []
        for spec in self.flat:
            tensor = state[spec.name]
            if tuple(tensor.shape) != (*stack, *spec.shape):
                raise LayoutError(
                    f"tensor {spec.name!r} has shape {list(tensor.shape)}, expected {[*stack, *spec.shape]}"
                )
            if tensor.dtype != getattr(torch, spec.dtype):
                raise LayoutError(
                    f"tensor {spec.name!r} is {tensor.dtype}, expected torch.{spec.dtype}; convert it first"
                )
            parts.append(tensor.reshape((*stack, spec.size)).float())
        return torch.cat(parts, dim=-1) if parts else torch.empty(*stack, 0)

    def pack_raw(self, state: Mapping[str, Tensor]) -> bytes:
        """The raw tensors of a state dict as bytes; empty where the layout has none.

        Raises:
            LayoutError: naming the tensor that is missing, or of a wrong shape or dtype.
        """
        self._check_names(state)
        parts = []
        for spec in self.tensors:
            if spec.raw and spec.tied is None:
                tensor = state[spec.name]
                if tensor.shape != spec.shape or tensor.dtype != spec.torch_dtype:
                    raise LayoutError(
                        f"tensor {spec.name!r} is {tensor.dtype} of shape {list(tensor.shape)}, expected "
                        f"torch.{spec.dtype} of {list(spec.shape)}"
                    )
                values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
                parts.append(values.reshape(-1).view(torch.uint8).numpy().tobytes())
        return b"".join(parts)

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Views into `weights` [..., D] by name, each [..., *shape]; tied tensors too, raw ones not.

        Raises:
            LayoutError: if the last axis is not D long.
        """
        if weights.ndim == 0 or weights.shape[-1] != self.size:
            raise LayoutError(f"weights have shape {list(weights.shape)}, expected {self.size} on the last axis")
        stack = weights.shape[:-1]
        return {
            spec.name: weights[..., spec.offset : spec.offset + spec.size].reshape((*stack, *spec.shape))
            for spec in self.tensors
            if not spec.raw
        }

    def restore(self, weights: Tensor, raw: bytes = b"") -> dict[str, Tensor]:
        """The state dict of a flat vector [D] and the bytes of the raw tensors: every tensor in its own dtype, with
        the bits that it had. All are copies; tied ones are the same object.

        Raises:
            LayoutError: if the vector or the bytes have another length.
        """
        if weights.ndim != 1:
            raise LayoutError(f"weights have shape {list(weights.shape)}, expected [{self.size}]: one row")
        if len(raw) != self.raw_bytes:
            raise LayoutError(f"{len(raw):,} bytes of raw tensors found, expected {self.raw_bytes:,}")
        views = self.unflatten(weights)
        state: dict[str, Tensor] = {}
        for spec in self.tensors:
            if spec.tied is not None:
                state[spec.name] = state[spec.tied]
            elif spec.raw:
                part = bytearray(raw[spec.offset : spec.offset + spec.raw_bytes])
                values = torch.frombuffer(part, dtype=spec.torch_dtype) if part else torch.empty(0).to(spec.torch_dtype)
                state[spec.name] = values.reshape(spec.shape)
            else:
                state[spec.name] = views[spec.name].to(spec.torch_dtype, copy=True)
        return state

    def with_buffers(self, parameters: Tensor, value: float) -> Tensor:
        """Parameters [..., P] in the places that they have in the flat vector, [..., D], and `value` elsewhere."""
        wide = parameters.new_full((*parameters.shape[:-1], self.size), value)
        places = torch.cat([torch.full((spec.size,), spec.kind == "parameter") for spec in self.flat])
        wide[..., places.to(parameters.device)] = parameters
        return wide

    def to_json(self) -> str:
        """The layout as a JSON text; `from_json` reads it back."""
        return json.dumps(self.to_list())

    def to_list(self) -> list[Any]:
        """The layout as JSON values: [name, shape, dtype, kind, offset] of each tensor, and what it is tied to if it
        is."""
        return [
            [s.name, list(s.shape), s.dtype, s.kind, s.offset, *([] if s.tied is None else [s.tied])]
            for s in self.tensors
        ]

    @classmethod
    def from_json(cls, text: str) -> WeightLayout:
        """The layout that `to_json` wrote.

        Raises:
            LayoutError: if the text is no layout.
        """
        try:
            return cls.from_list(parse_json(text))
        except DocumentError as error:
            raise LayoutError(f"this is not a weight layout: {error}; found {brief(text)}") from error

    @classmethod
    def from_list(cls, value: Any) -> WeightLayout:
        """The inverse of `to_list`.

        Raises:
            LayoutError: if the value is no layout, or one of more than 2³¹ weights.
        """
        if not isinstance(value, list):
            raise LayoutError(f"this is not a weight layout: expected a list of tensors, found {brief(value)}")
        layout = cls(tuple(map(_tensor_spec, value)))
        if not layout.size + layout.raw_bytes > 0 or layout.size >= MAX_SIZE:
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
        first = self.flat[0] if self.flat else self.tensors[0]
        extra = state[first.name].ndim - len(first.shape)
        return tuple(state[first.name].shape[: max(extra, 0)])


def _check_offset(spec: TensorSpec, expected: int) -> None:
    if spec.offset != expected:
        raise LayoutError(f"layout: tensor {brief(spec.name)} starts at {spec.offset}, expected {expected}")


def _check_tied(spec: TensorSpec, other: TensorSpec | None) -> None:
    if other is None or other.tied is not None:
        raise LayoutError(
            f"layout: tensor {brief(spec.name)} is tied to {brief(spec.tied)}, which is no earlier tensor of its own"
        )
    if (spec.shape, spec.dtype, spec.offset) != (other.shape, other.dtype, other.offset):
        raise LayoutError(
            f"layout: tensor {brief(spec.name)} is tied to {brief(spec.tied)}, but differs in shape, dtype or offset"
        )


def _tensor_spec(entry: Any) -> TensorSpec:
    match entry:
        case [str() as name, list() as shape, str() as dtype, str() as kind, int() as offset, *tied] if (
            len(shape) <= _MAX_AXES
            and all(type(length) is int and 0 <= length < MAX_SIZE for length in shape)
            and isinstance(getattr(torch, dtype, None), torch.dtype)
            and (not tied or (len(tied) == 1 and isinstance(tied[0], str)))
        ):
            return TensorSpec(name, tuple(shape), dtype, cast(TensorKind, kind), offset, *tied)
    raise LayoutError(
        f"layout entry {brief(entry)}: expected [name, shape, dtype, kind, offset], or these and the name of the "
        f"tensor that it is tied to; the shape at most {_MAX_AXES} whole numbers from 0 to {MAX_SIZE - 1:,}"
    )
