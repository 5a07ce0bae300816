"""ProbeGen (Kahana et al.: Deep linear probe generators for weight space learning, 2024): run the networks themselves,
on inputs that are learned.

m latent codes go through a deep linear generator to m inputs; the outputs of a network for these, side by side, go into
an MLP. Gradients flow through the networks, whose weights stay as they are, into the generator. B networks are computed
at once (`zoo_datasets.stacked`), those of one activation together. A change of the weights that keeps the function
keeps the prediction, whatever it is.

Images are of 28 × 28 or 32 × 32 pixels, in (−1, 1) by a tanh at the generator's end; coordinates are as they come.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo_datasets.errors import SpecError, ZooError
from zoo_datasets.networks.channels import permutations
from zoo_datasets.networks.layers import Conv, Flatten, Layer, Linear, build_layout
from zoo_datasets.networks.layers.chain import flat_layers
from zoo_datasets.networks.layers.walks import MEMBERS
from zoo_datasets.predictors.base import Config, Depth, Model, Rate, Share, WeightSpace, Width
from zoo_datasets.stacked import StackedNetwork

_SIDES = (28, 32, 64, 16, 8)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """Sizes of `ProbeGen`.

    Attributes:
        probes: m; published are 64 and 128.
        code: numbers of a latent code.
        hidden, depth: width and number of linear layers of the MLP; published are 256 and 6.
    """

    learning_rate: Rate = 1e-3
    probes: Width = 32
    code: Width = 32
    hidden: Width = 256
    depth: Depth = 4
    dropout: Share = 0.0


class ProbeGen(Model):
    """Learned inputs, the networks' answers to them, and an MLP."""

    config_type = ProbeConfig
    choices = ({"learning_rate": 1e-3}, {"learning_rate": 3e-4})
    invariant: ClassVar[str] = "all that keep the function"
    reads_activation: ClassVar[bool] = True

    def __init__(self, space: WeightSpace, outputs: int, config: ProbeConfig) -> None:
        super().__init__(space, outputs, config)
        told = any(MEMBERS in group.functions for group in permutations(space.layers))
        if told and not space.activations:
            raise SpecError("probe runs the networks, so that it must know their activation; it cannot be predicted")
        self.shape = input_shape_of(space.layers)
        names = space.activations if told else ("none",)
        self.networks = [StackedNetwork(space.layers, name) for name in names]
        self.told = told
        self.codes = nn.Parameter(torch.randn(config.probes, config.code))
        self.generator = _generator(config.code, self.shape)
        with torch.no_grad():
            sample = self._answers(0, torch.zeros(1, space.layout.size), self._probes())
        width, last = sample.shape[1], config.hidden
        self.norm = _Whole(width)
        sizes = [width, *([last] * (config.depth - 1))]
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(sizes):
            layers += [nn.Linear(inside, outside), nn.ReLU(), nn.Dropout(config.dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    def _probes(self) -> Tensor:
        made: Tensor = self.generator(self.codes if len(self.shape) == 1 else self.codes[:, :, None, None])
        return made if len(self.shape) == 1 else torch.tanh(made)

    def _answers(self, number: int, weights: Tensor, probes: Tensor) -> Tensor:
        """What networks of one activation say, [B, m · outputs]."""
        tensors = {name: tensor.contiguous() for name, tensor in self.space.layout.unflatten(weights).items()}
        return self.networks[number](tensors, probes).flatten(1)

    def prepare(self, weights: Tensor) -> None:
        """Take the mean and deviation of the answers to the first probes, of the first networks."""
        drawn = weights[: self.config.batch_size * 4].to(self.codes)
        with torch.no_grad():
            self.norm.fit(self._answers(0, drawn, self._probes()))

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs]; see `Model`."""
        self.check(weights)
        probes = self._probes()
        if not self.told or len(self.networks) == 1:
            return self._read(self._answers(0, weights, probes))
        places, answers = [], []
        for number in range(len(self.networks)):
            mine = torch.nonzero(activation == number).flatten()
            if len(mine):
                places.append(mine)
                answers.append(self._answers(number, weights[mine], probes))
        order = torch.cat(places).argsort()
        return self._read(torch.cat(answers)[order])

    def _read(self, answers: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(answers))
        return out


class _Whole(nn.Module):
    """Answers less one mean, over one deviation, both fixed; so that networks with large logits do not burst."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def fit(self, answers: Tensor) -> None:
        finite = answers[torch.isfinite(answers)]
        if len(finite):
            middle = finite.median()
            spread = (finite - middle).abs().mean()
            self.mean.copy_(middle)
            self.deviation.copy_(spread if spread > 1e-12 else torch.ones_like(spread))

    def forward(self, answers: Tensor) -> Tensor:
        return (answers - self.mean) / self.deviation


def input_shape_of(layers: Sequence[Layer]) -> tuple[int, ...]:
    """The shape of one input: [features], or [channels, height, width] of the first of 28, 32, … pixels that fits.

    Raises:
        SpecError: if no shape fits.
    """
    flat = flat_layers(layers)
    first = next((layer for layer in flat if isinstance(layer, Conv | Linear)), None)
    if first is None:
        raise SpecError("probe is for networks that begin with a convolution or a linear layer")
    images = isinstance(first, Conv) or any(isinstance(layer, Flatten) for layer in flat[: flat.index(first)])
    if isinstance(first, Linear) and not images:
        return (first.in_features,)
    channels = (first.in_channels,) if isinstance(first, Conv) else (1, 3)
    for side in _SIDES:
        for count in channels:
            if _fits(layers, (count, side, side)):
                return (count, side, side)
    raise SpecError(f"probe found no size of images that the network takes, of {', '.join(map(str, _SIDES))} pixels")


def _fits(layers: Sequence[Layer], shape: tuple[int, ...]) -> bool:
    layout = build_layout(layers)
    tensors = layout.unflatten(torch.zeros(1, layout.size))
    try:
        out = StackedNetwork(layers, "none")(tensors, torch.zeros(1, *shape))
    except (RuntimeError, ZooError):  # shapes that do not match
        return False
    return out.ndim == 3


def _generator(code: int, shape: tuple[int, ...]) -> nn.Module:
    """The deep linear generator: codes [m, code] to coordinates, or [m, code, 1, 1] to images."""
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(code, 32), nn.Linear(32, shape[0]))
    side, doublings = shape[1], 0
    while side % 2 == 0 and side > 4:
        side, doublings = side // 2, doublings + 1
    widths = [128, *(max(128 >> number, 16) for number in range(1, doublings + 1))]
    layers: list[nn.Module] = [nn.ConvTranspose2d(code, widths[0], side)]
    for number, (inside, outside) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.ConvTranspose2d(inside, outside, 4, 2, 1))
        if number == 1:
            layers.append(nn.ConvTranspose2d(outside, outside, 3, 1, 1))
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], shape[0], 3, 1, 1))
