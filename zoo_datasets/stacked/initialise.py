"""The weights of a stack at epoch 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.networks.layers import DRAWN, Layer, build_layout, tensors_of
from zoo_datasets.stacked.streams import INIT, normal, uniform

Draw = Callable[[Tensor, int, int, int], Tensor]


def _draw_uniform(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return uniform(seeds, INIT, epoch=0, step=0, count=count, substream=substream)


def _draw_normal(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return normal(seeds, INIT, epoch=0, step=0, count=count, substream=substream)


def _draw_kaiming_uniform(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return (2.0 * _draw_uniform(seeds, count, substream, fan_in) - 1.0) * math.sqrt(6.0 / fan_in)


def _draw_kaiming_normal(seeds: Tensor, count: int, substream: int, fan_in: int) -> Tensor:
    return _draw_normal(seeds, count, substream, fan_in) * math.sqrt(2.0 / fan_in)


INITS: dict[str, Draw] = {
    "uniform": _draw_uniform,  # U(0, 1)
    "normal": _draw_normal,  # N(0, 1)
    "kaiming_uniform": _draw_kaiming_uniform,  # torch.nn.init's defaults: gain sqrt(2), fan in
    "kaiming_normal": _draw_kaiming_normal,
}


def initialise(layers: Sequence[Layer], seeds: Tensor, inits: Sequence[str]) -> Tensor:
    """The flat weights of K members at epoch 0: float32 [K, D] in the order of `build_layout(layers)`.

    Conv and linear weights follow the member's init, biases start at 0.01, BatchNorm at 1 and 0: as the layers say.

    Args:
        seeds: int64 [K].
        inits: the init of each member, a name of `INITS`.
    """
    for init in set(inits):
        if init not in INITS:
            raise UnknownNameError("initialisation", init, INITS)
    layout = build_layout(layers)
    weights = torch.empty((len(seeds), layout.size), dtype=torch.float32)
    for number, (spec, tensor) in enumerate(zip(layout.tensors, tensors_of(layers), strict=True)):
        columns = weights[:, spec.offset : spec.offset + spec.size]
        if tensor.start is not DRAWN:
            columns.fill_(tensor.start)
            continue
        fan_in = math.prod(spec.shape[1:])
        for init in sorted(set(inits)):
            rows = torch.tensor([index for index, name in enumerate(inits) if name == init])
            columns[rows] = INITS[init](seeds[rows], spec.size, number, fan_in).to(torch.float32)
    return weights
