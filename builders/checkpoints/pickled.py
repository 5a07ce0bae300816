"""What a pickle of tensors is read as: names, storages, views of them, and stand-ins. None of it runs anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# torch's storage classes, and the element types they stand for.
STORAGES: Final[Mapping[str, str]] = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
ITEM_SIZES: Final[Mapping[str, int]] = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16, "uint16": 2, "uint32": 4, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
MAX_DIMENSIONS = 8
SHOWN = 60  # characters of a name in a message


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a file names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:SHOWN]


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage that a file claims to hold: `count` elements of `dtype` in the member data/`key`."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorStub:
    """A tensor as a file describes it: a strided view of a storage, inside its bounds, no element twice.

    Attributes:
        negative: whether its elements have the other sign than the storage's (torch's negative bit).
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other in row-major order."""
        expected = 1
        for length, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if length != 1 and step != expected:
                return False
            expected *= length
        return True


@dataclass(slots=True)
class StandIn:
    """An object of an unavailable class: its name and its attributes."""

    name: Name
    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NumpyType:
    """The element type of a numpy scalar, as `f8`."""

    code: str


@dataclass(frozen=True, slots=True)
class Plain:
    """Data of a plain type that holds no tensor: a NumPy scalar, a date, a set. What it holds is not kept."""

    name: Name
