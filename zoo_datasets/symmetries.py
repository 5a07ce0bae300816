"""Symmetries of networks: changes of the weights that leave the function as it is.

Channels of a layer can be reordered if everything that reads them follows; with an odd activation their signs can
be flipped, with a homogeneous one they can be scaled (Hecht-Nielsen: On the algebraic structure of feedforward
network weight spaces, 1990). A sine also survives a shift of its phase by π, which turns its sign. Which weights belong
to a channel follows from the declarative layers alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.errors import LayoutError, SpecError, UnknownNameError
from zoo_datasets.native.rows import reorder
from zoo_datasets.networks.channels import ChannelGroup, permutations
from zoo_datasets.networks.fields import grid_points
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layers.chain import inputs_of
from zoo_datasets.networks.layers.walks import MEMBERS, SINE
from zoo_datasets.networks.layout import TensorSpec, WeightLayout
from zoo_datasets.stacked.network import values_at
from zoo_datasets.text import TensorsRepr

# Functions f with f(−x) = −f(x), and with f(a x) = a f(x) for a > 0.
ODD = ("tanh", SINE, "none")
HOMOGENEOUS = ("relu", "leaky_relu", "none")
# Where the function of a field is compared: pixels a side of a picture, or points of another space.
_SIDE, _POINTS = 33, 1024


@dataclass(frozen=True, slots=True)
class _Tensor:
    """How the axes of one tensor are tied to groups; −1 is none. As [outputs, inputs, block]."""

    spec: TensorSpec
    outputs: int
    inputs: int
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _ChannelMap:
    layout: WeightLayout
    groups: tuple[ChannelGroup, ...]
    tensors: tuple[_Tensor, ...]


@functools.lru_cache(maxsize=64)
def _channel_map(layers: tuple[Layer, ...]) -> _ChannelMap:
    layout, groups = build_layout(layers), permutations(layers)
    uses = {(use.tensor, use.axis): (index, use) for index, group in enumerate(groups) for use in group.uses}
    tensors = []
    for spec in layout.tensors:
        outputs, _ = uses.get((spec.name, 0), (-1, None))
        inputs, use = uses.get((spec.name, 1), (-1, None))
        size = spec.size // spec.shape[0]
        columns = 1 if use is None else spec.shape[1] // use.block
        tensors.append(_Tensor(spec, outputs, inputs, (spec.shape[0], columns, size // columns)))
    return _ChannelMap(layout, groups, tuple(tensors))


def permute(weights: Tensor, layers: Sequence[Layer], generator: torch.Generator | None = None) -> Tensor:
    """The weights with the channels of every group in a random order, each row in its own.

    Args:
        weights: [B, D] of any dtype, in the layout of the layers.
        generator: of the orders, on the device of the weights; None is torch's.

    Returns:
        A new tensor [B, D]; the function of every row is the same.

    Raises:
        LayoutError: if the weights have another shape.
    """
    plan = _channel_map_for(weights, layers)
    drawn = [
        torch.rand(len(weights), group.channels, generator=generator, device=weights.device) for group in plan.groups
    ]
    orders = [_within_bounds(ranks.argsort(dim=1), group) for ranks, group in zip(drawn, plan.groups, strict=True)]
    return _reordered(weights, plan, orders)


def canonicalize(weights: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The weights with the channels of every group in a canonical order: by falling sum of squares of all weights
    that make or read a channel. All permutations of a row come to the same row, unless channels tie.

    Args:
        weights: [B, D].

    Raises:
        LayoutError: if the weights have another shape.
    """
    return _reordered(weights, _channel_map_for(weights, layers), canonical_orders(weights, layers))


