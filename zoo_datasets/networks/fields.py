"""Fields: networks of sines from coordinates to the values of a signal, and the conventions by which they are computed.

The tensors of such a network tell its widths and nothing else. The frequencies of its sines, what is added to its
output, and where it expects the pixels of a picture differ from one population to the next: they are columns of rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from zoo_datasets.documents import brief
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.networks.layers import Layer, Linear, Shift, Sine
from zoo_datasets.networks.layout import WeightLayout

FIELD: Final = "field"
"""The task of rows that are such networks."""
SIREN: Final = "siren"
"""Their architecture, whatever their widths."""

_LONGEST_SIDE = 1 << 13  # pixels
_NUMBER = r"[-+]?\d{1,6}(?:\.\d{1,6})?"
_GRID = re.compile(rf"(?P<axes>xy|yx)\[(?P<low>{_NUMBER}),(?P<high>{_NUMBER})\]")
_EXPECTED_GRID = (
    "expected 'xy[-1,1]': the first coordinate is the column and the second the row, both from −1 at the first pixel "
    "to 1 at the last one; or 'yx[-1,1]' where the first is the row"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """How a network of sines is computed from its tensors; None is what is not known.

    Attributes:
        omega: ω₀ of the first layer: sin(ω₀ (W x + b)).
        omega_hidden: that of the other hidden layers; None: `omega`, where a row does not tell it.
        output_offset: what is added to the output of the last layer, 0.5 or 0.
        grid: where the pixels of a picture are: `xy[-1,1]` or `yx[-1,1]`, and likewise with other ends.
        signal_mean, signal_std: of each channel, where the network gives (pixel − mean) / std for pixels in [0, 1];
            None: it gives the pixels themselves.
    """

    omega: float | None = None
    omega_hidden: float | None = None
    output_offset: float | None = None
    grid: str | None = None
    signal_mean: tuple[float, ...] | None = None
    signal_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("omega", "omega_hidden", "output_offset"):
            number = _finite(name, getattr(self, name))
            if name != "output_offset" and number is not None and number <= 0:
                raise SpecError(f"{name}={brief(number)}: expected a number above 0")
            object.__setattr__(self, name, number)
        if self.grid is not None:
            grid_points(self.grid, 2)
        for name in ("signal_mean", "signal_std"):
            object.__setattr__(self, name, _channels(name, getattr(self, name)))
        if (self.signal_mean is None) != (self.signal_std is None):
            raise SpecError("signal_mean and signal_std: expected both or neither")
        if self.signal_std is not None and min(self.signal_std) <= 0:
            raise SpecError(f"signal_std={brief(self.signal_std)}: expected numbers above 0")

    @classmethod
    def of(cls, value: Any) -> Convention:
        """A convention, or a mapping of its fields.

        Raises:
            SpecError: if it is neither, or a field cannot be what it says.
        """
        if value is None or isinstance(value, Convention):
            return value or cls()
        if not isinstance(value, Mapping):
            raise SpecError(f"convention={brief(value)}: expected zoo_datasets.Convention(omega=30, …) or a dict")
        if unknown := [name for name in value if name not in CONVENTION_COLUMNS]:
            raise SpecError(f"convention: {brief(unknown[0])} is unknown, expected {', '.join(CONVENTION_COLUMNS)}")
        return cls(**value)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Convention:
        """What a row's columns tell of it."""
        return cls(**{name: row.get(name) for name in CONVENTION_COLUMNS})

    def over(self, other: Convention) -> Convention:
        """This one, and where it says nothing the other."""
        own = {name: value for name in CONVENTION_COLUMNS if (value := getattr(self, name)) is not None}
        return dataclasses.replace(other, **own)

    @property
    def missing(self) -> tuple[str, ...]:
        """What has to be known before a network can be computed, and is not."""
        return tuple(name for name in ("omega", "output_offset") if getattr(self, name) is None)

    def columns(self) -> dict[str, float | str | None]:
        """Its fields as values of columns: numbers of channels as one text."""
        values = {name: getattr(self, name) for name in CONVENTION_COLUMNS}
        return {
            name: " ".join(f"{number:.9g}" for number in value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


CONVENTION_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Convention))
"""The columns of a row that tell its convention."""


