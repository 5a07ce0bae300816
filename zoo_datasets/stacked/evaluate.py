"""Loss and accuracy of many weight vectors in stacked passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.layers import Layer
from zoo_datasets.stacked.block import MemberBlock, Tally, TorchBlock, evaluation_recipe
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.network import lanes_of
from zoo_datasets.stacked.threads import torch_workers
from zoo_datasets.storage.cores import cores


def evaluate_stack(
    layers: Sequence[Layer],
    activation: str,
    weights: Tensor,
    data: ImageData,
    split: Split,
    threads: int | None = None,
    kernels: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and number of correct predictions of each row of `weights` on a split.

    Computed by the native kernels where they can be used, else in plain PyTorch.

    Args:
        layers: the architecture's layers; all rows share them and the activation.
        weights: float32 [K, D] in the order of `build_layout(layers)`.
        data: gives the normalisation.
        split: the images and labels.
        threads: blocks evaluated at the same time; None means all cores.
        kernels: whether the native kernels may be used.

    Returns:
        loss float64 [K], correct int64 [K].
    """
    if not len(weights):
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    in_shape = (data.channels, data.size, data.size)
    fast = kernels and native.available(layers, in_shape, activation) is None
    lanes = native.lanes() if fast else lanes_of(layers)

    def evaluate(rows: Tensor) -> Tally:
        recipe = evaluation_recipe(layers, activation, torch.zeros(len(rows), dtype=torch.int64))
        block: MemberBlock = native.NativeBlock(recipe, data) if fast else TorchBlock(recipe, data)
        block.load(rows)
        return block.evaluate(split)

    # A large network fills all cores by itself.
    workers = (threads or cores()) if lanes > 1 else 1
    with torch_workers(workers) as pool:
        tallies = list(pool.map(evaluate, torch.split(weights, lanes)))
    return torch.cat([tally.mean_loss for tally in tallies]), torch.cat([tally.correct for tally in tallies])


LOSS_TOLERANCE = 1e-4


def same_loss(recorded: float, loss: float) -> bool:
    """Whether two losses agree to 1e-4 · max(1, |loss|); NaN equals NaN."""
    if math.isfinite(recorded) and math.isfinite(loss):
        return abs(recorded - loss) <= LOSS_TOLERANCE * max(1.0, abs(recorded))
    return (math.isnan(recorded) and math.isnan(loss)) or recorded == loss