def canonical_orders(weights: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
    """The orders that `canonicalize` puts channels in: for each group of `permutations` an int64 [B, channels], whose
    entry i is the channel that comes to place i.

    Raises:
        LayoutError: if the weights have another shape.
    """
    plan = _channel_map_for(weights, layers)
    sums = [torch.zeros(len(weights), g.channels, dtype=torch.float64, device=weights.device) for g in plan.groups]
    for tensor in plan.tensors:
        squares = _of(weights, tensor).to(torch.float64).square().sum(dim=3)
        if tensor.outputs >= 0:
            sums[tensor.outputs][:, : tensor.shape[0]] += squares.sum(dim=2)
        if tensor.inputs >= 0:
            sums[tensor.inputs][:, : tensor.shape[1]] += squares.sum(dim=1)
    return [
        _within_bounds(total.argsort(dim=1, descending=True, stable=True), group)
        for total, group in zip(sums, plan.groups, strict=True)
    ]


def reorder_channels(weights: Tensor, layers: Sequence[Layer], orders: Sequence[Tensor]) -> Tensor:
    """The weights with channels in given orders; the function of every row is the same.

    Args:
        weights: [B, D].
        orders: for each group of `permutations` the order of its channels in each row, as `canonical_orders` returns.

    Returns:
        A new tensor [B, D].

    Raises:
        LayoutError: if the weights or orders have another shape, or an order is none of the channels of its group.
    """
    plan = _channel_map_for(weights, layers)
    expected = [[len(weights), group.channels] for group in plan.groups]
    if [list(order.shape) for order in orders] != expected:
        raise LayoutError(f"orders have shapes {[list(order.shape) for order in orders]}, expected {expected}")
    for order, group in zip(orders, plan.groups, strict=True):
        every = torch.arange(group.channels, device=order.device)
        if not (order.sort(dim=1).values == every).all() or not torch.equal(_within_bounds(order, group), order):
            raise LayoutError(f"{group.name}: expected each of its {group.channels} channels once, within its bounds")
    return _reordered(weights, plan, list(orders))


def flip_signs(
    weights: Tensor, layers: Sequence[Layer], activation: str, generator: torch.Generator | None = None
) -> Tensor:
    """The weights with the sign of each channel flipped or not, at random: for tanh, where no max-pooling follows.

    Args:
        weights: [B, D].

    Raises:
        SpecError: if the activation is not odd.
        LayoutError: if the weights have another shape.
    """
    if activation not in ODD:
        raise SpecError(f"signs can be flipped with {' or '.join(ODD)}, not with {activation}: it is not odd")

    def signs(group: ChannelGroup, factors: Tensor) -> Tensor:
        if group.pooled or not _passes(group, activation, ODD):
            return factors.fill_(1)
        return factors.random_(2, generator=generator).mul_(-2).add_(1)

    return _scaled(weights, layers, signs)


def rescale(
    weights: Tensor,
    layers: Sequence[Layer],
    activation: str,
    spread: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The weights with each channel multiplied by exp(u), u uniform in [−spread, spread], and divided again where
    it is read: for relu.

    Args:
        weights: [B, D].

    Raises:
        SpecError: if the activation is not homogeneous.
        LayoutError: if the weights have another shape.
    """
    if activation not in HOMOGENEOUS:
        raise SpecError(f"channels can be scaled with {' or '.join(HOMOGENEOUS)}, not with {activation}")

    def scales(group: ChannelGroup, factors: Tensor) -> Tensor:
        if not _passes(group, activation, HOMOGENEOUS):
            return factors.fill_(1)
        return factors.uniform_(-spread, spread, generator=generator).exp_()

    return _scaled(weights, layers, scales)


def shift_phases(weights: Tensor, layers: Sequence[Layer], generator: torch.Generator | None = None) -> Tensor:
    """The weights with the phase of each sine shifted by −π, 0 or π, at random: the bias by π/ω, and the sign of what
    reads it turned where it was shifted. Channels that pass anything but one sine stay as they are.

    Args:
        weights: [B, D].
        generator: of the shifts, on the device of the weights; None is torch's.

    Raises:
        SpecError: if there is no layer of sines.
        LayoutError: if the weights have another shape.
    """
    plan = _channel_map_for(weights, layers)
    shifted = {index: group for index, group in enumerate(plan.groups) if _is_plain_sine(group)}
    if not shifted:
        raise SpecError("phases can be shifted where a layer with a bias is followed by one sine; there is none")
    turns = {
        index: torch.randint(-1, 2, (len(weights), group.channels), generator=generator, device=weights.device)
        for index, group in shifted.items()
    }
    result = weights.clone(memory_format=torch.contiguous_format)
    for tensor in plan.tensors:
        spec = tensor.spec
        part = result[:, spec.offset : spec.offset + spec.size].view(len(weights), *tensor.shape)
        if tensor.outputs in turns and len(spec.shape) == 1:
            step = math.pi / shifted[tensor.outputs].frequencies[0]
            part += (turns[tensor.outputs].to(torch.float64) * step).to(weights.dtype)[:, :, None, None]
        if tensor.inputs in turns:
            part *= (1 - 2 * turns[tensor.inputs].abs()).to(weights.dtype)[:, None, :, None]
    return result


def _is_plain_sine(group: ChannelGroup) -> bool:
    """Whether channels come from one layer with a bias, pass one sine, and are then read as they are."""
    makers = [use for use in group.uses if use.axis == 0]
    biased = len(makers) == 2 and any(use.tensor == f"{group.name}.bias" for use in makers)
    return group.functions == (SINE,) and not group.pooled and biased and all(use.power for use in group.uses)


@dataclass(frozen=True, slots=True, repr=False)
class Transformed(TensorsRepr):
    """Weights [B, D] after a symmetry, and how far the function of each row moved: float64 [B], the largest absolute
    difference of values on a grid. That is rounding alone: 1e-6 in float32 on fitted networks with ω = 30, and 1e-14 in
    float64."""

    weights: Tensor
    residual: Tensor


FIELD_SYMMETRIES: Mapping[str, Callable[[Tensor, Sequence[Layer], torch.Generator | None], Tensor]] = {
    "permutation": permute,
    "signs": lambda weights, layers, generator: flip_signs(weights, layers, SINE, generator),
    "phases": shift_phases,
}
"""The symmetries of networks of sines by name."""


def transform_field(
    weights: Tensor, layers: Sequence[Layer], symmetry: str, generator: torch.Generator | None = None
) -> Transformed:
    """Weights of networks of sines after a random symmetry, each with its residual.

    Args:
        weights: [B, D].
        layers: as `layers_of_row` gives them.
        symmetry: `permutation`, `signs` (sin is odd) or `phases` (sin(x + π) = −sin(x)).
        generator: as of `permute`.

    Raises:
        UnknownNameError: if there is no such symmetry.
        SpecError: if the layers do not have it.
        LayoutError: if the weights have another shape.
    """
    if symmetry not in FIELD_SYMMETRIES:
        raise UnknownNameError("symmetry", symmetry, FIELD_SYMMETRIES)
    changed = FIELD_SYMMETRIES[symmetry](weights, layers, generator)
    return Transformed(changed, residuals(weights, changed, layers))


def residuals(weights: Tensor, changed: Tensor, layers: Sequence[Layer]) -> Tensor:
    """How far the functions of fields differ: float64 [B], the largest absolute difference of values on a grid.

    Of two coordinates the grid has 33 × 33 points of [−1, 1]², of others 1,024 points of the cube, always the same.

    Args:
        weights, changed: [B, D], of one dtype, in which the values are computed.

    Raises:
        SpecError: if the layers take no coordinates.
    """
    inputs = inputs_of(layers)
    if inputs is None:
        raise SpecError(f"these {len(layers)} layers take any input: expected those of a field, a linear layer first")
    points = grid_points("xy[-1,1]", _SIDE)
    if inputs != points.shape[1]:
        points = torch.rand(_POINTS, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    points = points.to(weights)
    before, after = values_at(layers, weights, points), values_at(layers, changed, points)
    return (before.double() - after.double()).abs().flatten(1).amax(dim=1)


def add_noise(weights: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """The weights [B, D] with normal noise, whose deviation is `share` of that of each row. No symmetry, but the
    usual other augmentation."""
    noise = torch.randn(weights.shape, generator=generator, device=weights.device, dtype=weights.dtype)
    return weights + share * weights.std(dim=1, keepdim=True) * noise


@dataclass(frozen=True, slots=True, repr=False)
class Normalisation(TensorsRepr):
    """Mean and deviation of each tensor of the layout, spread out over its weights: each [D].

    Take it from the training split only: `Normalisation.of(batches(train, columns=["weights"]), layout)`.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, batches: Iterable[dict[str, Tensor]], layout: WeightLayout) -> Normalisation:
        """Over all rows of some batches, in float64.

        Raises:
            SpecError: if there is no row.
        """
        rows = 0
        total = torch.zeros(layout.size, dtype=torch.float64)
        squares = torch.zeros(layout.size, dtype=torch.float64)
        for batch in batches:
            weights = batch["weights"].to("cpu", torch.float64)
            rows += len(weights)
            total += weights.sum(dim=0)
            squares += weights.square().sum(dim=0)
        if not rows:
            raise SpecError("found no rows to take statistics of; give batches of the training split")
        mean, deviation = torch.empty(layout.size), torch.empty(layout.size)
        for where in layout.slices().values():
            middle = total[where].mean() / rows
            variance = (squares[where].mean() / rows - middle**2).clamp(min=0)
            mean[where] = middle.to(torch.float32)
            # A tensor that is the same everywhere stays as it is, less its mean.
            deviation[where] = variance.sqrt().to(torch.float32) if variance > 0 else 1.0
        return cls(mean, deviation)

    def apply(self, weights: Tensor) -> Tensor:
        """Normalised weights [..., D]."""
        return (weights - self.mean.to(weights)) / self.deviation.to(weights)

    def invert(self, weights: Tensor) -> Tensor:
        """Weights of normalised ones [..., D]."""
        return weights * self.deviation.to(weights) + self.mean.to(weights)


def _channel_map_for(weights: Tensor, layers: Sequence[Layer]) -> _ChannelMap:
    plan = _channel_map(tuple(layers))
    if weights.ndim != 2 or weights.shape[1] != plan.layout.size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [B, {plan.layout.size}] for these layers"
        )
    return plan


