"""One model of a zoo: its recipe, its figures over epochs, and what is in its tensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pyarrow.compute as pc
from datasets import DatasetDict

from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.evaluation import population
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.modules import to_state_dict
from zoo_datasets.repository.where import conditions_in
from zoo_datasets.text import counted

_STATE = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "ggap", "sparsity")


def describe(repo: str | Path, name: str, model: str | None = None, epoch: int | None = None) -> dict[str, Any]:
    """A model at one epoch, as JSON values.

    Args:
        repo, name: a repository, here or on the Hub, and its config.
        model: its `model_id`, or a beginning that only one has; None takes the best by validation accuracy.
        epoch: None takes the last one, or of the best model that at which it is best.

    Returns:
        Its `recipe` (the columns that are known), `states` (figures of each epoch) and `tensors` (name, shape, mean,
        standard deviation, box, and the share of zeros).

    Raises:
        UnknownNameError: if no model has such an id.
        RepositoryError: if several have, the epoch is missing, or no row records a validation accuracy.
    """
    table = population.read_figures(repo, name)
    if model is None:
        row = population.best(table if epoch is None else population.at_epoch(table, epoch))
        if row is None:
            raise RepositoryError(f"{name}: no row records a validation accuracy; name a model instead of the best")
        model, epoch = str(row["model_id"]), int(row["epoch"])
    else:
        model = _whole_id(table["model_id"].unique().to_pylist(), model)
    own = table.filter(pc.equal(table["model_id"], model)).sort_by("epoch")
    epochs = own["epoch"].to_pylist()
    epoch = epochs[-1] if epoch is None else epoch
    if epoch not in epochs:
        raise RepositoryError(f"{model} has the epochs {epochs}, not {epoch}")
    (condition,) = conditions_in("model_id", [model])
    parts = cast(DatasetDict, load_zoo(repo, name, epochs=[epoch], where=condition))
    (row,) = [row for part in parts.values() for row in part]
    known = {key: value for key, value in own.slice(epochs.index(epoch), 1).to_pylist()[0].items() if value is not None}
    return {
        "zoo": name,
        "model_id": model,
        "epoch": epoch,
        "recipe": {key: value for key, value in known.items() if key not in (*_STATE, "zoo", "model_id")},
        "states": own.select(_STATE).to_pylist(),
        "tensors": [_tensor(key, tensor) for key, tensor in to_state_dict(row).items()],
    }


def _whole_id(models: list[str], beginning: str) -> str:
    """The id that begins so."""
    if beginning in models:
        return beginning
    matches = [model for model in models if model.startswith(beginning)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UnknownNameError("model", beginning, models)
    raise RepositoryError(f"{counted(len(matches), 'model')} begin with {beginning!r}: {', '.join(matches[:3])} …")


def _tensor(name: str, tensor: Any) -> dict[str, Any]:
    values = tensor.double().flatten()
    box = population.box(values.tolist()) if len(values) else None
    return {
        "name": name,
        "shape": list(tensor.shape),
        "mean": float(values.mean()) if box else None,
        "std": float(values.std(correction=0)) if box else None,
        "zeros": float((values == 0).double().mean()) if box else None,
        "box": None if box is None else asdict(box),
    }
