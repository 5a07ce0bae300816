"""Statistics of the weights, and gradient boosting (Unterthiner et al.: Predicting neural network accuracy from
weights, 2020).

Of each tensor the minimum, quartiles and maximum, deviation and mean: 7 numbers. Trees are grown by scikit-learn's
histogram gradient boosting, not by LightGBM, which the authors used: other regularisation, no drawing of rows; the
number of rounds is chosen on validation, where their notebook takes the test set. The trees are kept as tensors, and
read by torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from zoo_datasets.errors import SpecError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.predictors.base import Config, Model, Rate, WeightSpace

STATISTICS = ("p0", "p25", "p50", "p75", "p100", "deviation", "mean")
_GROWTH = 20
_PATIENCE = 60
_TREES = ("feature", "threshold", "left", "right", "value", "leaf", "missing_left")


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig(Config):
    """How trees are grown.

    Attributes:
        rounds: of boosting, at most; growing ends after 60 rounds without a better one on validation.
        leaves: of a tree, at most.
        l2: penalty on the values of leaves.
        features: share of the features that a split may be made on, drawn for each.
        smallest: networks in a leaf, at least.
    """

    learning_rate: Rate = 0.05
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 2000
    leaves: Annotated[int, Field(ge=2, le=4096)] = 31
    l2: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    features: Annotated[float, Field(gt=0, le=1)] = 0.7
    smallest: Annotated[int, Field(ge=1, le=1000)] = 10


def statistics_of(weights: Tensor, layout: WeightLayout) -> Tensor:
    """The `STATISTICS` of each tensor of the layout in its order, float64 [B, 7 · tensors].

    Sorted first, so that they do not depend on the order of the weights by a single bit.
    """
    parts = []
    for where in layout.slices().values():
        ordered = weights[:, where].double().sort(dim=1).values
        places = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64, device=weights.device)
        mean = ordered.mean(dim=1)
        deviation = (ordered - mean[:, None]).square().mean(dim=1).sqrt()
        parts.append(torch.stack([*_quantiles(ordered, places), deviation, mean], dim=1))
    return torch.cat(parts, dim=1)


def _quantiles(ordered: Tensor, places: Tensor) -> Tensor:
    """Linearly interpolated, [places, B]."""
    at = places * (ordered.shape[1] - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=ordered.shape[1] - 1)
    return torch.lerp(ordered[:, low], ordered[:, high], (at - low)[None]).T


class Statistics(Model):
    """Boosted trees on statistics. `boost` grows them; `forward` reads them."""

    config_type = StatisticsConfig
    choices = (
        {"learning_rate": 0.05},
        {"learning_rate": 0.05, "leaves": 7, "smallest": 5},
        {"learning_rate": 0.1, "leaves": 15, "features": 0.9},
    )
    invariant: ClassVar[str] = "permutations"

    def __init__(self, space: WeightSpace, outputs: int, config: StatisticsConfig) -> None:
        super().__init__(space, outputs, config)
        self.width = len(STATISTICS) * len(space.layout.slices())
        self.set_trees(_no_trees(outputs))

    def set_trees(self, trees: Mapping[str, Tensor]) -> None:
        """Take trees as tensors [T, nodes], the output of each, int64 [T], and the start of each output, [outputs].

        Raises:
            SpecError: if they name nodes, features or outputs that there are not, or are no trees.
        """
        _check_trees(trees, self.width, self.outputs)
        for name, tensor in trees.items():
            self.register_buffer(name, tensor)
        depth = _depth_of(trees["left"], trees["right"], trees["leaf"])
        self.depth = depth

    def forward(self, weights: Tensor, activation: Tensor) -> Tensor:
        """Predictions [B, outputs], float64; see `Model`."""
        self.check(weights)
        features = statistics_of(weights, self.space.layout)
        start: Tensor = self.get_buffer("start")
        out = start.expand(len(weights), -1).clone()
        feature, threshold, left, right, value, leaf, missing = (self.get_buffer(name) for name in _TREES)
        if not len(feature):
            return out
        tree = torch.arange(len(feature), device=weights.device)
        node = torch.zeros(len(weights), len(feature), dtype=torch.int64, device=weights.device)
        for _ in range(self.depth):
            x = features.gather(1, feature[tree, node])
            goes_left = torch.where(x.isnan(), missing[tree, node], x <= threshold[tree, node])
            below = torch.where(goes_left, left[tree, node], right[tree, node])
            node = torch.where(leaf[tree, node], node, below)
        return out.index_add(1, self.get_buffer("output"), value[tree, node])

    def boost(
        self,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        *,
        classes: bool,
        seed: int,
        ends: float,
        tick: Callable[[], None] | None = None,
    ) -> int:
        """Grow trees until validation no longer improves or the clock (`time.perf_counter`) says `ends`.

        Args:
            train, validation: weights [N, D], and targets float64 [N, outputs] with NaN where unknown, or classes
                int64 [N].

        Returns:
            rounds of boosting, of the output that took the most.
        """
        features, held = (statistics_of(weights, self.space.layout).numpy() for weights, _ in (train, validation))
        grown = []
        columns = 1 if classes else self.outputs
        for column in range(columns):
            parts = []
            for matrix, (_, targets) in ((features, train), (held, validation)):
                truth = targets.numpy() if classes else targets[:, column].double().numpy()
                known = np.isfinite(truth)
                parts.append((matrix[known], truth[known]))
            left = (ends - time.perf_counter()) / (columns - column)
            grown.append(self._grow(*parts[0], *parts[1], classes, seed, time.perf_counter() + left, tick))
        self.set_trees(_joined([trees for trees, _ in grown], classes))
        return max(rounds for _, rounds in grown)

    def _grow(
        self,
        features: NDArray[Any],
        truth: NDArray[Any],
        held: NDArray[Any],
        held_truth: NDArray[Any],
        classes: bool,
        seed: int,
        ends: float,
        tick: Callable[[], None] | None,
    ) -> tuple[dict[str, Tensor], int]:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        config = self.config
        assert isinstance(config, StatisticsConfig)
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        model = kind(
            max_iter=0, early_stopping=False, warm_start=True, random_state=seed, learning_rate=config.learning_rate,
            max_leaf_nodes=config.leaves, l2_regularization=config.l2, max_features=config.features,
            min_samples_leaf=config.smallest,
        )  # fmt: skip
        best, least = 1, np.inf
        stages: Any = None
        while model.max_iter < config.rounds and best > model.max_iter - _PATIENCE:
            with threadpool_limits(1, "openmp"):  # waiting threads were ten times slower on a busy machine
                model.set_params(max_iter=min(model.max_iter + _GROWTH, config.rounds)).fit(features, truth)
            known = stages or 0
            for stage, predicted in enumerate(model.staged_predict(held), 1):
                if stage > known:
                    wrong = predicted != held_truth if classes else (predicted - held_truth) ** 2
                    error = float(np.mean(wrong))
                    if error < least:
                        best, least = stage, error
            stages = model.max_iter
            if tick:
                tick()
            if time.perf_counter() > ends:
                break
        return _trees_of(model, best, self.outputs if classes else 1), best


def _trees_of(model: Any, rounds: int, outputs: int) -> dict[str, Tensor]:
    """The trees of scikit-learn's model as tensors."""
    stages = model._predictors[:rounds]
    starts = np.asarray(model._baseline_prediction, np.float64).reshape(-1)
    first = outputs - 1 if outputs == 2 else 0  # one tree a round tells two classes apart: the second one's logit
    nodes = [(first + number, tree.nodes) for stage in stages for number, tree in enumerate(stage)]
    widest = max(len(tree) for _, tree in nodes)
    fields = {
        "feature": ("feature_idx", torch.int64), "threshold": ("num_threshold", torch.float64),
        "left": ("left", torch.int64), "right": ("right", torch.int64), "value": ("value", torch.float64),
        "leaf": ("is_leaf", torch.bool), "missing_left": ("missing_go_to_left", torch.bool),
    }  # fmt: skip
    trees: dict[str, Tensor] = {}
    for name, (field, dtype) in fields.items():
        table = torch.full((len(nodes), widest), True) if dtype == torch.bool else torch.zeros(len(nodes), widest)
        table = table.to(dtype)
        for row, (_, tree) in enumerate(nodes):
            table[row, : len(tree)] = torch.from_numpy(tree[field].astype(np.float64)).to(dtype)
        trees[name] = table
    trees["output"] = torch.tensor([output for output, _ in nodes], dtype=torch.int64)
    start = torch.zeros(outputs, dtype=torch.float64)
    start[first : first + len(starts)] = torch.from_numpy(starts)
    trees["start"] = start
    return trees


