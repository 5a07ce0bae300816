"""What a predictor is: a module that reads the flat weights of networks of one architecture.

All of them have the same three parts: a `Config` of bounded fields, which is written beside the weights; `prepare`,
which takes from the training rows what stays fixed afterwards; and `forward`, from weights [B, D] to [B, outputs].
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from zoo_datasets.documents import problems_of
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layout import WeightLayout

# Types of the fields of configs: what a file may say.
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=1, le=32)]
Rate = Annotated[float, Field(gt=0, le=10)]
Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0, le=10)]

# Of a model: one that has more is a mistake on a machine that trains it in minutes.
MAX_PARAMETERS = 100_000_000
# Of standardised weights: the bound, and a deviation that counts as none.
_BOUND, _FLAT = 50.0, 1e-12


@dataclass(frozen=True)
class WeightSpace:
    """The networks that a predictor reads: one list of layers, and the activations that their members may have.

    Attributes:
        activations: names; the code of a row's activation is its place here.
    """

    layers: tuple[Layer, ...]
    activations: tuple[str, ...] = ("relu",)

    @cached_property
    def layout(self) -> WeightLayout:
        """Where each tensor lies in the flat weights [D]."""
        return build_layout(self.layers)

    def codes(self, activations: Sequence[str]) -> Tensor:
        """The places of activations in `activations`, int64 [N].

        Raises:
            SpecError: naming one that is not among them.
        """
        for name in dict.fromkeys(activations):
            if name not in self.activations:
                raise SpecError(f"activation {name!r} found, expected one of {', '.join(self.activations)}")
        return torch.tensor([self.activations.index(name) for name in activations], dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a predictor is trained; subclasses add its sizes.

    Attributes:
        learning_rate, weight_decay: of AdamW; the rate falls to 0 as a cosine over the budget.
        batch_size: networks in a step.
        clip: gradients are scaled down to this norm; 0 means never.
    """

    learning_rate: Rate = 1e-3
    weight_decay: Decay = 0.0
    batch_size: Width = 32
    clip: Annotated[float, Field(ge=0, le=1000)] = 10.0

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Config:
        """A config of JSON values.

        Raises:
            SpecError: naming the field that is unknown or out of bounds.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(values), extra="forbid")
        except ValidationError as error:
            raise SpecError(f"{cls.__name__}: {problems_of(error)}") from None

    def changed(self, **values: Any) -> Config:
        """The same with other fields, checked."""
        return type(self).checked({**dataclasses.asdict(self), **values})


class Model(nn.Module):
    """A predictor's module.

    Attributes:
        config_type: the class of its config.
        choices: changes of the config that are tried on validation before it is trained.
        invariant: under which changes of the weights that keep the function a prediction stays as it is.
        reads_activation: whether it is told each network's activation.
    """

    config_type: ClassVar[type[Config]] = Config
    choices: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    invariant: ClassVar[str] = "none"
    reads_activation: ClassVar[bool] = False

    def __init__(self, space: WeightSpace, outputs: int, config: Config) -> None:
        super().__init__()
        self.space = space
        self.outputs = outputs
        self.config = config

    def prepare(self, weights: Tensor) -> None:
        """Take from the training weights [N, D] what stays fixed; nothing, unless a predictor has such a thing."""

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs].

        Args:
            weights: [B, D].
            activation: int64 [B], places in `space.activations`; all 0 where a model is not told.
        """
        raise NotImplementedError

    def check(self, weights: Tensor) -> None:
        """LayoutError unless the weights are [B, D]."""
        size = self.space.layout.size
        if weights.ndim != 2 or weights.shape[1] != size:
            raise LayoutError(f"weights have shape {list(weights.shape)}, expected [B, {size}]")

    @property
    def parameters_count(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


class TensorScale(nn.Module):
    """Weights less the mean of their tensor, over its deviation: one mean and one deviation a tensor, taken over all
    training networks, so that permutations, which move weights inside a tensor, change nothing.

    Attributes:
        mean, deviation: [tensors].
        centred: without, the mean stays, and with it the weights' signs.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layout: WeightLayout, centred: bool = True) -> None:
        super().__init__()
        self._sizes = [spec.size for spec in layout.flat]
        self._slices = list(layout.slices().values())
        self.centred = centred
        self.register_buffer("mean", torch.zeros(len(self._sizes)))
        self.register_buffer("deviation", torch.ones(len(self._sizes)))

    def fit(self, weights: Tensor) -> None:
        """Take means and deviations of training weights [N, D]: the medians over networks, so that a few that diverged
        do not decide."""
        for number, where in enumerate(self._slices):
            part = weights[:, where].double()
            middle = part.mean(dim=1).median() if self.centred else torch.zeros((), dtype=torch.float64)
            spreads = (part - middle).square().mean(dim=1).sqrt()
            spread = spreads.median() if spreads.median() > _FLAT else spreads.mean()
            self.mean[number] = middle.to(self.mean)
            self.deviation[number] = spread.to(self.deviation) if spread > _FLAT else 1.0

    def forward(self, weights: Tensor) -> Tensor:
        """[B, D] to [B, D]; centred ones bounded to ± 50 deviations."""
        sizes = torch.tensor(self._sizes, device=weights.device)
        mean, deviation = (value.repeat_interleave(sizes) for value in (self.mean, self.deviation))
        scaled = (weights - mean) / deviation
        return scaled.clamp(-_BOUND, _BOUND) if self.centred else scaled


def mean_of(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """The mean along an axis. Its gradient is divided before it is spread out, which torch's own is not: a sixth of the
    time of an NFN."""
    return x.sum(dim=dim, keepdim=keepdim) / x.shape[dim]


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of these widths, with the activation (and dropout) between them."""
    layers: list[nn.Module] = []
    for number, (inside, outside) in enumerate(itertools.pairwise(widths)):
        if number:
            layers.append(activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(inside, outside))
    return nn.Sequential(*layers)
