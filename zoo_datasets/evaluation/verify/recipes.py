"""Whether rows agree with the recipe of their zoo: hyperparameters, ids, and the weights of epoch 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from zoo_datasets.errors import ZooError
from zoo_datasets.evaluation.verify.findings import Findings
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.layers import Layer
from zoo_datasets.networks.layers.module import can_compute, check_code
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.specs.axes import POINT_FIELDS, HyperParameters
from zoo_datasets.specs.members import Limits, model_id_of, twin_id_of
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.stacked.initialise import initialise

# The columns that are the same in all rows of a model.
LASTING = ("seed", *POINT_FIELDS, "parent_id", "sparsifier", "source_split")
# Of these a manifest lists every value that a model of the zoo has.
_LISTED = ("activation", "init", "dropout", "optimizer", "lr", "weight_decay")
# Initial weights differ from those that another processor drew by the last bits of a logarithm.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-7

# What is not checked where networks are made by code that is not allowed.
CODE_UNCHECKED = "weights of epoch 0, which code draws that is not allowed: --allow-code does"


class Recipe:
    """What a manifest says of all models of a zoo; the rows of a model are compared with it and with each other.

    Attributes:
        zoo: the spec of a zoo that this package trained; None of an imported one, or if the manifest's is no spec.
        models: the values of `LASTING` of each model so far, by its id.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.zoo = _trained_zoo(manifest)
        self.models: dict[str, tuple[Any, ...]] = {}

    @property
    def is_trained(self) -> bool:
        """Whether the manifest says that this package trained the zoo."""
        return self._manifest.is_trained

    @property
    def is_drawn(self) -> bool:
        """Whether the weights of epoch 0 follow from seed and init alone."""
        return self.zoo is not None and self.zoo.sparsifier is None

    def problems(self, table: pa.Table) -> Iterator[str]:
        """What contradicts the recipe, or an earlier row of the same model, in rows with the columns of the schema."""
        columns = [table[name].to_pylist() for name in ("model_id", "epoch", *LASTING)]
        for model_id, epoch, *values in zip(*columns, strict=True):
            first = self.models.get(model_id)
            if first is None:
                self.models[model_id] = tuple(values)
                yield from self._problems_of(model_id, dict(zip(LASTING, values, strict=True)))
            elif first != tuple(values):
                for name, value, before in zip(LASTING, values, first, strict=True):
                    if value != before:
                        difference = f"{name} is {_shown(value)} at epoch {epoch}, {_shown(before)} in other rows"
                        yield f"model {model_id}: {difference}"

    def _problems_of(self, model_id: str, row: Mapping[str, Any]) -> Iterator[str]:
        for name in _LISTED:
            listed = self._manifest.zoo.get(name)
            if isinstance(listed, (list, tuple)) and row[name] is not None and row[name] not in listed:
                yield f"model {model_id}: {name} is {_shown(row[name])}, the manifest lists {_shown(listed)}"
        if self.is_trained and "splits" not in self._manifest.source and row["source_split"] is not None:
            yield f"model {model_id}: source_split is {_shown(row['source_split'])}, and the zoo was not imported"
        if row["parent_id"] is not None and "sparsifier" in self._manifest.zoo and row["sparsifier"] is None:
            yield f"model {model_id}: parent_id is {_shown(row['parent_id'])}, and it is no twin"
        expected = self._ids_of(row)
        if expected is not None and model_id not in expected:
            what = "recipe and seed" if row["parent_id"] is None else "parent and recipe"
            yield f"model {model_id}: its id is not the hash of its {what}, which is {min(expected, default='none')}"

    def _ids_of(self, row: Mapping[str, Any]) -> set[str] | None:
        """The ids that a model of this row may have; None if the zoo was not trained by this package."""
        if self.zoo is None:
            return None
        try:
            if self.zoo.sparsifier is not None:
                epoch = self._manifest.source["parents"]["epoch"]
                return {twin_id_of(self.zoo, row["parent_id"], epoch, whole) for whole in (True, False)}
            point = HyperParameters(**{name: row[name] for name in POINT_FIELDS})
            return {model_id_of(self.zoo, point, row["seed"], self._limits)}
        except (KeyError, TypeError, ValueError):
            return set()

    @cached_property
    def _limits(self) -> Limits:
        return Limits(**(self._manifest.source.get("limits") or {}))


def check_code_of(networks: Iterable[NetworkKind], computes: bool, findings: Findings) -> None:
    """See that code of networks can be run where figures are recomputed; else say what is left out without it.

    Raises:
        SpecError: if it has to be run, and is not allowed.
    """
    for network in networks:
        try:
            layers = network.layers
        except ZooError:
            continue  # what is wrong with it is said of the manifest
        if computes:
            check_code(layers)
        elif not can_compute(layers):
            findings.unchecked(CODE_UNCHECKED)
            return


def differs_from_start(
    layers: Sequence[Layer],
    seeds: Sequence[int],
    inits: Sequence[str],
    weights: Tensor,
    stds: Sequence[float | None] | None = None,
    biases: Sequence[float | None] | None = None,
) -> list[int]:
    """The places of the models whose weights at epoch 0 are not those drawn by seed and init; none where that takes
    code that is not allowed.

    Args:
        weights: float32 [K, D].
        stds, biases: of each model, as `initialise` takes them.

    Raises:
        ZooError: if there is no such init.
    """
    if not can_compute(layers):
        return []
    drawn = initialise(layers, torch.tensor(seeds, dtype=torch.int64), inits, stds, biases)
    near = torch.isclose(weights, drawn, rtol=_RELATIVE, atol=_ABSOLUTE).all(dim=1)
    return [place for place, same in enumerate(near.tolist()) if not same]


def _trained_zoo(manifest: Manifest) -> ZooSpec | None:
    if not manifest.is_trained:
        return None
    try:
        return zoo_from_dict(dict(manifest.zoo), "manifest.json")
    except ZooError:
        return None


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value[:8]))
    return "null" if value is None else f"{value!r:.60}"
