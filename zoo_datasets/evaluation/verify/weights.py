"""Checks of the weights of a config that need no images, in one pass epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from zoo_datasets.errors import ZooError
from zoo_datasets.evaluation.verify.continuity import Weights, copies, exchanges, parent_distances
from zoo_datasets.evaluation.verify.findings import Findings
from zoo_datasets.evaluation.verify.recipes import LASTING, Recipe, differs_from_start
from zoo_datasets.evaluation.verify.shards import READ_ERRORS, CheckedRow, rows_of
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.sparsity import prunable, sparsity
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.places import configs_with_manifest
from zoo_datasets.repository.row import HYPERPARAMETERS, WEIGHTS, weights_matrix
from zoo_datasets.text import ranges

# Weights of one epoch that are held at a time; of larger epochs so many evenly spaced ones of each model.
_HELD_BYTES = 400_000_000
# Numbers that are drawn to check the weights of epoch 0; of larger zoos the first models are checked.
MOST_DRAWN = 300_000_000
_SPARSITY_TOLERANCE = 1e-6
_NARROW = ("model_id", "epoch", "seed", "init", "sparsifier", "sparsity")
# Pruned weights stay zero; of variational dropout some come back.
_LASTING_ZEROS = ("magnitude",)
_PARENT_MARGIN = np.log(2.0)
_INHERITED = tuple(name for name in LASTING if name in {*HYPERPARAMETERS, "activation", "momentum"})


@dataclass(slots=True)
class _Epoch:
    """The finite weights of one epoch, as many of each model as are held: float64 [N, W]."""

    number: int
    models: list[str]
    weights: Weights

    def of(self, models: Sequence[str]) -> Weights:
        """The rows of some models, in their order."""
        if models == self.models:
            return self.weights
        places = {model: place for place, model in enumerate(self.models)}
        return self.weights[[places[model] for model in models]]


@dataclass(slots=True)
class _Steps:
    """What the steps from epoch to epoch say so far."""

    exchanged: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)
    compared: int = 0
    pairs: int = 0
    alike: int = 0


def check_weights(
    repo: Path, manifest: Manifest, recipe: Recipe, rows: Sequence[CheckedRow], findings: Findings
) -> None:
    """Sparsity, weights of epoch 0, and whether the rows of each model continue each other.

    Args:
        recipe: that has seen the rows.
    """
    by_epoch: dict[int, list[CheckedRow]] = {}
    for row in rows:
        by_epoch.setdefault(row.epoch, []).append(row)
    columns = _columns(manifest.one_layout("verify").size, max(map(len, by_epoch.values()), default=0))
    pruned = prunable(manifest.one_layout("verify")).numpy()[columns]
    steps = _Steps()
    before: _Epoch | None = None
    drawn = 0
    for epoch in sorted(by_epoch):
        parts: list[tuple[list[str], Weights]] = []
        for table in _tables(repo, by_epoch[epoch], findings):
            matrix = torch.from_numpy(np.array(weights_matrix(table)))
            finite = torch.isfinite(matrix).all(dim=1)
            findings.differ("rows", list(_wrong_sparsity(manifest, table, matrix, finite)))
            if epoch == 0 and recipe.is_drawn:
                most = max(MOST_DRAWN // manifest.one_layout("verify").size - drawn, 0)
                drawn += _check_start(manifest.one_network("verify"), table, matrix, most, findings)
            ids = [model for model, kept in zip(table["model_id"].to_pylist(), finite.tolist(), strict=True) if kept]
            parts.append((ids, matrix[finite].numpy()[:, columns].astype(np.float64)))
        after = _Epoch(epoch, [model for ids, _ in parts for model in ids], _stacked([part for _, part in parts]))
        if len(set(after.models)) < len(after.models):
            before = None  # a model stands there twice, which is a difference already
            continue
        if before is not None and before.number + 1 == epoch:
            _compare(before, after, pruned if manifest.zoo.get("sparsifier") in _LASTING_ZEROS else None, steps)
        before = after
    _close(sorted(by_epoch), recipe, drawn, steps, findings)


def _columns(size: int, models: int) -> NDArray[np.int64]:
    width = min(size, max(_HELD_BYTES // (8 * max(models, 1)), 1))
    return np.linspace(0, size - 1, width).round().astype(np.int64)


def _stacked(parts: Sequence[Weights]) -> Weights:
    return np.concatenate(parts) if parts else np.zeros((0, 1))


def _tables(repo: Path, rows: Sequence[CheckedRow], findings: Findings) -> Iterator[pa.Table]:
    """The rows, a row group at a time, with weights and the columns that are compared with them."""
    for (shard, group), _ in groupby(rows, key=lambda row: (row.shard, row.row_group)):
        try:
            with pq.ParquetFile(repo / shard.path) as file:
                table = file.read_row_group(group, columns=[*_NARROW, WEIGHTS])
        except READ_ERRORS as error:
            findings.differs("weights", f"{shard.path} could not be read: {' '.join(str(error).split())[:200]}")
        else:
            yield table


def _wrong_sparsity(manifest: Manifest, table: pa.Table, weights: torch.Tensor, finite: torch.Tensor) -> Iterator[str]:
    if table["sparsity"].null_count == len(table) and table["sparsifier"].null_count == len(table):
        return
    shares = sparsity(weights, manifest.one_layout("verify")).tolist()
    columns = (table[name].to_pylist() for name in ("model_id", "epoch", "sparsity", "sparsifier"))
    for model_id, epoch, recorded, sparsifier, share, known in zip(*columns, shares, finite.tolist(), strict=True):
        if recorded is None and sparsifier is not None:
            yield f"model {model_id} at epoch {epoch}: sparsity is null, its weights have {share:.6f}"
        elif recorded is not None and known and not abs(recorded - share) <= _SPARSITY_TOLERANCE:
            yield f"model {model_id} at epoch {epoch}: sparsity is {recorded:.6f}, its weights have {share:.6f}"


def _check_start(network: NetworkKind, table: pa.Table, weights: torch.Tensor, most: int, findings: Findings) -> int:
    """Compare weights of epoch 0 with those of seed and init, of at most so many models; returns of how many."""
    count = min(len(weights), most)
    models, seeds, inits = (table[name].to_pylist() for name in ("model_id", "seed", "init"))
    try:
        wrong = differs_from_start(network.layers, seeds[:count], inits[:count], weights[:count])
    except (ZooError, TypeError, ValueError, RuntimeError) as error:
        findings.differs("start", f"weights of epoch 0 could not be drawn: {' '.join(str(error).split())[:200]}")
        return 0
    findings.differ(
        "start",
        [
            f"model {models[place]}: weights of epoch 0 are not those of seed {seeds[place]} and init {inits[place]}"
            for place in wrong
        ],
    )
    return count


def _compare(before: _Epoch, after: _Epoch, pruned: NDArray[np.bool_] | None, steps: _Steps) -> None:
    common = [model for model in after.models if model in set(before.models)]
    old, new = before.of(common), after.of(common)
    result = exchanges(old, new, start=before.number == 0)
    steps.compared += 1
    steps.pairs += len(common) * (len(common) - 1) // 2
    steps.alike += result.alike
    for first, second in result.pairs:
        steps.exchanged.setdefault((common[first], common[second]), []).append(after.number)
    steps.copied += [
        f"models {common[first]} and {common[second]} have the same weights at epoch {after.number}, not at "
        f"epoch {before.number}"
        for first, second in copies(old, new)
    ]
    if pruned is not None:
        revived = ((old == 0) & (new != 0) & pruned).sum(axis=1)
        steps.revived += [
            f"model {common[place]}: {revived[place]:,} weights that were pruned at epoch {before.number} are not zero "
            f"at epoch {after.number}"
            for place in np.flatnonzero(revived)
        ]


def _close(epochs: Sequence[int], recipe: Recipe, drawn: int, steps: _Steps, findings: Findings) -> None:
    if recipe.is_drawn and 0 in epochs:
        findings.checked("start", f"weights of epoch 0 of {drawn:,} models are those of seed and init")
    findings.differ(
        "continuity",
        [
            f"models {first} and {second} each continue the weights of the other at epoch {ranges(at)}: rows of them "
            "are exchanged"
            for (first, second), at in steps.exchanged.items()
        ],
    )
    findings.differ("continuity", steps.copied)
    findings.differ("continuity", steps.revived)
    if not steps.compared:
        findings.unchecked("which rows follow each other, as no two epochs are consecutive")
        return
    shows = f"{1 - steps.alike / steps.pairs:.2%}" if steps.pairs else "100%"
    findings.checked(
        "continuity",
        f"{steps.compared} steps of one epoch; exchanged rows would show in {shows} of the pairs of models",
    )


def check_parents(
    repo: Path, manifest: Manifest, recipe: Recipe, rows: Sequence[CheckedRow], findings: Findings
) -> None:
    """Whether twins begin near the parents that they name and have their hyperparameters, if the repository has these.

    Args:
        recipe: that has seen the rows.
    """
    twins = [row for row in rows if row.epoch == 0 and row.parent_id is not None]
    if not twins:
        if any(row.parent_id is not None for row in rows):
            findings.unchecked("parents, as there is no row of a twin at epoch 0")
        return
    try:
        parents = _parents_in(repo, manifest, {row.parent_id for row in twins if row.parent_id is not None})
    except (*READ_ERRORS, ZooError):
        parents = None
    if parents is None:
        findings.unchecked("parent_id and what twins have of their parents, which are not in this repository")
        return
    config, parent_rows, lasting = parents
    columns = _columns(manifest.one_layout("verify").size, max(len(twins), len(parent_rows)))
    own, others = (_finite_weights(repo, part, columns, findings) for part in (twins, parent_rows))
    findings.differ("parents", list(_far_from_parents(own, others, {row.model_id: row.parent_id for row in twins})))
    findings.differ("parents", list(_not_inherited(recipe, lasting, twins)))
    findings.checked("parents", f"{len(own.models):,} twins begin nearest to theirs in {config}")


def _finite_weights(repo: Path, rows: Sequence[CheckedRow], columns: NDArray[np.int64], findings: Findings) -> _Epoch:
    """Weights of some rows, one a model."""
    wanted = {row.model_id for row in rows}
    models: list[str] = []
    parts: list[Weights] = []
    for table in _tables(repo, rows, findings):
        matrix = weights_matrix(table)
        kept = [
            place
            for place, model in enumerate(table["model_id"].to_pylist())
            if model in wanted and np.isfinite(matrix[place]).all()
        ]
        models += [table["model_id"][place].as_py() for place in kept]
        parts.append(matrix[kept][:, columns].astype(np.float64))
    return _Epoch(0, models, _stacked(parts))


def _parents_in(
    repo: Path, manifest: Manifest, parents: set[str]
) -> tuple[str, list[CheckedRow], dict[str, tuple[object, ...]]] | None:
    """The config that holds all parents, its rows of them at the epoch of which the twins were made, and the values of
    `_INHERITED` by the parent's id; None if there is none."""
    record = manifest.source.get("parents")
    epoch = record.get("epoch") if isinstance(record, Mapping) else None
    for config in configs_with_manifest(repo):
        other = read_manifest(repo, config)
        if (
            other is None
            or other.open
            or other.config == manifest.config
            or other.one_layout("verify").size != manifest.one_layout("verify").size
        ):
            continue
        at = max(other.epochs, default=0) if epoch is None else epoch
        rows, lasting = rows_of(repo, other, at, _INHERITED)
        if parents <= lasting.keys():
            return other.config, rows, lasting
    return None


