"""What a report shows of the straight lines between models: the loss on them, with and without alignment."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from zoo_datasets.evaluation.alignment import POINTS, align, loss_barrier
from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import build_layout

_PAIRS = 16
_IMAGES = 1000
_SEED = 0
UNMATCHED, MATCHED = "as they are", "aligned"


def between(final: Dataset, weights: Tensor, images: ImageData) -> dict[str, Any] | None:
    """Losses between pairs of models of one activation, drawn at random; None where there is no pair, or the networks
    keep running statistics, which are unknown between two of them.

    Args:
        final: a row a model.
        weights: theirs, float32 [K, D], finite.
    """
    layers = NetworkKind.of_row({name: final[name][0] for name in KIND_COLUMNS}).layers if len(final) else ()
    if any(spec.kind != "parameter" for spec in build_layout(layers).tensors):
        return None
    activations = final["activation"][:]
    commonest = max(sorted(set(activations)), key=activations.count, default=None)
    places = np.flatnonzero([activation == commonest for activation in activations])
    drawn = np.random.default_rng(_SEED).permutation(places)[: 2 * _PAIRS]
    count = len(drawn) // 2
    if not count:
        return None
    a, b = weights[torch.from_numpy(drawn[:count])], weights[torch.from_numpy(drawn[count : 2 * count])]
    some = Split(images.test.images[:_IMAGES], images.test.labels[:_IMAGES])
    activation = cast(str, commonest)
    lines = {
        name: loss_barrier(a, other, layers, activation, images, some)
        for name, other in ((UNMATCHED, b), (MATCHED, align(a, b, layers)))
    }
    known = torch.stack([line.barrier.isfinite() for line in lines.values()]).all(dim=0)
    if not known.any():
        return None
    return {
        "pairs": int(known.sum()),
        "images": len(some.labels),
        "activation": activation,
        "share": torch.linspace(0, 1, POINTS).tolist(),
        "lines": {name: line.losses[known].median(dim=0).values.tolist() for name, line in lines.items()},
        "barriers": {name: line.barrier[known].median().item() for name, line in lines.items()},
    }
