"""The weights of a stack at epoch 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.networks.layers import DRAWN, Layer, Linear, Sine, build_layout, flat_layers, tensors_of
from zoo_datasets.networks.layers.affine import BIAS_START
from zoo_datasets.networks.layers.module import module_of, seeded_by
from zoo_datasets.stacked.streams import INIT, generator_seeds, normal, uniform

Draw = Callable[[Tensor, int, int, int], Tensor]
"""(seeds [K], count, substream, fan in) to numbers [K, count]."""

# Of a normal distribution that is cut off at two standard deviations, as Keras' and torch's are.
_CUT = 2.0
_CUT_STD = 0.87962566103423978


@dataclass(frozen=True, slots=True)
class ShapedDraw:
    """An initialisation that needs more of a tensor than its fan in.

    Attributes:
        draw: (seeds [K], shape, substream) to numbers [K, …] of standard deviation, or gain, 1 where `scaled`.
        scaled: whether it takes a member's `init_std`.
    """

    draw: Callable[[Tensor, tuple[int, ...], int], Tensor]
    scaled: bool = False


@dataclass(frozen=True, slots=True)
class NetworkDraw:
    """An initialisation that needs more than one tensor: of all weights, those of biases too.

    Attributes:
        draw: (layers, seeds [K]) to weights [K, D].
    """

    draw: Callable[[Sequence[Layer], Tensor], Tensor]


def _draw_uniform(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return uniform(seeds, INIT, epoch=0, step=0, count=count, substream=substream)


def _draw_normal(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return normal(seeds, INIT, epoch=0, step=0, count=count, substream=substream)


def _draw_kaiming_uniform(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return (2.0 * _draw_uniform(seeds, count, substream, fan_in) - 1.0) * math.sqrt(6.0 / fan_in)


def _draw_kaiming_normal(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return _draw_normal(seeds, count, substream, fan_in) * math.sqrt(2.0 / fan_in)


def _draw_truncated(seeds: Tensor, shape: tuple[int, ...], substream: int) -> Tensor:
    """Standard normal numbers within ± 2, by the inverse of their distribution function."""
    within = math.erf(_CUT / math.sqrt(2.0))
    shares = _draw_uniform(seeds, math.prod(shape), substream, 0)
    return math.sqrt(2.0) * torch.erfinv((2.0 * shares - 1.0) * within)


def _draw_glorot_normal(seeds: Tensor, shape: tuple[int, ...], substream: int) -> Tensor:
    fans = math.prod(shape[1:]) + shape[0] * math.prod(shape[2:])
    return _draw_truncated(seeds, shape, substream) * (math.sqrt(2.0 / fans) / _CUT_STD)


def _draw_he_normal(seeds: Tensor, shape: tuple[int, ...], substream: int) -> Tensor:
    return _draw_truncated(seeds, shape, substream) * (math.sqrt(2.0 / math.prod(shape[1:])) / _CUT_STD)


def _draw_orthogonal(seeds: Tensor, shape: tuple[int, ...], substream: int) -> Tensor:
    """Rows, or columns where there are fewer, that are orthonormal: Q of a normal matrix, R's diagonal made positive
    (Saxe et al. 2014)."""
    rows, columns = shape[0], math.prod(shape[1:])
    drawn = _draw_normal(seeds, rows * columns, substream, columns).view(len(seeds), rows, columns)
    q, r = torch.linalg.qr(drawn if rows >= columns else drawn.transpose(1, 2))
    q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2))[:, None, :]
    matrix: Tensor = q if rows >= columns else q.transpose(1, 2)
    return matrix.flatten(1)


def _draw_siren(layers: Sequence[Layer], seeds: Tensor) -> Tensor:
    """Weights of the first layer from U(±1/n), n being its inputs, of the others from U(±√(6/n)/ω), ω being that of the
    sine behind them, of the last layer that before it; biases from U(±1/√n), as torch's (Sitzmann et al. 2020)."""
    flat = flat_layers(layers)
    linear = [layer for layer in flat if isinstance(layer, Linear)]
    omegas = [layer.omega for layer in flat if isinstance(layer, Sine)]
    if len(omegas) != len(linear) - 1 or not omegas:
        raise SpecError(f"init siren is for linear layers with a sine between, found {len(linear)} and {len(omegas)}")
    bounds = {}
    for number, layer in enumerate(linear):
        inputs, omega = layer.in_features, omegas[min(number, len(omegas) - 1)]
        bounds[f"{layer.name}.weight"] = math.sqrt(6.0 / inputs) / omega if number else 1.0 / inputs
        bounds[f"{layer.name}.bias"] = 1.0 / math.sqrt(inputs)
    parts = [
        (2.0 * _draw_uniform(seeds, spec.size, number, 0) - 1.0) * bounds[spec.name]
        for number, spec in enumerate(build_layout(layers).tensors)
    ]
    return torch.cat(parts, dim=1)


