"""What a report shows of predictors of classes: fields whose label they got wrong, beside some that they got right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from zoo_datasets.errors import ImagesError, LayoutError, SpecError
from zoo_datasets.evaluation.benchmark.model_record import read_models
from zoo_datasets.evaluation.benchmark.models import ModelFit
from zoo_datasets.evaluation.benchmark.samples import SampleRows
from zoo_datasets.evaluation.benchmark.targets import Target, as_classes, is_finite, values_for
from zoo_datasets.evaluation.report.fields import pictures_of
from zoo_datasets.images.signals import Signals
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.repository.row import KEY
from zoo_datasets.repository.where import conditions_in

_SHOWN = 18  # of the wrong ones, and of the right ones
_SIDES = ("wrong", "right")

Key = tuple[Any, ...]


def gather_errors(
    repo: str | Path, name: str, benchmark: Path, signals: Signals | None, notes: list[str]
) -> dict[str, Any]:
    """The table of a benchmark of predictors, and of each class and predictor networks of the config's test rows that
    the first seed got wrong, and right.

    Args:
        benchmark: the file of `zoo benchmark --models … --out`.
        signals: the images that the networks were fitted to, shown beside what they draw; None leaves these out.
        notes: what the reader of the page is to be told is added.

    Raises:
        RepositoryError: if it is no such file, or one of other rows.
    """
    data, record = read_models(repo, benchmark)
    panels = [
        _panel(target.name, _classes(target, rows), fit, name, _keys(rows))
        for rows in data.tests
        if rows.zoo == name
        for target in data.targets
        if not target.numeric
        for fit in _first_seeds(record.fits, target.name)
    ]
    wanted = {key for panel in panels for side in _SIDES for key, _ in panel[side]}
    try:
        drawn = _drawn(repo, name, sorted(wanted, key=str), signals, notes) if wanted else {}
    except (SpecError, LayoutError, ImagesError) as error:
        notes.append(f"What predictors got wrong was not drawn: {error}")
        panels = []
    for panel in panels:
        for side in _SIDES:
            panel[side] = [drawn[key] | {"label": label} for key, label in panel[side]]
    return {"predictors": record.to_dict() | {"fits": []}, "errors": panels}


def _first_seeds(fits: Sequence[ModelFit], task: str) -> list[ModelFit]:
    first: dict[str, ModelFit] = {}
    for fit in sorted(fits, key=lambda fit: fit.seed):
        if fit.task == task:
            first.setdefault(fit.model, fit)
    return list(first.values())


def _classes(target: Target, rows: SampleRows) -> list[str | None]:
    """The true class of each row; None where it is not known."""
    values = values_for(target, rows)
    known = is_finite(values)
    classes = np.full(len(values), None, dtype=object)
    classes[known] = as_classes(values[known])
    return cast(list[str | None], classes.tolist())


def _keys(rows: SampleRows) -> list[Key]:
    """What tells each row: model, epoch and step."""
    names = [name for name in KEY if name in rows.data.column_names]
    return [tuple(row.values()) for row in rows.table(names).to_pylist()]


def _panel(target: str, truth: Sequence[str | None], fit: ModelFit, zoo: str, keys: Sequence[Key]) -> dict[str, Any]:
    """The rows to show, each with what is said of it: true and predicted class."""
    predicted = fit.outcome[zoo][target]
    known = [at for at, label in enumerate(truth) if label is not None]
    sides: dict[str, Any] = {}
    for side, right in zip(_SIDES, (False, True), strict=True):
        places = [at for at in known if (truth[at] == predicted[at]) is right]
        sides[side] = [
            (keys[at], str(truth[at]) if right else f"{truth[at]} → {predicted[at]}")
            for at in _of_all_classes(places, truth)
        ]
        sides[f"{side}_of"] = len(places)
    return {"target": target, "model": fit.model, **sides}


def _of_all_classes(places: Sequence[int], truth: Sequence[str | None]) -> list[int]:
    """Some places, of all classes alike, ordered by class."""
    seen: dict[str | None, int] = {}
    ranked = []
    for at in places:
        seen[truth[at]] = seen.get(truth[at], 0) + 1
        ranked.append((seen[truth[at]], at))
    taken = [at for _, at in sorted(ranked)[:_SHOWN]]
    return sorted(taken, key=lambda at: (str(truth[at]), at))


def _drawn(
    repo: str | Path, name: str, keys: Sequence[Key], signals: Signals | None, notes: list[str]
) -> dict[Key, dict[str, Any]]:
    """What networks draw, by their keys."""
    conditions = conditions_in("model_id", list(dict.fromkeys(str(key[0]) for key in keys)))
    loaded = [cast(DatasetDict, load_zoo(repo, name, where=condition)) for condition in conditions]
    rows: Dataset = concatenate_datasets([split for part in loaded for split in part.values()])
    names = [column for column in KEY if column in rows.column_names]
    place = {key: at for at, key in enumerate(zip(*(rows[column][:] for column in names), strict=True))}
    pictures = pictures_of(rows.select([place[key] for key in keys]), signals, notes)
    return dict(zip(keys, pictures, strict=True))
