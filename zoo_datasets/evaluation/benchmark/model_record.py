"""A benchmark of models on disk: every training is kept as soon as it is there, and an interrupted one goes on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo_datasets.documents import brief, read_json
from zoo_datasets.errors import RepositoryError
from zoo_datasets.evaluation.benchmark.files import MODELS, check_same, counts_of, read_benchmark, rows_of
from zoo_datasets.evaluation.benchmark.model_results import Comparison, ModelResult, results_of
from zoo_datasets.evaluation.benchmark.models import ModelFit, ModelSettings, fit_all
from zoo_datasets.evaluation.benchmark.run import Data, read_data
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import write_json
from zoo_datasets.storage.folders import check_output
from zoo_datasets.terminal import Advance

MODEL_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """The results of a benchmark of models, and all that they were made from.

    Attributes:
        rows, skipped, left_out, identity: as of `Record`.
        refused: [{"model", "task", "reason"}, …]: models that cannot read these networks.
        fits: each training, with its predictions of the test rows.
        results, comparisons: what follows from them, when all are there.
    """

    settings: ModelSettings
    rows: tuple[Mapping[str, Any], ...]
    skipped: Mapping[str, str]
    left_out: int
    identity: str
    refused: tuple[Mapping[str, str], ...] = ()
    fits: tuple[ModelFit, ...] = ()
    results: tuple[ModelResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is not finite is null."""
        parts = {name: _plain(getattr(self, name)) for name in ("rows", "refused", "fits", "results", "comparisons")}
        return {
            "format": MODEL_FORMAT, "kind": MODELS, "settings": asdict(self.settings), "skipped": dict(self.skipped),
            "left_out": self.left_out, "identity": self.identity, **parts,
        }  # fmt: skip


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_fits(path: Path, identity: str) -> tuple[ModelFit, ...]:
    """The trainings that a file holds, of a benchmark with this identity.

    Raises:
        RepositoryError: if it is the file of another benchmark, or none; names it.
    """

    def fits_of(value: dict[str, Any]) -> tuple[ModelFit, ...]:
        check_same(path, value["identity"], identity)
        fits = tuple(ModelFit(**entry) for entry in value["fits"])
        for fit in fits:
            if not isinstance(fit.outcome, dict) or not isinstance(fit.chosen, dict) or not isinstance(fit.seed, int):
                raise RepositoryError(f"{path}: a training without predictions, settings or seed; delete the file")
        return fits

    return read_benchmark(path, MODELS, MODEL_FORMAT, fits_of)


def read_models(repo: str | Path, path: Path) -> tuple[Data, ModelRecord]:
    """The rows that a benchmark's file is of, and the record, its results computed anew from the predictions.

    Raises:
        RepositoryError: if it is no file of a benchmark of models, or one of other rows than the repository has.
    """

    def recorded(value: dict[str, Any]) -> tuple[dict[str, Any], str]:
        return value["settings"], value["identity"]

    given, identity = read_benchmark(path, MODELS, MODEL_FORMAT, recorded)
    try:
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in given.items()}
        settings = ModelSettings(**{**values, "device": "cpu"})  # the rows are only read
    except (TypeError, AttributeError) as error:
        raise RepositoryError(f"{path} is no benchmark's file: {brief(str(error))}; name another file") from error
    data = read_data(repo, settings)
    record = _empty(data, settings, given)
    if identity != record.identity:
        raise RepositoryError(f"{path} holds a benchmark of other rows than those of {repo}; run it again on these")
    fits = read_fits(path, record.identity)
    try:
        for fit, rows in itertools.product(fits, data.tests):
            if any(len(values) != len(rows) for values in fit.outcome[rows.zoo].values()):
                raise RepositoryError(f"{path}: {brief(fit.model)} has not one prediction for each row of {rows.zoo}")
        results, comparisons = results_of(data, settings, fits)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, RepositoryError):
            raise
        raise RepositoryError(f"{path}: its predictions cannot be read: {brief(str(error))}; run it again") from error
    return data, dataclasses.replace(record, fits=fits, results=tuple(results), comparisons=tuple(comparisons))


def is_of_models(path: Path) -> bool:
    """Whether a file holds a benchmark of models, and not one of features.

    Raises:
        RepositoryError: if it is no JSON file.
    """
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{path} is no benchmark's file: {error}; name another file") from error
    return isinstance(value, dict) and value.get("kind") == MODELS


def run_models(
    repo: str | Path,
    settings: ModelSettings,
    *,
    out: Path | None = None,
    save: Path | None = None,
    revision: str | None = None,
    progress: Advance | None = None,
) -> ModelRecord:
    """Compare models on zoos of a repository.

    Args:
        out: a JSON file that is written after each training. A file of the same settings and rows is continued.
        save: a folder for the trained predictors.

    Raises:
        RepositoryError: if `out` is the file of something else, or the zoos cannot be used; see `read_data`.
    """
    for path in (out, save):
        if path is not None:
            check_output(path)
    data = read_data(repo, settings, revision)
    record = _empty(data, settings)
    fits = list(read_fits(out, record.identity)) if out is not None and out.exists() else []
    refused: list[dict[str, str]] = []

    def refuse(model: str, task: str, reason: str) -> None:
        refused.append({"model": model, "task": task, "reason": reason})

    def keep(**results: Any) -> ModelRecord:
        kept = dataclasses.replace(record, refused=tuple(refused), fits=tuple(fits), **results)
        if out is not None:
            write_json(out, kept.to_dict())
        return kept

    for fit in fit_all(data, settings, done=tuple(fits), skipped=refuse, progress=progress, save=save):
        fits.append(fit)
        keep()
    results, comparisons = results_of(data, settings, fits)
    return keep(results=tuple(results), comparisons=tuple(comparisons))


def _empty(data: Data, settings: ModelSettings, recorded: Mapping[str, Any] | None = None) -> ModelRecord:
    """A record without results; `recorded` are the settings as a file has them."""
    return ModelRecord(
        settings=settings,
        rows=counts_of(data),
        skipped=data.skipped,
        left_out=data.left_out,
        identity=digest_of([MODELS, asdict(settings) if recorded is None else recorded, rows_of(data)]),
    )
