"""The protocol of the model zoo paper, as its authors' code computes it (Schürholt et al., Model Zoos, 2022).

Features and numbers are taken as they are. Ridge regression penalises its intercept too, one of 17 penalties is chosen
by R² on validation, and R² is reported on test. Texts are classes of one linear layer, trained by Adam.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo_datasets.evaluation.benchmark.probes import Fold, Prediction, ridge
from zoo_datasets.evaluation.benchmark.scores import Numbers

PENALTIES: Final = tuple(
    float(f"{digit}e{power}") for power in range(3, -6, -1) for digit in (3, 1) if (digit, power) != (3, 3)
)
"""1e3, 3e2, 1e2, …, 3e-5, 1e-5."""
EPOCHS: Final = 50
BATCH: Final = 10
RATE: Final = 1e-4
DECAY: Final = 1e-6


def numbers(fold: Fold, train: Numbers, validation: Numbers) -> list[Prediction]:
    """Ridge regression of T targets at once.

    Args:
        fold: features as they are.
        train, validation: targets float64 [N, T], finite.
    """
    return ridge(fold, train, validation, PENALTIES, free_intercept=False)


def classes(fold: Fold, train: NDArray[Any]) -> Prediction:
    """One linear layer with cross-entropy, initialised by Kaiming's normal distribution, after the last epoch.

    Draws come from a generator of a fixed seed; nothing is chosen on validation.

    Args:
        fold: features as they are.
        train: classes [N].
    """
    names, codes = np.unique(train, return_inverse=True)
    features, labels = torch.from_numpy(fold.train), torch.from_numpy(codes)
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(features.shape[1], len(names), device="meta").to_empty(device="cpu")  # nothing is drawn
    with torch.no_grad():
        layer.weight.normal_(0.0, math.sqrt(2 / features.shape[1]), generator=generator)
        layer.bias.zero_()
    optimizer = torch.optim.Adam(layer.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(features), generator=generator), BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(layer(features[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        predicted = tuple(names[layer(torch.from_numpy(test)).argmax(dim=1).numpy()] for test in fold.tests)
    return Prediction(predicted, {"epochs": float(EPOCHS)})
