"""Channels of one network put in the order of another's, and what lies between the two (Ainsworth et al., Git Re-Basin:
Merging Models modulo Permutation Symmetries, 2023).

Two trained networks whose weights seem far apart may be near each other once channels that do the same stand in the
same places. Whether they are is measured by the loss on the straight line between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zoo_datasets.errors import LayoutError, SpecError, UnknownNameError
from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.channels import ChannelGroup, permutations
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.module import Network
from zoo_datasets.stacked import evaluate_stack
from zoo_datasets.symmetries import canonical_orders, reorder_channels
from zoo_datasets.text import TensorsRepr

Method = Literal["weights", "activations"]
METHODS: Final = get_args(Method)
POINTS: Final = 25
_PASSES = 100
_GAIN = 1e-12  # of the objective, relatively


def align(
    a: Tensor,
    b: Tensor,
    layers: Sequence[Layer],
    *,
    method: Method = "weights",
    activation: str | None = None,
    inputs: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """The weights of b with their channels in the order that fits a best; each function stays as it is.

    Matching by weights maximises ⟨a, π(b)⟩ over the orders π of all groups of channels, one group at a time by a linear
    assignment, until none gains (Ainsworth et al. 2023, algorithm 1). It starts from the order of b and from the
    canonical one (`zoo_datasets.symmetries.canonicalize`) and keeps the better end, so that a permuted copy is found.
    Matching by activations assigns the channels of each group once, by the inner products of what the two networks
    compute where the channels are made (their section 3.1).

    Args:
        a, b: flat weights [D], or of pairs [B, D].
        layers: of the networks, as `layers_of_row` returns.
        method: `weights` or `activations`.
        activation, inputs: of matching by activations: the networks' activation, and what is put into them: normalised
            images [N, C, H, W], or coordinates [N, F].
        seed: of the order in which groups are visited.

    Returns:
        A new tensor of the shape and dtype of b.

    Raises:
        LayoutError: if the weights are not those of the layers, or a and b differ in their shape.
        SpecError: if matching by activations lacks its activation or inputs.
        UnknownNameError: if there is no such method.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if a.shape != b.shape:
        raise LayoutError(f"weights {list(a.shape)} and {list(b.shape)}: expected the same shape")
    layers, groups = tuple(layers), permutations(layers)
    if a.ndim == 1:
        return align(a[None], b[None], layers, method=method, activation=activation, inputs=inputs, seed=seed)[0]
    size = build_layout(layers).size
    if a.ndim != 2 or a.shape[1] != size:
        raise LayoutError(f"weights have shape {list(a.shape)}, expected [{size}] or [B, {size}] for these layers")
    if not groups:
        return b.clone()
    orders: list[list[Tensor]]
    if method == "weights":
        matching = _WeightMatching(layers, groups, seed)
        orders = [matching.orders(one, other) for one, other in zip(a.double(), b.double(), strict=True)]
    elif activation is None or inputs is None:
        raise SpecError("matching by activations puts something into the networks: give activation= and inputs=")
    else:
        orders = [
            [_assigned([one @ other.T], group) for one, other, group in zip(*sides, groups, strict=True)]
            for sides in zip(
                *([_responses(row, layers, groups, activation, inputs) for row in rows] for rows in (a, b)), strict=True
            )
        ]
    return reorder_channels(b, layers, [torch.stack(group) for group in zip(*orders, strict=True)])


