"""Models as points in the plane: the map of their last weights, and the paths of their training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from torch import Tensor

from zoo_datasets.evaluation import analysis
from zoo_datasets.evaluation.features.base import fences
from zoo_datasets.evaluation.features.umap import fit_umap
from zoo_datasets.evaluation.report.parts import evenly, weights_of
from zoo_datasets.evaluation.report.values import box_of, json_value, rounded
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.repository.where import conditions_in

MAP_COLUMNS = (
    "test_acc", "ggap", "sparsity", "activation", "init", "optimizer", "dropout", "lr", "weight_decay", "seed", "split",
)  # fmt: skip


def map_of(final: Dataset, weights: Tensor, table: pa.Table, method: str, coloured: Sequence[str]) -> dict[str, Any]:
    """Weights of the last epoch in the plane, with columns to colour them by."""
    if method == "umap":
        places = torch.from_numpy(fit_umap(weights.numpy(), 2)(weights.numpy()))
        labels = ["UMAP 1", "UMAP 2"]
    else:
        places, shares = plane(weights)
        labels = [f"component {number} ({share:.1%} of variance)" for number, share in enumerate(shares, 1)]
    split_of = dict(zip(table["model_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    columns: dict[str, list[Any]] = {name: list(final[name][:]) for name in coloured if name != "split"}
    columns["split"] = [split_of[model] for model in final["model_id"][:]]
    return {
        "x": rounded(places[:, 0]),
        "y": rounded(places[:, 1]),
        "labels": labels,
        "models": list(final["model_id"][:]),
        "columns": {
            name: [json_value(value) for value in values] for name, values in columns.items() if _tells(name, values)
        },
    }


def _tells(name: str, values: Sequence[Any]) -> bool:
    """Whether a column says something as a colour: seeds only where models share them."""
    known = [value for value in values if value is not None]
    different = len(set(known))
    return different > 1 and (name != "seed" or different < len(known))


def plane(weights: Tensor) -> tuple[Tensor, list[float]]:
    """The first two principal components of rows, [K, 2], and their shares of the variance.

    Weights are bounded by their `fences`: one diverged model would be the first component alone.
    """
    if len(weights) < 2:
        return torch.zeros(len(weights), 2), [0.0, 0.0]
    low, high = fences(weights.numpy())
    weights = weights.clamp(torch.from_numpy(low), torch.from_numpy(high))
    centred = weights - weights.mean(dim=0)
    left, values, _ = torch.svd_lowrank(centred, q=min(8, *centred.shape), niter=8)
    places = torch.zeros(len(weights), 2)
    kept = min(2, len(values))
    places[:, :kept] = left[:, :kept] * values[:kept]
    total = float(centred.double().square().sum()) or 1.0
    return places, [float(value) ** 2 / total for value in values[:2]]


def trajectories(repo: str | Path, name: str, final: Dataset, table: pa.Table, count: int) -> dict[str, Any] | None:
    """Whole trainings of some models in the plane of their own principal components."""
    epochs = pc.unique(table["epoch"]).sort().to_pylist()
    models = list(final["model_id"][:])
    drawn = [models[place] for place in evenly(len(models), count)]
    if not drawn or len(epochs) < 3:
        return None
    rows = _rows_of(repo, name, drawn)
    place = {key: at for at, key in enumerate(zip(rows["model_id"][:], rows["epoch"][:], strict=True))}
    whole = [model for model in drawn if all((model, epoch) in place for epoch in epochs)]
    weights = weights_of(rows).view(len(rows), -1)
    paths = weights[torch.tensor([[place[model, epoch] for epoch in epochs] for model in whole], dtype=torch.int64)]
    finite = paths.isfinite().flatten(1).all(dim=1) if whole else torch.zeros(0, dtype=torch.bool)
    if not finite.any():
        return None
    whole, paths = [model for model, kept in zip(whole, finite.tolist(), strict=True) if kept], paths[finite]
    places, shares = plane(paths.flatten(0, 1))
    places = places.view(len(paths), len(epochs), 2)
    measures = {
        "length of the path": analysis.path_lengths(paths),
        "straightness (distance from first to last / length)": analysis.straightness(paths),
        "smoothness (mean cosine of successive steps)": analysis.smoothness(paths),
    }
    return {
        "epochs": epochs,
        "models": whole,
        "x": [rounded(path) for path in places[:, :, 0]],
        "y": [rounded(path) for path in places[:, :, 1]],
        "labels": [f"component {number} ({share:.1%} of variance)" for number, share in enumerate(shares, 1)],
        "measures": {label: box_of(values) for label, values in measures.items()},
    }


def _rows_of(repo: str | Path, name: str, models: Sequence[str]) -> Dataset:
    """All rows of some models."""
    conditions = conditions_in("model_id", models)
    loaded = [cast(DatasetDict, load_zoo(repo, name, where=condition)) for condition in conditions]
    return concatenate_datasets([split for part in loaded for split in part.values()])
