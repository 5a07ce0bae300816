"""Loss and accuracy of many weight vectors in stacked passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_datasets.architectures import Layer
from zoo_datasets.images import ImageData, Split
from zoo_datasets.stacked.block import EVALUATION_BATCH, BlockRecipe, TorchBlock
from zoo_datasets.stacked.network import lanes_of


def evaluate_stack(
    layers: Sequence[Layer],
    activation: str,
    weights: Tensor,
    data: ImageData,
    split: Split,
    batch_size: int = EVALUATION_BATCH,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and number of correct predictions of each row of `weights` on a split.

    Args:
        layers: the architecture's layers; all rows share them and the activation.
        weights: float32 [K, D] in the order of `build_layout(layers)`.
        data: gives the normalisation.
        split: the images and labels.

    Returns:
        loss float64 [K], correct int64 [K].
    """
    losses, corrects = [], []
    lanes = lanes_of(layers)
    for start in range(0, len(weights), lanes):
        rows = weights[start : start + lanes]
        recipe = BlockRecipe(
            layers=tuple(layers), activation=activation, optimizer="sgd", batch_size=batch_size, augmentation=(),
            seeds=torch.zeros(len(rows), dtype=torch.int64), dropout=torch.zeros(len(rows), dtype=torch.float64),
        )  # fmt: skip
        block = TorchBlock(recipe, data)
        block.load(rows)
        tally = block.evaluate(split, batch_size)
        losses.append(tally.mean_loss)
        corrects.append(tally.correct)
    return torch.cat(losses), torch.cat(corrects)
