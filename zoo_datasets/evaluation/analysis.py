"""How alike models are, in what they say and in their weights; after Schürholt et al., Model Zoos (2022), section 3."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_datasets.errors import SpecError

_IMAGES = 1000


def agreement(predicted: Tensor, others: Tensor | None = None) -> Tensor:
    """Share of images for which two models give the same class: float64 [K, L].

    Args:
        predicted, others: classes [K, N] and [L, N]; None means the same.

    Raises:
        SpecError: if they are predictions for different numbers of images.
    """
    others = predicted if others is None else others
    if predicted.shape[1] != others.shape[1]:
        raise SpecError(f"predictions for {predicted.shape[1]} and for {others.shape[1]} images; expected the same")
    classes = int(max(predicted.max(), others.max())) + 1
    same = torch.zeros(len(predicted), len(others), dtype=torch.float64)
    for start in range(0, predicted.shape[1], _IMAGES):
        first, second = (
            torch.nn.functional.one_hot(part[:, start : start + _IMAGES].long(), classes).flatten(1).float()
            for part in (predicted, others)
        )
        same += first @ second.T
    return same / predicted.shape[1]


def paired_agreement(predicted: Tensor, others: Tensor) -> Tensor:
    """Agreement of each model with one other, as of twins with their parents: both [K, N], gives float64 [K]."""
    if predicted.shape != others.shape:
        raise SpecError(f"predictions {list(predicted.shape)} and {list(others.shape)}; expected the same shape")
    return (predicted == others).double().mean(dim=1)


def error_agreement(predicted: Tensor, labels: Tensor) -> Tensor:
    """Cohen's κ of being right on the same images, float64 [K, K] (Geirhos et al., Beyond accuracy, 2020).

    1 where two models err on the same images, 0 where they agree no more than their accuracies make them, NaN where
    both are always right or always wrong.

    Args:
        predicted: classes [K, N].
        labels: the true ones, [N].
    """
    right = (predicted.long() == labels.long()).double()
    share = right.mean(dim=1)
    both = right @ right.T / right.shape[1]
    observed = 1 - share[:, None] - share[None] + 2 * both
    expected = share[:, None] * share[None] + (1 - share[:, None]) * (1 - share[None])
    return torch.where(expected < 1, (observed - expected) / (1 - expected), torch.nan)


def linear_cka(representations: Tensor) -> Tensor:
    """Linear centred kernel alignment of all pairs, float64 [K, K] (Kornblith et al., 2019).

    NaN where a representation is the same for all images.

    Args:
        representations: [K, images, F].
    """
    centred = representations.double() - representations.double().mean(dim=1, keepdim=True)
    grams = torch.stack([(one @ one.T).flatten() for one in centred])
    return cosines(grams)


def cosines(vectors: Tensor) -> Tensor:
    """Cosine of the angle between all pairs of rows, float64 [K, K]; NaN with a row of zeros."""
    units: Tensor = vectors.double() / _norms(vectors.double())[:, None]
    return units @ units.T


def distances(weights: Tensor) -> Tensor:
    """Euclidean distance of all pairs of rows, float64 [K, K].

    Give the result of `zoo_datasets.symmetries.canonicalize` for distances that the order of channels does not make.
    """
    return torch.cdist(weights.double(), weights.double(), compute_mode="use_mm_for_euclid_dist")


def pairs_of(matrix: Tensor) -> Tensor:
    """The entries above the diagonal that are no NaN."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    values = matrix[rows, columns]
    return values[~values.isnan()]


def path_lengths(trajectories: Tensor) -> Tensor:
    """Σ |w(t+1) − w(t)| of each model, float64 [K]; trajectories [K, T, D]."""
    return _norms(trajectories.double().diff(dim=1)).sum(dim=1)


def straightness(trajectories: Tensor) -> Tensor:
    """Distance from first to last weights over the path's length, float64 [K] in [0, 1]; 1 is a straight line."""
    return _norms(trajectories[:, -1].double() - trajectories[:, 0].double()) / path_lengths(trajectories)


def smoothness(trajectories: Tensor) -> Tensor:
    """Mean cosine between successive steps, float64 [K]; 1 goes straight on, −1 goes back. Needs T ≥ 3.

    Raises:
        SpecError: if the trajectories have fewer than three epochs.
    """
    if trajectories.shape[1] < 3:
        raise SpecError(f"smoothness of {trajectories.shape[1]} epochs: expected at least 3")
    steps = trajectories.double().diff(dim=1)
    units = steps / _norms(steps)[..., None]
    return (units[:, 1:] * units[:, :-1]).sum(dim=2).nanmean(dim=1)


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms
