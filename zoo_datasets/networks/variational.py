"""Variational dropout of weights (Molchanov, Ashukha, Vetrov 2017, arXiv 1701.05369), as the zoos' authors use it.

Each weight of a convolution or linear layer, and each bias of a convolution, has a variance σ². Its noise is told
by log α = log σ² − 2 log(|w| + 1e-15); where log α ≥ 3 the weight acts as zero. Biases of linear layers, and
normalisation, have no noise: their log σ² is −∞.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from zoo_datasets.networks.layers import Layer, build_layout, flat_layers
from zoo_datasets.networks.layers.passes import EPSILON

# The name of log σ² in states, files and columns.
LOG_SIGMA2: Final = "log_sigma2"
LOG_SIGMA2_START: Final = -10.0
LOG_ALPHA_PRUNED: Final = 3.0
# The approximation of the divergence, eq. 14.
K1: Final = 0.63576
K2: Final = 1.8732
K3: Final = 1.48695
# β of the last epoch, before which it grows from 0 in equal steps.
BETA: Final = 0.01


def noise_bounds(layers: Sequence[Layer]) -> dict[str, float]:
    """The tensors that have noise, in the order of the layers, each with the bound that clamps its log α."""
    return {name: bound for layer in flat_layers(layers) for name, bound in layer.noise_bounds().items()}


def log_alpha(weight: Tensor, log_sigma2: Tensor, bound: Tensor | float) -> Tensor:
    """log σ² − 2 log(|w| + 1e-15), clamped to ± `bound`; float, of the shape of `weight`."""
    limit = torch.as_tensor(bound, dtype=weight.dtype, device=weight.device)
    return (log_sigma2 - 2.0 * torch.log(weight.abs() + EPSILON)).clamp(-limit, limit)


def kl_divergence(log_alpha: Tensor) -> Tensor:
    """The divergence of each weight's posterior from the log-uniform prior, up to a constant (eq. 14): the shape of
    `log_alpha`, in nats, falling to 0 as α grows."""
    return -(K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * functional.softplus(-log_alpha) - K1)


def acting(weight: Tensor, log_sigma2: Tensor) -> Tensor:
    """The weights that act: zero where log α ≥ 3, the others as they are; NaN where log σ² is NaN.

    The rule is computed in float64, so that no rounding of the logarithm decides. `log_sigma2` is −∞ where a weight
    has no noise. (Clamping plays no part: the bounds lie beyond 3.)
    """
    alpha = log_sigma2.to(torch.float64) - 2.0 * torch.log(weight.abs().to(torch.float64) + EPSILON)
    pruned = torch.where(alpha >= LOG_ALPHA_PRUNED, torch.zeros_like(weight), weight)
    return torch.where(torch.isnan(log_sigma2), torch.full_like(weight, float("nan")), pruned)


def kl_weight(epoch: int, epochs: int) -> float:
    """β of an epoch of variational dropout: 0.01 (epoch − 1) / epochs, as the zoos' authors have it.

    Epoch 0 is not trained, but the authors' loss of it is recorded with a β below 0 all the same.
    """
    return BETA * (epoch - 1) / epochs


def total_kl(layers: Sequence[Layer], means: Tensor, log_sigma2: Tensor) -> Tensor:
    """The divergence of whole networks: float64 [K] of weights before pruning and log σ², float32 [K, D] each."""
    total = torch.zeros(len(means), dtype=torch.float64)
    places = build_layout(layers).slices()
    for name, bound in noise_bounds(layers).items():
        here = places[name]
        alpha = log_alpha(means[:, here].double(), log_sigma2[:, here].double(), bound)
        total += torch.where(torch.isneginf(log_sigma2[:, here]), 0.0, kl_divergence(alpha)).sum(dim=1)
    return total