def _joined(parts: list[dict[str, Tensor]], classes: bool) -> dict[str, Tensor]:
    """The trees of several outputs as one table."""
    if classes:
        return parts[0]
    widest = max(part["feature"].shape[1] for part in parts)
    joined = {}
    for name in _TREES:
        tables = [part[name] for part in parts]
        padded = [nn.functional.pad(table, (0, widest - table.shape[1]), value=name == "leaf") for table in tables]
        joined[name] = torch.cat(padded)
    joined["output"] = torch.cat([part["output"] + number for number, part in enumerate(parts)])
    joined["start"] = torch.cat([part["start"] for part in parts])
    return joined


def _no_trees(outputs: int) -> dict[str, Tensor]:
    types = {"threshold": torch.float64, "value": torch.float64, "leaf": torch.bool, "missing_left": torch.bool}
    trees = {name: torch.zeros(0, 1, dtype=types.get(name, torch.int64)) for name in _TREES}
    return {
        **trees,
        "output": torch.zeros(0, dtype=torch.int64),
        "start": torch.zeros(outputs, dtype=torch.float64),
    }


def _check_trees(trees: Mapping[str, Tensor], features: int, outputs: int) -> None:
    expected = _no_trees(outputs)
    for name, tensor in expected.items():
        if name not in trees or trees[name].dtype != tensor.dtype:
            raise SpecError(f"trees lack {name!r} as {tensor.dtype}")
    count, nodes = trees["feature"].shape if trees["feature"].ndim == 2 else (-1, -1)
    shapes = dict.fromkeys(_TREES, (count, nodes)) | {"output": (count,), "start": (outputs,)}
    for name, shape in shapes.items():
        if tuple(trees[name].shape) != shape:
            raise SpecError(f"trees: {name} has shape {list(trees[name].shape)}, expected {list(shape)}")
    bounds = {"feature": features, "left": nodes, "right": nodes, "output": outputs}
    for name, bound in bounds.items():
        if trees[name].numel() and not (int(trees[name].min()) >= 0 and int(trees[name].max()) < bound):
            raise SpecError(f"trees: {name} from {int(trees[name].min())} to {int(trees[name].max())}, expected "
                            f"0 to {bound - 1}")  # fmt: skip


def _depth_of(left: Tensor, right: Tensor, leaf: Tensor) -> int:
    """Steps from the roots to the deepest leaves; children come after their parents.

    Raises:
        SpecError: if they do not.
    """
    number = torch.arange(left.shape[1])
    inner = ~leaf.cpu()
    if bool((((left.cpu() <= number) | (right.cpu() <= number)) & inner).any()):
        raise SpecError("trees: a node leads to one before it, expected children after their parents")
    depth = torch.zeros(left.shape, dtype=torch.int64)
    for node in range(left.shape[1]):
        mine = inner[:, node]
        for child in (left, right):
            rows = torch.nonzero(mine).flatten()
            depth[rows, child.cpu()[rows, node]] = depth[rows, node] + 1
    return int(depth.max()) if depth.numel() else 0
