"""The losses of raw twins by variational dropout: recorded as cross-entropy + β·KL, of which rows keep the first."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.images.prepare import ImageData, load_images
from zoo_datasets.loading.modules import evaluate
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.variational import kl_weight, total_kl
from zoo_datasets.repository.row import KL_WEIGHT, RECORDED
from zoo_datasets.runs.rows import Model
from zoo_datasets.stacked.evaluate import same_loss

_SPLITS = ("val", "test")


class TwinLosses:
    """Makes the loss columns of twins: cross-entropy on the images that were given, else null.

    The training loss is a mean over the steps of an epoch and cannot be recomputed from the weights after it.
    """

    def __init__(self, network: NetworkKind, images: str, reading: Reading) -> None:
        self._network = network
        self._data: ImageData | None = None
        if reading.images is not None:
            self._data = load_images(images, network.architecture, reading.images).limited(reading.limits)
        self._keep = reading.keep_log_sigma2
        self._evaluating = threading.Lock()  # one stack of models in memory at a time

    @property
    def unrecorded(self) -> Collection[str]:
        """The columns that are null where nothing computes them: what is recorded under these names is another sum."""
        return RECORDED.keys()

    def computed(self, gaps: Collection[str]) -> set[str]:
        """The columns that are computed from the weights, where `gaps` are recorded of some states only, or of none."""
        return {f"{split}_loss" for split in self._computed} | {*gaps}.intersection(
            f"{split}_acc" for split in self._computed
        )

    @property
    def _computed(self) -> list[str]:
        return [split for split in _SPLITS if self._data is not None and getattr(self._data, split) is not None]

    def describe(self, compared: Mapping[str, int]) -> dict[str, Any]:
        """For the manifest: the origin of the losses, and how many recorded ones are cross-entropy + β·KL."""
        if self._data is None:
            return {"cross_entropy": "not recomputed; the recorded losses hold β·KL"}
        record = {"cross_entropy": "recomputed", "fingerprint": self._data.fingerprint}
        return record | {"recorded": dict(compared)}

    def notes(self, compared: Mapping[str, int], models: int) -> list[tuple[Note, int]]:
        """Notes for the user, each with its count; `models` is the number of models."""
        if self._data is None:
            text = "the recorded losses of a twin hold β·KL, so loss columns are null; --images recomputes them"
            return [(Note("import-twin-losses", text), models)]
        text = (
            "a recorded loss is not the recomputed cross-entropy + β·KL (0.01 · (epoch − 1) / epochs); "
            "were other images used? --limit-val and --limit-test say how many"
        )
        return [(Note("import-recorded-loss", text), compared.get("not as recomputed", 0))]

    def figures(
        self,
        epochs: Sequence[int],
        models: Sequence[Model],
        recorded: Mapping[str, pa.Array],
        weights: Tensor,
        noise: Tensor | None,
        means: Tensor | None,
    ) -> tuple[dict[str, pa.Array], Counter[str]]:
        """The columns that replace or follow what is recorded of some models, each at an epoch, all tensors [K, D]; and
        how many recorded losses are as recomputed."""
        compared: Counter[str] = Counter()
        count = len(models)
        trained = [model.columns.get("epochs_train") for model in models]
        betas = [None if last is None else kl_weight(epoch, last) for epoch, last in zip(epochs, trained, strict=True)]
        columns: dict[str, pa.Array] = {name: pa.nulls(count, pa.float32()) for name in RECORDED}
        if self._keep:
            columns |= {column: recorded[name] for name, column in RECORDED.items()}
            columns[KL_WEIGHT] = pa.array(betas, pa.float64())
        if self._data is None:
            return columns, compared
        kl = None if noise is None or means is None else total_kl(self._network.layers, means, noise).tolist()
        for split in self._computed:
            loss, accuracy = self._evaluate(self._data, models, weights, split)
            columns[f"{split}_loss"] = pa.array(loss, pa.float32())
            columns[f"{split}_acc"] = pc.coalesce(recorded[f"{split}_acc"], pa.array(accuracy, pa.float32()))
            for index, said in enumerate(recorded[f"{split}_loss"].to_pylist()):
                if said is not None:
                    compared[_verdict(said, loss[index], betas[index], None if kl is None else kl[index])] += 1
        return columns, compared

    def _evaluate(
        self, data: ImageData, models: Sequence[Model], weights: Tensor, split: str
    ) -> tuple[list[float], list[float]]:
        """Cross-entropy and accuracy of each model, those of one activation in one stack."""
        loss, accuracy = torch.zeros(2, len(models), dtype=torch.float64)
        activations = [model.columns["activation"] for model in models]
        for activation in sorted(set(activations)):
            places = torch.tensor([index for index, own in enumerate(activations) if own == activation])
            with self._evaluating:
                results = evaluate(weights[places], data, self._network.architecture, activation, split)
            loss[places], accuracy[places] = results
        return loss.tolist(), accuracy.tolist()


def _verdict(said: float, loss: float, beta: float | None, kl: float | None) -> str:
    """Whether a recorded loss is the recomputed cross-entropy + β·KL."""
    if beta is None or kl is None:
        return "without log σ² or the number of epochs"
    return "as recomputed" if math.isfinite(loss) and same_loss(said, loss + beta * kl) else "not as recomputed"
