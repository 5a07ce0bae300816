"""How twins become sparse: a table. A further way is one entry here, as long as it works by a mask that is held, or by
noise that is trained; both are the engine's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.sparsity import prunable
from zoo_datasets.networks.variational import LOG_SIGMA2, LOG_SIGMA2_START, kl_weight, noise_bounds
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.specs.zoos import TWIN_EPOCHS
from zoo_datasets.stacked.block import MASK
from zoo_datasets.stacked.optimizers import State

Begin = Callable[[ZooSpec, Sequence[Layer], Tensor], tuple[Tensor, State]]


def _no_divergence(epoch: int, epochs: int) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparsifier:
    """A way to make twins.

    Attributes:
        begin: (zoo, layers, parents' weights [K, D]) to the twins' weights [K, D] and state at epoch 0, as blocks load
            them.
        kl_weight: (epoch, epochs) to the divergence's share of the loss in that epoch.
        variational: whether weights have noise that is trained with them.
        pruning: whether it takes an amount and a scope.
        whole: whether a twin's weights depend on how many epochs there are in all.
        epochs: default number of epochs for which twins are trained.
    """

    begin: Begin
    kl_weight: Callable[[int, int], float] = _no_divergence
    variational: bool = False
    pruning: bool = False
    whole: bool = False
    epochs: int = 25


def _with_noise(zoo: ZooSpec, layers: Sequence[Layer], weights: Tensor) -> tuple[Tensor, State]:
    bounds = noise_bounds(layers)
    row = torch.cat(
        [
            torch.full((spec.size,), LOG_SIGMA2_START if spec.name in bounds else -torch.inf)
            for spec in build_layout(layers).tensors
            if spec.kind == "parameter"
        ]
    )
    return weights, {LOG_SIGMA2: row.expand(len(weights), -1)}


def _by_magnitude(zoo: ZooSpec, layers: Sequence[Layer], weights: Tensor) -> tuple[Tensor, State]:
    """At one go (Han et al. 2015): the smallest weights of the network, or of each layer, are held at zero."""
    assert zoo.amount is not None
    layout = build_layout(layers)
    kept = torch.ones_like(weights)
    for part in _parts(layout, zoo.scope or "global"):
        magnitudes = weights[:, part].abs()
        # The order of equal ones is that of the layout, so that the count is exact and the same everywhere.
        order = torch.argsort(magnitudes, dim=1, stable=True)
        dropped = part[order[:, : round(zoo.amount * len(part))]]
        kept.scatter_(1, dropped, 0.0)
    parameters = torch.cat([torch.full((spec.size,), spec.kind == "parameter") for spec in layout.tensors])
    # A held zero is +0, whatever the sign of the weight was.
    return torch.where(kept > 0, weights, 0.0), {MASK: kept[:, parameters]}


def _parts(layout: WeightLayout, scope: str) -> list[Tensor]:
    """Positions of the weights that are compared with each other."""
    whole = prunable(layout)
    if scope == "global":
        return [whole.nonzero().flatten()]
    return [torch.arange(spec.offset, spec.offset + spec.size) for spec in layout.tensors if len(spec.shape) > 1]


SPARSIFIERS: dict[str, Sparsifier] = {
    "variational_dropout": Sparsifier(
        begin=_with_noise, kl_weight=kl_weight, variational=True, whole=True, epochs=TWIN_EPOCHS["variational_dropout"]
    ),
    "magnitude": Sparsifier(begin=_by_magnitude, pruning=True, epochs=TWIN_EPOCHS["magnitude"]),
}


def get_sparsifier(name: str, amount: float | None, scope: str | None) -> Sparsifier:
    """The sparsifier of that name, if it takes such an amount and scope.

    Raises:
        UnknownNameError: names close matches.
        SpecError: if amount or scope is missing, out of range, or not applicable to this one.
    """
    if name not in SPARSIFIERS:
        raise UnknownNameError("sparsifier", name, SPARSIFIERS)
    sparsifier = SPARSIFIERS[name]
    if not sparsifier.pruning and (amount is not None or scope is not None):
        raise SpecError(f"{name} takes no amount and no scope: it finds by training which weights become zero")
    if sparsifier.pruning and (amount is None or not 0 < amount < 1):
        raise SpecError(f"{name} needs an amount between 0 and 1, the share of weights to prune; found {amount}")
    return sparsifier
