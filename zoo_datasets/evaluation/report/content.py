"""Everything that a report shows, as JSON values; `report` makes a page of it and `plots` pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.errors import SpecError
from zoo_datasets.evaluation import analysis, population
from zoo_datasets.evaluation.benchmark.record import Record
from zoo_datasets.evaluation.features.base import fences
from zoo_datasets.evaluation.features.umap import fit_umap
from zoo_datasets.evaluation.population import Box
from zoo_datasets.evaluation.predictions import predictions, representations
from zoo_datasets.evaluation.report.lines import between
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.samples import SampleForm, ZooReader
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.sparsity import layer_sparsity
from zoo_datasets.plotting import title_of
from zoo_datasets.repository.manifest import Manifest, configs_with_manifest, read_manifest
from zoo_datasets.repository.row import WEIGHTS
from zoo_datasets.repository.where import conditions_in
from zoo_datasets.symmetries import canonicalize

MAP_COLUMNS = (
    "test_acc", "ggap", "sparsity", "activation", "init", "optimizer", "dropout", "lr", "weight_decay", "seed", "split",
)  # fmt: skip
_BINS = 40
_LISTED = 200
_SAMPLE_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """How much of a zoo is looked at.

    Attributes:
        models: on the map, drawn at random where there are more.
        trajectories: models whose whole training is shown; 0 leaves them out.
        pairs: models that are compared in pairs.
        method: of the map, pca or umap.
    """

    models: int = 1000
    trajectories: int = 24
    pairs: int = 128
    method: str = "pca"

    def __post_init__(self) -> None:
        if self.method not in ("pca", "umap"):
            raise SpecError(f"map by {self.method!r}: expected pca or umap")


Step = Callable[[str], None]


def gather(
    repo: str | Path,
    name: str,
    manifest: Manifest,
    *,
    images: ImageData | None = None,
    record: Record | None = None,
    extent: Extent | None = None,
    step: Step = lambda _: None,
) -> dict[str, Any]:
    """The content of a report.

    Args:
        images: for agreement, representations and the losses between models; None leaves these out.
        record: a benchmark to show.
        step: called with what is done next.
    """
    extent = extent or Extent()
    step("figures of all models")
    table = population.read_figures(repo, name)
    last = population.at_epoch(table)
    epochs = sorted(set(last["epoch"].to_pylist()))
    step("weights of the last epoch")
    rows = cast(DatasetDict, load_zoo(repo, name, epochs=epochs))
    final = _last_rows(concatenate_datasets(list(rows.values())), last, extent.models)
    weights = _weights(final)
    finite = weights.isfinite().all(dim=1)
    final, weights = final.select(np.flatnonzero(finite.numpy())), weights[finite]
    content: dict[str, Any] = {
        "name": name,
        "title": title_of(name, last.num_rows, pc.unique(table["epoch"]).sort().to_pylist()),
        "facts": _facts(manifest, table, last),
        "epochs": _epochs(table),
        "effects": [asdict(effect) for effect in population.effects(last)],
        "left_out": _left_out(manifest, int((~finite).sum())),
        "benchmark": None if record is None else record.to_dict(),
        "notes": [],
    }
    if images is None:
        content["notes"].append(
            "No images were given: agreement, representations and losses between models were not computed."
        )
    step("map")
    content["map"] = _map(final, weights, table, extent.method)
    step("trajectories")
    content["trajectories"] = _trajectories(repo, name, final, table, extent.trajectories)
    step("pairs of models")
    content["alike"] = _alike(final, weights, images, extent.pairs)
    if images is not None:
        step("lines between models")
        content["between"] = between(final, weights, images)
    if manifest.zoo.get("sparsifier"):
        step("sparsity")
        content["sparse"] = _sparse(repo, final, weights, manifest, images, extent.pairs)
    return content


def _last_rows(rows: Dataset, last: pa.Table, limit: int) -> Dataset:
    """The last row of each model, or of `limit` models drawn at random."""
    wanted = set(zip(last["model_id"].to_pylist(), last["epoch"].to_pylist(), strict=True))
    keys = zip(rows["model_id"][:], rows["epoch"][:], strict=True)
    places = np.array([place for place, key in enumerate(keys) if key in wanted])
    if len(places) > limit:
        places = np.sort(np.random.default_rng(_SAMPLE_SEED).permutation(places)[:limit])
    return rows.select(places)


def _weights(rows: Dataset) -> Tensor:
    return cast(Tensor, ZooReader(rows, [WEIGHTS]).read(slice(0, len(rows)), SampleForm())[WEIGHTS])


def _facts(manifest: Manifest, table: pa.Table, last: pa.Table) -> list[list[str]]:
    """Headline figures as (what, how much)."""
    models = pc.count_distinct(table["model_id"]).as_py()
    facts = [["models", f"{models:,}"], ["states (models × epochs)", f"{table.num_rows:,}"]]
    facts.append(["epochs", f"{pc.min(table['epoch']).as_py()} to {pc.max(table['epoch']).as_py()}"])
    facts.append(
        [
            "architecture",
            f"{manifest.one_network('a report').architecture}, {manifest.one_layout('a report').parameters:,} weights",
        ]
    )
    facts.append(["images", str(table["images"][0].as_py())])
    splits = last.group_by("split").aggregate([("model_id", "count")]).to_pylist()
    facts.append(["models by split", ", ".join(f"{s['split']} {s['model_id_count']:,}" for s in splits)])
    for column in ("test_acc", "ggap", "sparsity"):
        box = population.box(last[column])
        if box is not None:
            text = f"{box.median:.3f} ({box.low:.3f} to {box.high:.3f})"
            facts.append([f"{population.FIGURES[column].partition(' (')[0]} at the last epoch, median (range)", text])
    facts.append(["best model by validation", _best(table)])
    return facts


def _best(table: pa.Table) -> str:
    """The model of the highest validation accuracy, and how it does on the test images."""
    row = population.best(table)
    if row is None:
        return "not known: no row records a validation accuracy"
    tested = "not recorded" if row["test_acc"] is None else f"{row['test_acc']:.4f}"
    return f"{row['model_id']} at epoch {row['epoch']}: validation {row['val_acc']:.4f}, test {tested}"


def _epochs(table: pa.Table) -> dict[str, Any]:
    """Boxes of each figure over epochs; figures that no row records are left out."""
    figures = {}
    for column, label in population.FIGURES.items():
        boxes = population.over_epochs(table, column)
        if boxes:
            figures[column] = {"label": label, "boxes": {str(epoch): asdict(box) for epoch, box in boxes.items()}}
    return figures


def _map(
    final: Dataset, weights: Tensor, table: pa.Table, method: str, coloured: Sequence[str] = MAP_COLUMNS
) -> dict[str, Any]:
    """Weights of the last epoch in the plane, with columns to colour them by."""
    if method == "umap":
        places = torch.from_numpy(fit_umap(weights.numpy(), 2)(weights.numpy()))
        labels = ["UMAP 1", "UMAP 2"]
    else:
        places, shares = _plane(weights)
        labels = [f"component {number} ({share:.1%} of variance)" for number, share in enumerate(shares, 1)]
    split_of = dict(zip(table["model_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    columns: dict[str, list[Any]] = {name: list(final[name][:]) for name in coloured if name != "split"}
    columns["split"] = [split_of[model] for model in final["model_id"][:]]
    return {
        "x": _rounded(places[:, 0]),
        "y": _rounded(places[:, 1]),
        "labels": labels,
        "models": list(final["model_id"][:]),
        "columns": {
            name: [_json(value) for value in values] for name, values in columns.items() if _tells(name, values)
        },
    }


def _tells(name: str, values: Sequence[Any]) -> bool:
    """Whether a column says something as a colour: seeds only where models share them."""
    known = [value for value in values if value is not None]
    different = len(set(known))
    return different > 1 and (name != "seed" or different < len(known))


def _plane(weights: Tensor) -> tuple[Tensor, list[float]]:
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


def _trajectories(repo: str | Path, name: str, final: Dataset, table: pa.Table, count: int) -> dict[str, Any] | None:
    """Whole trainings of some models in the plane of their own principal components."""
    epochs = pc.unique(table["epoch"]).sort().to_pylist()
    models = list(final["model_id"][:])
    drawn = [models[place] for place in np.linspace(0, len(models) - 1, min(count, len(models))).round().astype(int)]
    if not drawn or len(epochs) < 3:
        return None
    rows = _rows_of(repo, name, drawn)
    place = {key: at for at, key in enumerate(zip(rows["model_id"][:], rows["epoch"][:], strict=True))}
    whole = [model for model in drawn if all((model, epoch) in place for epoch in epochs)]
    weights = _weights(rows).view(len(rows), -1)
    paths = weights[torch.tensor([[place[model, epoch] for epoch in epochs] for model in whole], dtype=torch.int64)]
    finite = paths.isfinite().flatten(1).all(dim=1) if whole else torch.zeros(0, dtype=torch.bool)
    if not finite.any():
        return None
    whole, paths = [model for model, kept in zip(whole, finite.tolist(), strict=True) if kept], paths[finite]
    places, shares = _plane(paths.flatten(0, 1))
    places = places.view(len(paths), len(epochs), 2)
    measures = {
        "length of the path": analysis.path_lengths(paths),
        "straightness (distance from first to last / length)": analysis.straightness(paths),
        "smoothness (mean cosine of successive steps)": analysis.smoothness(paths),
    }
    return {
        "epochs": epochs,
        "models": whole,
        "x": [_rounded(path) for path in places[:, :, 0]],
        "y": [_rounded(path) for path in places[:, :, 1]],
        "labels": [f"component {number} ({share:.1%} of variance)" for number, share in enumerate(shares, 1)],
        "measures": {label: _box(values) for label, values in measures.items()},
    }


def _rows_of(repo: str | Path, name: str, models: Sequence[str]) -> Dataset:
    """All rows of some models."""
    conditions = conditions_in("model_id", models)
    loaded = [cast(DatasetDict, load_zoo(repo, name, where=condition)) for condition in conditions]
    return concatenate_datasets([split for part in loaded for split in part.values()])


def _alike(final: Dataset, weights: Tensor, images: ImageData | None, limit: int) -> list[dict[str, Any]]:
    """Histograms over pairs of models: weights, and with images what they say."""
    drawn = np.linspace(0, len(final) - 1, min(limit, len(final))).round().astype(int)
    rows, some = final.select(drawn), weights[torch.from_numpy(drawn)]
    layers = _layers(rows)
    ordered = canonicalize(some, layers)
    measures = {
        "distance of weights": analysis.distances(some),
        "distance of weights in canonical order of channels": analysis.distances(ordered),
        "cosine of weights": analysis.cosines(some),
        "cosine of weights in canonical order of channels": analysis.cosines(ordered),
    }
    grain = None if images is None else len(images.test.labels)
    if images is not None:
        predicted = predict(rows, some, images)
        measures["agreement (share of test images with the same prediction)"] = analysis.agreement(predicted)
        measures["error agreement κ"] = analysis.error_agreement(predicted, images.test.labels)
        measures["linear CKA of what enters the last layer"] = analysis.linear_cka(represent(rows, some, images))
    histograms = (
        _histogram(label, analysis.pairs_of(matrix), grain if label.startswith("agreement") else None)
        for label, matrix in measures.items()
    )
    return [histogram for histogram in histograms if histogram is not None]


def _sparse(
    repo: str | Path, final: Dataset, weights: Tensor, manifest: Manifest, images: ImageData | None, limit: int
) -> dict[str, Any]:
    """What pruning did to twins."""
    layers = layer_sparsity(weights, manifest.one_layout("a report"))
    points = [[_json(value) for value in pair] for pair in zip(final["sparsity"][:], final["test_acc"][:], strict=True)]
    content: dict[str, Any] = {
        "layers": {name: _box(values) for name, values in layers.items()},
        "points": [pair for pair in points if None not in pair],
        "parents": None,
    }
    if images is not None:
        content["parents"] = _with_parents(Path(repo), final, weights, manifest, images, limit)
    return content


def _with_parents(
    repo: Path, final: Dataset, weights: Tensor, manifest: Manifest, images: ImageData, limit: int
) -> dict[str, Any] | None:
    """Agreement of twins with their parents' last states; None where no dense zoo of the repository holds these."""
    parents = final["parent_id"][:]
    for config in configs_with_manifest(repo):
        other = read_manifest(repo, config)
        if other is None or other.zoo.get("sparsifier") or other.layout != manifest.layout:
            continue
        loaded = cast(DatasetDict, load_zoo(repo, config, columns=["model_id", "epoch"]))
        states = pa.concat_tables([cast(pa.Table, part.with_format("arrow")[:]) for part in loaded.values()])
        if not set(states["model_id"].to_pylist()) & set(parents):
            continue
        last = population.at_epoch(states)
        epochs = sorted(set(last["epoch"].to_pylist()))
        rows = concatenate_datasets(list(cast(DatasetDict, load_zoo(repo, config, epochs=epochs)).values()))
        rows = _last_rows(rows, last, len(rows))
        place = {model: at for at, model in enumerate(rows["model_id"][:])}
        pairs = [(at, place[model]) for at, model in enumerate(parents) if model in place][:limit]
        own, theirs = (list(side) for side in zip(*pairs, strict=True))
        twins, dense = final.select(own), rows.select(theirs)
        said, before = predict(twins, weights[own], images), predict(dense, _weights(dense), images)
        shares = analysis.paired_agreement(said, before)
        return _histogram("agreement of twins with their parents", shares, said.shape[1])
    return None


