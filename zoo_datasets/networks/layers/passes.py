"""What layers are handed when a network is built and computed: as a module, and as a stack of members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# One vectorised loop of torch's CPU kernels; the rest of a tensor goes through other, scalar code.
VECTOR_LOOP: Final = 64
# Added to variances under a root, and to weights under a logarithm.
EPSILON: Final = 1e-15

Activation = Callable[[Tensor], Tensor]
Masks = Callable[[int, int], Tensor]


@dataclass(slots=True)
class ModuleBuild:
    """A network's module while its layers add theirs.

    Attributes:
        dropout: the member's rate.
    """

    root: nn.Module
    dropout: float
    dropouts: int = 0

    def add(self, path: str, module: nn.Module) -> None:
        """Register `module` at a dotted path, making the modules on the way."""
        *parents, last = path.split(".")
        root = self.root
        for parent in parents:
            if parent not in root._modules:
                root.add_module(parent, nn.Module())
            root = cast(nn.Module, root._modules[parent])
        root.add_module(last, module)

    def add_dropout(self, module: nn.Module) -> None:
        """Register a dropout layer: `dropout0`, `dropout1`, …"""
        self.root.add_module(f"dropout{self.dropouts}", module)
        self.dropouts += 1


@dataclass(frozen=True, slots=True)
class ModulePass:
    """One forward pass of a module.

    Attributes:
        module: name to sub-module.
        activation: the member's.
        dropouts: the dropout layers in their order.
        remembered: what layers kept for later ones, by key.
    """

    module: Callable[[str], nn.Module]
    activation: Activation
    dropouts: Iterator[nn.Module]
    remembered: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of variational dropout.

    Attributes:
        variances: of the weights and biases that have noise, by name, [K, …].
        draw: (number of the layer among those with weights, batch, units) to standard normal numbers [K, batch, units].
    """

    variances: Mapping[str, Tensor]
    draw: Callable[[int, int, int], Tensor]


@dataclass(slots=True)
class StackedPass:
    """One forward pass of a stack: what is carried from layer to layer besides the activations.

    Attributes:
        tensors: the stacked weights by name, each [K, …]; running statistics are updated in place where `training`.
        members: K.
        activation: the members' activation.
        masks: (number of the dropout layer, B · units) to the scaled keep-mask [K, B · units]; None for no dropout.
        noise: of variational dropout; None for none.
        generators: seeds of torch's generator, one a member, for networks that draw by themselves; None for none.
        dropouts, weighted: how many dropout layers, and layers with weights, came before.
        remembered: what layers kept for later ones, by key.
    """

    tensors: Mapping[str, Tensor]
    members: int
    activation: Activation
    training: bool = False
    masks: Masks | None = None
    noise: Noise | None = None
    generators: Sequence[int] | None = None
    dropouts: int = field(default=0, init=False)
    weighted: int = field(default=0, init=False)
    remembered: dict[str, Tensor] = field(default_factory=dict, init=False)

    def activate(self, x: Tensor) -> Tensor:
        """The activation of x, of any shape, rounded alike at all places."""
        return pointwise(self.activation, x)

    def drop(self, x: Tensor) -> Tensor:
        """x with the next dropout layer's mask."""
        number, self.dropouts = self.dropouts, self.dropouts + 1
        if self.masks is None:
            return x
        return x * self.arranged(self.masks(number, x.numel() // self.members), x)

    def add_noise(self, mean: Tensor, variance: Callable[[Noise], Tensor]) -> Tensor:
        """The outputs of the next layer with weights, drawn with this mean; the mean itself where there is no noise.

        Args:
            variance: of the outputs, of the shape of `mean`, by the local reparameterisation.
        """
        number, self.weighted = self.weighted, self.weighted + 1
        if self.noise is None:
            return mean
        deviation = torch.sqrt(variance(self.noise) + EPSILON)
        batch = mean.shape[1] if mean.ndim == 3 else len(mean)
        drawn = self.noise.draw(number, batch, mean.numel() // (self.members * batch))
        return mean + deviation * self.arranged(drawn, mean)

    def arranged(self, values: Tensor, x: Tensor) -> Tensor:
        """K · B · units values, one member after the other, arranged as x is: [B, K·C, H, W] or [K, B, F]."""
        if x.ndim == 3:
            return values.view(x.shape)
        batch, channels, height, width = x.shape
        return side_by_side(values.view(self.members, batch, channels // self.members, height, width))


def pointwise(function: Activation, x: Tensor) -> Tensor:
    """A function of each number of x, of any shape, rounded alike at all places."""
    surplus = -x.numel() % VECTOR_LOOP
    if not surplus:
        return function(x)
    # The end of a tensor that is no multiple of a vector takes scalar code with another rounding:
    # padded away, so that the last member of a block is computed as the first one is.
    padded = functional.pad(x.reshape(-1), (0, surplus))
    return function(padded)[: x.numel()].view(x.shape)


def side_by_side(images: Tensor) -> Tensor:
    """[K, B, C, H, W] as [B, K·C, H, W], channels last in memory."""
    members, batch, channels, height, width = images.shape
    last = images.permute(1, 3, 4, 0, 2).reshape(batch, height, width, members * channels).contiguous()
    return last.permute(0, 3, 1, 2)


def as_vectors(x: Tensor, members: int) -> Tensor:
    """[B, K·C, H, W] as [K, B, C·H·W], a view where it can be one."""
    return x.reshape(len(x), members, -1).transpose(0, 1)