def _far_from_parents(twins: _Epoch, parents: _Epoch, parent_of: Mapping[str, str | None]) -> Iterator[str]:
    if not twins.models or not parents.models:
        return
    places = {model: place for place, model in enumerate(parents.models)}
    distances = parent_distances(twins.weights, parents.weights)
    best = distances.argmin(axis=1)
    for place, twin in enumerate(twins.models):
        parent = parent_of[twin]
        if parent not in places:
            continue
        if distances[place, best[place]] < distances[place, places[parent]] - _PARENT_MARGIN:
            yield f"model {twin} begins near model {parents.models[best[place]]}, its parent_id says {parent}"


def _not_inherited(
    recipe: Recipe, parents: Mapping[str, tuple[object, ...]], twins: Sequence[CheckedRow]
) -> Iterator[str]:
    for twin in twins:
        own = dict(zip(LASTING, recipe.models[twin.model_id], strict=True))
        for name, value in zip(_INHERITED, parents.get(str(twin.parent_id), ()), strict=False):
            # Momentum alone is null where it does not apply; others are where an imported parent does not tell them.
            if own[name] != value and (name == "momentum" or None not in (value, own[name])):
                yield f"model {twin.model_id}: {name} is {own[name]!r:.60}, that of its parent {value!r:.60}"