def _draw_module(layers: Sequence[Layer], seeds: Tensor) -> Tensor:
    """What the function of a user's own draws from torch's generator, seeded by each member's stream."""
    module = module_of(layers)
    if module is None:
        raise SpecError("init module is for architectures of your own code; choose another one for layers")
    layout = build_layout(layers)
    rows = []
    for seed in generator_seeds(seeds, INIT):
        with seeded_by(seed):
            state = module.fresh().state_dict()
        rows.append(layout.flatten({spec.name: state[spec.name].detach() for spec in layout.tensors}))
    return torch.stack(rows)


INITS: dict[str, Draw | ShapedDraw | NetworkDraw] = {
    "uniform": _draw_uniform,  # U(0, 1)
    "normal": ShapedDraw(
        lambda seeds, shape, substream: _draw_normal(seeds, math.prod(shape), substream, 0), scaled=True
    ),  # N(0, 1)
    "kaiming_uniform": _draw_kaiming_uniform,  # torch.nn.init's defaults: gain sqrt(2), fan in
    "kaiming_normal": _draw_kaiming_normal,
    # Of Keras: cut off at two standard deviations.
    "glorot_normal": ShapedDraw(_draw_glorot_normal),
    "he_normal": ShapedDraw(_draw_he_normal),
    "truncated_normal": ShapedDraw(_draw_truncated, scaled=True),
    "orthogonal": ShapedDraw(_draw_orthogonal, scaled=True),
    "siren": NetworkDraw(_draw_siren),
    "module": NetworkDraw(_draw_module),  # of the code of a user's own
}


def takes_std(init: str) -> bool:
    """Whether an initialisation of the table takes a standard deviation, or a gain."""
    kind = INITS[init]
    return isinstance(kind, ShapedDraw) and kind.scaled


def initialise(
    layers: Sequence[Layer],
    seeds: Tensor,
    inits: Sequence[str],
    stds: Sequence[float | None] | None = None,
    biases: Sequence[float | None] | None = None,
) -> Tensor:
    """The flat weights of K members at epoch 0: float32 [K, D] in the order of `build_layout(layers)`.

    Conv and linear weights follow the member's init, biases start at 0.01, BatchNorm at 1 and 0: as the layers say.

    Args:
        seeds: int64 [K].
        inits: the init of each member, a name of `INITS`.
        stds: of each member, the standard deviation of an init that takes one; None: 1.
        biases: of each member, what the biases of convolutions and linear layers start at; None: 0.01.
    """
    for init in set(inits):
        if init not in INITS:
            raise UnknownNameError("initialisation", init, INITS)
    if module_of(layers) is not None and (others := sorted(set(inits) - {"module"})):
        raise SpecError(f"a network of code draws its own weights: expected init module, found {others[0]}")
    layout = build_layout(layers)
    weights = torch.empty((len(seeds), layout.size), dtype=torch.float32)
    for number, (spec, tensor) in enumerate(zip(layout.tensors, tensors_of(layers), strict=True)):
        columns = weights[:, spec.offset : spec.offset + spec.size]
        if tensor.start is not DRAWN:
            columns.fill_(tensor.start)
            if tensor.start == BIAS_START and biases is not None:
                own = [tensor.start if bias is None else bias for bias in biases]
                columns.copy_(torch.tensor(own, dtype=torch.float32)[:, None].expand_as(columns))
            continue
        for init in sorted(name for name in set(inits) if not isinstance(INITS[name], NetworkDraw)):
            rows = torch.tensor([index for index, name in enumerate(inits) if name == init])
            drawn = _drawn(init, seeds[rows], spec.shape, number)
            if stds is not None and takes_std(init):
                own = [1.0 if (std := stds[row]) is None else std for row in rows.tolist()]
                drawn = drawn * torch.tensor(own, dtype=torch.float64)[:, None]
            columns[rows] = drawn.to(torch.float32)
    for init in sorted(set(inits)):
        if isinstance(kind := INITS[init], NetworkDraw):
            rows = torch.tensor([index for index, name in enumerate(inits) if name == init])
            weights[rows] = kind.draw(layers, seeds[rows]).to(torch.float32)
    return weights


def _drawn(init: str, seeds: Tensor, shape: tuple[int, ...], substream: int) -> Tensor:
    kind = INITS[init]
    assert not isinstance(kind, NetworkDraw)
    if isinstance(kind, ShapedDraw):
        return kind.draw(seeds, shape, substream)
    return kind(seeds, math.prod(shape), substream, math.prod(shape[1:]))