def predict(rows: Dataset, weights: Tensor, images: ImageData) -> Tensor:
    """Predictions of rows for the test images, [K, N]; rows may differ in activation."""
    return _by_activation(
        rows, weights, lambda layers, kind, part: predictions(layers, kind, part, images, images.test)
    )


def represent(rows: Dataset, weights: Tensor, images: ImageData) -> Tensor:
    """Representations of rows for the first test images, [K, images, F]; rows may differ in activation."""
    return _by_activation(
        rows, weights, lambda layers, kind, part: representations(layers, kind, part, images, images.test)
    )


def _by_activation(rows: Dataset, weights: Tensor, run: Callable[[Any, str, Tensor], Tensor]) -> Tensor:
    layers = _layers(rows)
    kinds = np.array(rows["activation"][:])
    places = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    parts = [run(layers, str(kinds[where[0]]), weights[torch.from_numpy(where)]) for where in places]
    return torch.cat(parts)[torch.from_numpy(np.concatenate(places).argsort())]


def _layers(rows: Dataset) -> Any:
    return NetworkKind.of_row(rows.select_columns(list(KIND_COLUMNS))[0]).layers


def _left_out(manifest: Manifest, nonfinite: int) -> dict[str, Any]:
    entries = [[entry.model, list(entry.epochs), entry.reason] for entry in manifest.left_out]
    return {
        "models": asdict(manifest.models),
        "states": asdict(manifest.states),
        "entries": entries[:_LISTED],
        "more": max(len(entries) - _LISTED, 0),
        "nonfinite": nonfinite,
    }


def _histogram(label: str, values: Tensor, grain: int | None = None) -> dict[str, Any] | None:
    """Counts of values in bins.

    Args:
        grain: where all values are multiples of 1 / `grain`, as shares of so many images are; every bin then holds
            equally many of these.
    """
    if not len(values):
        return None
    numbers = values.numpy()
    counts, edges = np.histogram(numbers, _BINS if grain is None else _edges_of_shares(numbers, grain))
    return {"label": label, "counts": counts.tolist(), "edges": _rounded(edges), "box": _box(values)}


def _edges_of_shares(shares: NDArray[np.float64], grain: int) -> NDArray[np.float64]:
    """At most `_BINS` bins for multiples of 1 / `grain`, with edges half way between two of these."""
    first, last = round(float(shares.min()) * grain), round(float(shares.max()) * grain)
    width = -(-(last - first + 1) // _BINS)
    bins = -(-(last - first + 1) // width)
    return np.asarray((first - 0.5 + width * np.arange(bins + 1)) / grain)


def _box(values: Tensor) -> dict[str, Any] | None:
    summary: Box | None = population.box(values.double().tolist())
    return None if summary is None else asdict(summary)


def _rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.5g}") for value in values]


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