def _finite(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, (str, bytes, bool)) or not math.isfinite(number):
        raise SpecError(f"{name}={brief(value)}: expected a number")
    return number


def _channels(name: str, value: Any) -> tuple[float, ...] | None:
    """Numbers of channels: as they are, or a text with blanks between them."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in (value.split() if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise SpecError(f"{name}={brief(value)}: expected a number for each channel")
    return numbers


def grid_points(grid: str, size: int) -> Tensor:
    """The coordinates of the pixels of a picture, row by row: float64 [size · size, 2].

    Args:
        grid: as of `Convention`. Its ends are the centres of the first and the last pixel.

    Raises:
        SpecError: if there is no such grid, or the size is no whole number from 2 to 8,192.
    """
    match = _GRID.fullmatch(grid) if isinstance(grid, str) else None
    low, high = (math.nan, math.nan) if match is None else (float(match["low"]), float(match["high"]))
    if match is None or not low < high:
        raise SpecError(f"grid={brief(grid)}: {_EXPECTED_GRID}")
    if type(size) is not int or not 2 <= size <= _LONGEST_SIDE:
        raise SpecError(f"size={brief(size)}: expected a whole number from 2 to {_LONGEST_SIDE:,}")
    ticks = torch.linspace(low, high, size, dtype=torch.float64)
    rows, columns = torch.meshgrid(ticks, ticks, indexing="ij")
    axes = (columns, rows) if match["axes"] == "xy" else (rows, columns)
    return torch.stack(axes, dim=-1).reshape(-1, 2)


def field_layers(layout: WeightLayout, convention: Convention) -> tuple[Layer, ...]:
    """The layers of a network of sines, of the tensors of any layout: a chain of matrices [out, in] with biases.

    Args:
        convention: of which nothing is `missing`.

    Raises:
        LayoutError: if the tensors are no such chain; says why.
        SpecError: if the convention lacks something.
    """
    if convention.missing:
        raise SpecError(f"the convention of a network of sines lacks {' and '.join(convention.missing)}")
    assert convention.omega is not None
    linear = [Linear(stem, inputs, outputs) for stem, inputs, outputs in _chain(layout)]
    hidden = convention.omega if convention.omega_hidden is None else convention.omega_hidden
    sines = [Sine(convention.omega if place == 0 else hidden) for place in range(len(linear) - 1)]
    layers: list[Layer] = [
        layer for pair in itertools.zip_longest(linear, sines) for layer in pair if layer is not None
    ]
    return (*layers, Shift(convention.output_offset)) if convention.output_offset else tuple(layers)


def _chain(layout: WeightLayout) -> list[tuple[str, int, int]]:
    """The linear layers of a layout by name, each with its inputs and outputs."""
    shapes = {spec.name: spec.shape for spec in layout.tensors}
    weights = [name for name in shapes if name.endswith(".weight")]
    rest = shapes.keys() - {f"{name.removesuffix('weight')}{part}" for name in weights for part in ("weight", "bias")}
    if rest or len(weights) < 2:
        named = f"{brief(min(rest))} is none of their tensors" if rest else f"there are {len(weights)}"
        raise LayoutError(f"no network of sines: at least two linear layers with weight and bias expected, {named}")
    layers: list[tuple[str, int, int]] = []
    for name in weights:
        stem, shape = name.removesuffix(".weight"), shapes[name]
        if len(shape) != 2 or shapes.get(f"{stem}.bias") != shape[:1]:
            raise LayoutError(
                f"no network of sines: {brief(name)} is {list(shape)}, expected [out, in] and a bias [out]"
            )
        if layers and layers[-1][2] != shape[1]:
            raise LayoutError(
                f"no network of sines: {brief(name)} reads {shape[1]} numbers, the layer before gives {layers[-1][2]}"
            )
        layers.append((stem, shape[1], shape[0]))
    return layers
