"""Simple predictors of a model's properties from features; what can be chosen is chosen on the validation split."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.evaluation.benchmark.scores import Numbers
from zoo_datasets.evaluation.features.base import Matrix, fences

ALPHAS = tuple(10.0**power for power in range(-5, 4))
# Of Σ log-loss + penalty/2 · |coefficients|²; each fit starts at the one before.
PENALTIES = (1e4, 1e2, 1e0)
BOOSTING_ROUNDS = 200

# Boosting grows by so many rounds, and stops after so many without a better one.
_GROWTH = 20
_PATIENCE = 40

_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Fold:
    """Features float32 [N, F] of the training, validation and test rows; there may be several test zoos."""

    train: Matrix
    validation: Matrix
    tests: tuple[Matrix, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a probe says of the test rows of each test zoo, and the settings that were best on validation."""

    tests: tuple[NDArray[Any], ...]
    settings: dict[str, float]


def standardised(fold: Fold) -> Fold:
    """The same features, bounded by the `fences` of the training rows, with mean 0 and deviation 1 of each column over
    these; changes them in place.

    Columns that are constant in training become 0 everywhere: nothing can be learned from them.
    """
    low, high = fences(fold.train)
    for matrix in (fold.train, fold.validation, *fold.tests):
        matrix.clip(low, high, out=matrix)
    mean = fold.train.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = sum(_squares(fold.train[part] - mean) for part in _parts(fold.train))
    deviation = np.sqrt(squares / len(fold.train)).astype(np.float32)
    # Rounding gives constant columns a tiny deviation.
    constant = deviation <= 1e-6 * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation)).astype(np.float32)
    for matrix in (fold.train, fold.validation, *fold.tests):
        matrix -= mean
        matrix *= scale
    return fold


def _parts(matrix: Matrix) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, len(matrix), _ROWS)]


def _squares(centred: Matrix) -> Numbers:
    return np.asarray(np.einsum("ij,ij->j", centred, centred, dtype=np.float64))


def ridge(
    fold: Fold,
    train: Numbers,
    validation: Numbers,
    alphas: tuple[float, ...] = ALPHAS,
    *,
    free_intercept: bool = True,
) -> list[Prediction]:
    """Linear regression with penalty alpha · |coefficients|², for T targets at once; alpha by R² on validation.

    One eigendecomposition of the smaller Gram matrix, in float64, gives the coefficients of every alpha.

    Args:
        fold: standardised features, or any others.
        train, validation: targets float64 [N, T], finite.
        free_intercept: whether the intercept is not penalised; else it is the coefficient of a column of ones.

    Returns:
        A prediction for each target.
    """
    path = _ridge_path if free_intercept else _penalised_path
    coefficients, intercepts = path(fold.train, train, alphas)
    guesses = _apply(fold.validation, coefficients, intercepts)
    errors = ((guesses - validation) ** 2).sum(axis=1)  # [A, T]
    best = errors.argmin(axis=0)
    chosen_coefficients = np.stack([coefficients[index, :, target] for target, index in enumerate(best)], axis=1)
    chosen_intercepts = np.array([intercepts[index, target] for target, index in enumerate(best)])
    tests = [_apply(matrix, chosen_coefficients[None], chosen_intercepts[None])[0] for matrix in fold.tests]
    return [
        Prediction(tuple(test[:, target] for test in tests), {"alpha": alphas[index]})
        for target, index in enumerate(best)
    ]


def _ridge_path(features: Matrix, targets: Numbers, alphas: tuple[float, ...]) -> tuple[Numbers, Numbers]:
    """Coefficients [A, F, T] and intercepts [A, T]."""
    middle, offset = features.mean(axis=0, dtype=np.float64), targets.mean(axis=0)
    solutions = _solutions(features, torch.from_numpy(middle), torch.from_numpy(targets - offset), alphas)
    return solutions, offset - middle @ solutions


def _penalised_path(features: Matrix, targets: Numbers, alphas: tuple[float, ...]) -> tuple[Numbers, Numbers]:
    """As `_ridge_path`, with intercepts that are penalised too."""
    ones = np.ones((len(features), 1), np.float32)
    solutions = _solutions(
        np.hstack([features, ones]),
        torch.zeros(features.shape[1] + 1, dtype=torch.float64),
        torch.from_numpy(np.array(targets)),
        alphas,
    )
    return solutions[:, :-1], solutions[:, -1]


