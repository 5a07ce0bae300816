"""Sparsified twins of trained models: what they are, before they are trained as any other population."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from zoo_datasets.networks.layers import Layer
from zoo_datasets.runs.manifest import ParentsRecord
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Member, twin_id_of
from zoo_datasets.specs.spec import Scope, ZooSpec
from zoo_datasets.specs.zoos import twin_of
from zoo_datasets.stacked.optimizers import State
from zoo_datasets.training.population.opening import Population
from zoo_datasets.training.population.parents import Parents, parent_weights
from zoo_datasets.training.sparsifiers import SPARSIFIERS, get_sparsifier

# Of epoch 0 of twins by variational dropout, which their parents should not differ from by more.
LOSS_TOLERANCE = 1e-3
ACCURACY_TOLERANCE = 1e-2


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinStart:
    """Twins begin with the weights of their parents, made ready by the sparsifier."""

    path: Path
    config: str | None
    epoch: int

    def __call__(self, zoo: ZooSpec, layers: tuple[Layer, ...], members: Sequence[Member]) -> tuple[Tensor, State]:
        """Weights [K, D] and state of twins at epoch 0."""
        assert zoo.sparsifier is not None
        parents = [member.parent_id for member in members if member.parent_id is not None]
        weights = parent_weights(self.path, self.config, self.epoch, parents)
        return SPARSIFIERS[zoo.sparsifier].begin(zoo, layers, weights)


def twins_of_parents(
    parents: Parents,
    sparsifier: str,
    *,
    epochs: int | None = None,
    amount: float | None = None,
    scope: Scope | None = None,
) -> Population:
    """A twin of each parent: its hyperparameters and seed, its limits on images, a constant learning rate.

    Args:
        sparsifier: a name of `SPARSIFIERS`.
        epochs: None means as many as the published twins have.
        amount, scope: of pruning, the share of weights and what it is a share of: `global` (the default) or `layer`.

    Raises:
        UnknownNameError, SpecError: if there is no such sparsifier, or it does not take these settings.
    """
    method = get_sparsifier(sparsifier, amount, scope)
    if method.pruning:
        scope = scope or "global"
    zoo = twin_of(parents.zoo, sparsifier, epochs=epochs or method.epochs, amount=amount, scope=scope)
    members = [_twin(zoo, parent, parents.epoch, method.whole) for parent in parents.members]
    start = TwinStart(path=parents.path.resolve(), config=parents.config, epoch=parents.epoch)
    record = ParentsRecord(zoo=parents.zoo.name, epoch=parents.epoch)
    return Population(zoo=zoo, members=members, limits=parents.limits, start=start, parents=record)


def _twin(zoo: ZooSpec, parent: Member, epoch: int, whole: bool) -> Member:
    model_id = twin_id_of(zoo, parent.model_id, epoch, whole)
    return dataclasses.replace(parent, model_id=model_id, parent_id=parent.model_id)


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of epoch 0 from the parents: of any loss, and of any accuracy relative to the parent's.

    A loss above 1 counts relative to itself: of models that did not learn it is thousands, and rounded accordingly.
    """

    loss: float
    accuracy: float

    @property
    def small(self) -> bool:
        """Whether both differences are within the tolerances."""
        return self.loss <= LOSS_TOLERANCE and self.accuracy <= ACCURACY_TOLERANCE


def difference_from_parents(run: Run, parents: Parents) -> Difference:
    """Epoch 0 of the twins against the recorded figures of their parents, on the validation and test images."""
    loss = accuracy = 0.0
    for cohort in run.cohorts():
        metrics = cohort.metrics()
        rows = metrics.filter(pa.compute.equal(metrics["epoch"], 0)).to_pylist()
        for member, row in zip(cohort.members, rows, strict=True):
            before = parents.figures.get(member.parent_id or "", {})
            for split in ("val", "test"):
                if before.get(f"{split}_loss") is not None and row[f"{split}_loss"] is not None:
                    far = abs(row[f"{split}_loss"] - before[f"{split}_loss"])
                    loss = max(loss, far / max(1.0, abs(before[f"{split}_loss"])))
                if before.get(f"{split}_acc") and row[f"{split}_acc"] is not None:
                    accuracy = max(accuracy, abs(row[f"{split}_acc"] / before[f"{split}_acc"] - 1))
    return Difference(loss, accuracy)