class _WeightMatching:
    """Matching by weights for one pair at a time, in float64."""

    def __init__(self, layers: tuple[Layer, ...], groups: Sequence[ChannelGroup], seed: int) -> None:
        self._layers = layers
        self._groups = groups
        self._layout = build_layout(layers)
        self._seed = seed
        parameters = torch.zeros(self._layout.size, dtype=torch.float64)
        for spec in self._layout.tensors:
            if spec.kind == "parameter":  # running statistics are no weights
                parameters[spec.offset : spec.offset + spec.size] = 1
        self._parameters = parameters

    def orders(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """The order of each group's channels of b [D] that fits a [D] best, int64 [channels] each."""
        a = a * self._parameters  # what is no parameter counts nothing
        first = [torch.arange(group.channels) for group in self._groups]
        canonical = zip(canonical_orders(a[None], self._layers), canonical_orders(b[None], self._layers), strict=True)
        second = [theirs[0][own[0].argsort()] for own, theirs in canonical]
        _, best = max((self._climb(a, b, start) for start in (first, second)), key=lambda end: end[0])
        return best

    def _climb(self, a: Tensor, b: Tensor, orders: list[Tensor]) -> tuple[float, list[Tensor]]:
        """Coordinate ascent from some orders: the objective, which never falls, and the orders."""
        generator = torch.Generator().manual_seed(self._seed)
        best = float(a @ self._moved(b, orders))
        for _ in range(_PASSES):
            gained = False
            for number in torch.randperm(len(orders), generator=generator).tolist():
                trial, group = list(orders), self._groups[number]
                trial[number] = torch.arange(group.channels)
                trial[number] = _assigned(self._gains(a, self._moved(b, trial), group), group)
                value = float(a @ self._moved(b, trial))
                if value > best + _GAIN * max(1.0, abs(best)):
                    best, orders, gained = value, trial, True
            if not gained:
                break
        return best, orders

    def _moved(self, b: Tensor, orders: Sequence[Tensor]) -> Tensor:
        return reorder_channels(b[None], self._layers, [order[None] for order in orders])[0]

    def _gains(self, a: Tensor, b: Tensor, group: ChannelGroup) -> list[Tensor]:
        """What each tensor adds to the objective with each channel of b in each place: float64 [places, channels]."""
        first, second = (_views(self._layout, weights, group) for weights in (a, b))
        return [one @ other.T for one, other in zip(first, second, strict=True)]


def _views(layout: WeightLayout, weights: Tensor, group: ChannelGroup) -> list[Tensor]:
    """What makes or reads the channels of a group, of each of its tensors [channels, ·]; some run over the first
    channels alone."""
    tensors = layout.unflatten(weights)
    views = []
    for use in group.uses:
        tensor = tensors[use.tensor]
        if use.axis == 0:
            views.append(tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None])
        else:
            blocks = tensor.reshape(tensor.shape[0], tensor.shape[1] // use.block, -1)
            views.append(blocks.transpose(0, 1).flatten(1))
    return views


def _responses(
    weights: Tensor, layers: tuple[Layer, ...], groups: Sequence[ChannelGroup], activation: str, inputs: Tensor
) -> list[Tensor]:
    """What a network computes where the channels of each group are made, float64 [channels, ·]."""
    network = Network(layers, activation).eval()
    network.load_state_dict(build_layout(layers).unflatten(weights.float()), strict=False)
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output.transpose(0, 1).flatten(1).double()

        network.get_submodule(name).register_forward_hook(hook)

    for group in groups:
        keep(group.name)
    with torch.no_grad():
        network(inputs)
    return [outputs[group.name] for group in groups]


def _assigned(gains: Sequence[Tensor], group: ChannelGroup) -> Tensor:
    """The channel that comes to each place, within the bounds of a group, by the sum of gains: int64 [places]."""
    total = torch.zeros(group.channels, group.channels, dtype=torch.float64)
    for gain in gains:
        total[: len(gain), : len(gain)] += gain
    finite = np.nan_to_num(total.numpy(), nan=0.0, posinf=0.0, neginf=0.0)  # of networks that diverged
    edges = [0, *group.bounds, group.channels]
    parts = [
        start + linear_sum_assignment(finite[start:stop, start:stop], maximize=True)[1]
        for start, stop in itertools.pairwise(edges)
    ]
    return torch.from_numpy(np.concatenate(parts))


def interpolate(a: Tensor, b: Tensor, points: int = POINTS) -> Tensor:
    """(1 − λ) a + λ b for λ at equal distances from 0 to 1.

    Args:
        a, b: [D] or [B, D].
        points: at least 2.

    Returns:
        [points, D] or [B, points, D], of the dtype of a.

    Raises:
        LayoutError: if the shapes differ.
        SpecError: if there are fewer than two points.
    """
    if a.shape != b.shape:
        raise LayoutError(f"weights {list(a.shape)} and {list(b.shape)}: expected the same shape")
    if points < 2:
        raise SpecError(f"points={points}: expected at least 2, the two ends")
    share = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)[:, None]
    return torch.lerp(a.unsqueeze(-2), b.unsqueeze(-2), share)


@dataclass(frozen=True, slots=True, repr=False)
class Barriers(TensorsRepr):
    """Losses between pairs of networks.

    Attributes:
        losses: mean cross-entropy at λ = 0 … 1, float64 [B, points].
        barrier: the highest loss on the line less the mean of both ends, float64 [B].
    """

    losses: Tensor
    barrier: Tensor


def loss_barrier(
    a: Tensor,
    b: Tensor,
    layers: Sequence[Layer],
    activation: str,
    data: ImageData,
    split: Split | None = None,
    points: int = POINTS,
) -> Barriers:
    """The loss on the straight lines between networks, in stacked passes.

    Align b first (`align`), or the barrier is mostly that of the order of channels.

    Args:
        a, b: float32 [D], or of pairs [B, D].
        data: gives the normalisation, and its test images where there is no `split`.

    Raises:
        SpecError: if the network keeps running statistics, which would have to be computed anew on the line.
        LayoutError: if the shapes differ.
    """
    layout = build_layout(tuple(layers))
    statistics = [spec.name for spec in layout.tensors if spec.kind != "parameter"]
    if statistics:
        raise SpecError(
            f"{statistics[0]} is a running statistic; those of a network between two others are unknown, and its loss "
            "would be that of wrong ones"
        )
    lines = interpolate(a.view(-1, a.shape[-1]), b.view(-1, b.shape[-1]), points)
    losses, _ = evaluate_stack(layers, activation, lines.flatten(0, 1).float(), data, split or data.test)
    losses = losses.view(len(lines), points)
    ends = (losses[:, 0] + losses[:, -1]) / 2
    return Barriers(losses, losses.amax(dim=1) - ends)