def _solutions(features: Matrix, middle: Tensor, centred: Tensor, alphas: tuple[float, ...]) -> Numbers:
    """Coefficients [A, F, T] of features less `middle` [F]."""
    rows, width = features.shape
    if width <= rows:
        gram = torch.zeros(width, width, dtype=torch.float64)
        mixed = torch.zeros(width, centred.shape[1], dtype=torch.float64)
        for part in _parts(features):
            block = torch.from_numpy(features[part]).double() - middle
            gram.addmm_(block.T, block)
            mixed.addmm_(block.T, centred[part])
        solutions = _solve(gram, mixed, alphas)
    else:
        gram = torch.zeros(rows, rows, dtype=torch.float64)
        columns = [slice(start, start + _ROWS) for start in range(0, width, _ROWS)]
        for where in columns:
            block = torch.from_numpy(features[:, where]).double() - middle[where]
            gram.addmm_(block, block.T)
        weights = torch.cat(list(_solve(gram, centred, alphas)), dim=1)
        parts = [(torch.from_numpy(features[:, where]).double() - middle[where]).T @ weights for where in columns]
        solutions = torch.cat(parts).view(width, len(alphas), -1).transpose(0, 1)
    return cast(Numbers, solutions.numpy())


def _solve(gram: Tensor, right: Tensor, alphas: tuple[float, ...]) -> Tensor:
    """(gram + alpha)⁻¹ right for each alpha: [A, F, T]."""
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ right
    return torch.stack([vectors @ (turned / (values.clamp(min=0) + alpha)[:, None]) for alpha in alphas])


def _apply(features: Matrix, coefficients: Numbers, intercepts: Numbers) -> Numbers:
    """Predictions [A, N, T]."""
    paths, width, targets = coefficients.shape
    flat = torch.from_numpy(np.ascontiguousarray(coefficients.transpose(1, 0, 2))).view(width, paths * targets)
    products = [torch.from_numpy(features[part]).double() @ flat for part in _parts(features)]
    return torch.cat(products).view(-1, paths, targets).transpose(0, 1).numpy() + intercepts[:, None]


def logistic(
    fold: Fold, train: NDArray[Any], validation: NDArray[Any], iterations: int, penalties: tuple[float, ...] = PENALTIES
) -> Prediction:
    """Multinomial logistic regression; the penalty is chosen by accuracy on validation.

    Args:
        fold: standardised features.
        train, validation: classes [N].
        iterations: of L-BFGS, at most, for each penalty.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(warm_start=True, max_iter=iterations, tol=1e-3)
    best, prediction = -1.0, None
    with warnings.catch_warnings():
        # Stopping early is a choice here, and shown by `iterations` among the settings.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in penalties:
            model.set_params(C=1 / penalty).fit(fold.train, train)
            right = float(np.mean(model.predict(fold.validation) == validation))
            if right > best:
                settings = {"penalty": penalty, "iterations": float(model.n_iter_.max())}
                best, prediction = right, Prediction(tuple(model.predict(test) for test in fold.tests), settings)
    assert prediction is not None
    return prediction


def boosting(
    fold: Fold, train: NDArray[Any], validation: NDArray[Any], *, classes: bool, rounds: int = BOOSTING_ROUNDS
) -> Prediction:
    """Gradient boosting on histograms; the number of rounds is chosen by R² or accuracy on validation.

    Args:
        train, validation: classes [N], or numbers float64 [N].
        rounds: of boosting, at most.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    # Its own early stopping would draw rows, not models. So it grows some rounds at a time, while these help.
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = kind(max_iter=0, early_stopping=False, warm_start=True, random_state=0)
    best, least = 1, np.inf
    while model.max_iter < rounds and best > model.max_iter - _PATIENCE:
        # Its threads wait for each other actively: on a busy machine two were ten times slower than one.
        with threadpool_limits(1, "openmp"):
            model.set_params(max_iter=min(model.max_iter + _GROWTH, rounds)).fit(fold.train, train)
        for stage, predicted in enumerate(model.staged_predict(fold.validation), 1):
            error = float(np.mean(predicted != validation if classes else (predicted - validation) ** 2))
            if error < least:
                best, least = stage, error
    tests = tuple(_stage(model, test, best) for test in fold.tests)
    return Prediction(tests, {"rounds": float(best)})


def _stage(model: Any, features: Matrix, stage: int) -> NDArray[Any]:
    return cast(NDArray[Any], next(itertools.islice(model.staged_predict(features), stage - 1, None)))