def _passes(group: ChannelGroup, activation: str, functions: Sequence[str]) -> bool:
    """Whether the channels of a group pass through no other functions than these, of a member's activation."""
    return all((activation if name == MEMBERS else name) in functions for name in group.functions)


def _of(weights: Tensor, tensor: _Tensor) -> Tensor:
    """A tensor of all rows as [B, outputs, inputs, block]."""
    spec = tensor.spec
    return weights[:, spec.offset : spec.offset + spec.size].reshape(len(weights), *tensor.shape)


def _within_bounds(orders: Tensor, group: ChannelGroup) -> Tensor:
    """Orders [B, channels] in which the channels between two bounds of the group stay between them."""
    if not group.bounds:
        return orders
    widths = torch.tensor(group.widths(), device=orders.device)
    part = torch.arange(len(widths), device=orders.device).repeat_interleave(widths)
    return orders.gather(1, part[orders].argsort(dim=1, stable=True))


def _reordered(weights: Tensor, plan: _ChannelMap, orders: list[Tensor]) -> Tensor:
    weights = weights.contiguous()
    result = torch.empty_like(weights)
    for tensor in plan.tensors:
        where = slice(tensor.spec.offset, tensor.spec.offset + tensor.spec.size)
        outputs = None if tensor.outputs < 0 else _first(orders[tensor.outputs], tensor.shape[0])
        inputs = None if tensor.inputs < 0 else _first(orders[tensor.inputs], tensor.shape[1])
        if weights.requires_grad or not reorder(result[:, where], weights[:, where], tensor.shape, (outputs, inputs)):
            part = _of(weights, tensor)
            # Indices are expanded, not copied: they take no memory, however large the blocks that move.
            if outputs is not None:
                part = part.gather(1, outputs[:, :, None, None].expand_as(part))
            if inputs is not None:
                part = part.gather(2, inputs[:, None, :, None].expand_as(part))
            result[:, where] = part.flatten(1)
    return result


def _first(orders: Tensor, count: int) -> Tensor:
    """The order of the first channels, of orders that keep these first."""
    return orders if orders.shape[1] == count else orders[:, :count].contiguous()


def _scaled(weights: Tensor, layers: Sequence[Layer], draw: Callable[[ChannelGroup, Tensor], Tensor]) -> Tensor:
    """The weights with each channel multiplied by a factor; `draw` fills the factors [B, channels] of a group."""
    plan = _channel_map_for(weights, layers)
    factors = [draw(group, weights.new_empty(len(weights), group.channels)) for group in plan.groups]
    result = weights.clone(memory_format=torch.contiguous_format)
    powers = {(use.tensor, use.axis): use.power for group in plan.groups for use in group.uses}
    for tensor in plan.tensors:
        spec = tensor.spec
        part = result[:, spec.offset : spec.offset + spec.size].view(len(weights), *tensor.shape)
        for axis, group in enumerate((tensor.outputs, tensor.inputs)):
            power = 0 if group < 0 else powers[spec.name, axis]
            if power:
                factor = factors[group][:, : tensor.shape[axis]]
                factor = factor if power > 0 else factor.reciprocal()
                part *= factor[:, :, None, None] if axis == 0 else factor[:, None, :, None]
    return result
