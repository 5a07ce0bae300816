"""Everything that a report shows, as JSON values; `report` makes a page of it and `plots` pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from torch import Tensor

from zoo_datasets.evaluation import analysis, population
from zoo_datasets.evaluation.benchmark.record import Record
from zoo_datasets.evaluation.predictions import predictions, representations
from zoo_datasets.evaluation.report.lines import between
from zoo_datasets.evaluation.report.maps import MAP_COLUMNS, map_of, trajectories
from zoo_datasets.evaluation.report.parts import Extent, Step, evenly, last_rows, left_out_of, weights_of
from zoo_datasets.evaluation.report.values import box_of, histogram_of, histograms_of_pairs, json_value
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers.module import module_of
from zoo_datasets.networks.sparsity import layer_sparsity
from zoo_datasets.plotting import title_of
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.places import configs_with_manifest
from zoo_datasets.symmetries import canonicalize


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
        images: for agreement, representations and the losses between models; None leaves these out, and so does a
            network of code of a user's own, which is not run here.
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
    final = last_rows(concatenate_datasets(list(rows.values())), last, extent.models)
    weights = weights_of(final)
    finite = weights.isfinite().all(dim=1)
    final, weights = final.select(np.flatnonzero(finite.numpy())), weights[finite]
    content: dict[str, Any] = {
        "name": name,
        "title": title_of(name, last.num_rows, pc.unique(table["epoch"]).sort().to_pylist()),
        "facts": _facts(manifest, table, last),
        "epochs": _epochs(table),
        "effects": [asdict(effect) for effect in population.effects(last)],
        "left_out": left_out_of(manifest, int((~finite).sum())),
        "benchmark": None if record is None else record.to_dict(),
        "notes": [],
    }
    if len(final) and module_of(_layers(final)) is not None:
        images = None
        content["notes"].append(
            "The networks are code, which is not run here, and whose channels are not known: agreement, "
            "representations, losses between models and a canonical order were not computed."
        )
    elif images is None:
        content["notes"].append(
            "No images were given: agreement, representations and losses between models were not computed."
        )
    step("map")
    content["map"] = map_of(final, weights, table, extent.method, MAP_COLUMNS)
    step("trajectories")
    content["trajectories"] = trajectories(repo, name, final, table, extent.trajectories)
    step("pairs of models")
    content["alike"] = _alike(final, weights, images, extent.pairs)
    if images is not None:
        step("lines between models")
        content["between"] = between(final, weights, images)
    if manifest.zoo.get("sparsifier"):
        step("sparsity")
        content["sparse"] = _sparse(repo, final, weights, manifest, images, extent.pairs)
    return content


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


def _alike(final: Dataset, weights: Tensor, images: ImageData | None, limit: int) -> list[dict[str, Any]]:
    """Histograms over pairs of models: weights, and with images what they say."""
    drawn = evenly(len(final), limit)
    rows, some = final.select(drawn), weights[torch.from_numpy(drawn)]
    layers = _layers(rows)
    measures = {"distance of weights": analysis.distances(some), "cosine of weights": analysis.cosines(some)}
    if module_of(layers) is None:
        ordered = canonicalize(some, layers)
        measures["distance of weights in canonical order of channels"] = analysis.distances(ordered)
        measures["cosine of weights in canonical order of channels"] = analysis.cosines(ordered)
    grains = {}
    if images is not None:
        predicted = predict(rows, some, images)
        agreement = "agreement (share of test images with the same prediction)"
        measures[agreement], grains[agreement] = analysis.agreement(predicted), len(images.test.labels)
        measures["error agreement κ"] = analysis.error_agreement(predicted, images.test.labels)
        measures["linear CKA of what enters the last layer"] = analysis.linear_cka(represent(rows, some, images))
    return histograms_of_pairs(measures, grains)


def _sparse(
    repo: str | Path, final: Dataset, weights: Tensor, manifest: Manifest, images: ImageData | None, limit: int
) -> dict[str, Any]:
    """What pruning did to twins."""
    layers = layer_sparsity(weights, manifest.one_layout("a report"))
    points = [
        [json_value(value) for value in pair] for pair in zip(final["sparsity"][:], final["test_acc"][:], strict=True)
    ]
    content: dict[str, Any] = {
        "layers": {name: box_of(values) for name, values in layers.items()},
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
        rows = last_rows(rows, last, len(rows))
        place = {model: at for at, model in enumerate(rows["model_id"][:])}
        pairs = [(at, place[model]) for at, model in enumerate(parents) if model in place][:limit]
        own, theirs = (list(side) for side in zip(*pairs, strict=True))
        twins, dense = final.select(own), rows.select(theirs)
        said, before = predict(twins, weights[own], images), predict(dense, weights_of(dense), images)
        shares = analysis.paired_agreement(said, before)
        return histogram_of("agreement of twins with their parents", shares, said.shape[1])
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
