"""How well models predict, and by how much the best one is better than the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_datasets.evaluation.benchmark import scores
from zoo_datasets.evaluation.benchmark.models import ModelFit, ModelSettings
from zoo_datasets.evaluation.benchmark.run import Data, baseline_of
from zoo_datasets.evaluation.benchmark.samples import SampleRows
from zoo_datasets.evaluation.benchmark.scores import Sampled, Score
from zoo_datasets.evaluation.benchmark.targets import Target, is_finite
from zoo_datasets.evaluation.benchmark.tasks import form_of, scaled_values, tasks_of
from zoo_datasets.predictors import get_predictor
from zoo_datasets.predictors.predictor import TargetForm


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResult:
    """How well one model predicts one target in one test zoo.

    Attributes:
        kind, scale, baseline: as of `Result`.
        scores: the mean over seeds, with its interval over groups.
        by_seed: each seed's.
        ceiling: the largest τ that predictions without ties can have; None of classes.
        seconds: of all seeds and the choice, for all targets that were learned together.
        invariant: under which changes of the weights, that keep the function, predictions stay.
    """

    test: str
    target: str
    kind: str
    scale: str
    model: str
    scores: Mapping[str, Score]
    by_seed: Mapping[str, tuple[float, ...]]
    baseline: float
    ceiling: float | None
    chosen: Mapping[str, Any]
    rows: int
    groups: int
    parameters: int
    steps: int
    seconds: float
    memory: int
    invariant: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The best model of a target less another one, on the same test rows, with the same draws of groups."""

    test: str
    target: str
    best: str
    other: str
    metric: str
    difference: Score


def results_of(
    data: Data, settings: ModelSettings, fits: Sequence[ModelFit]
) -> tuple[list[ModelResult], list[Comparison]]:
    """The scores of all models of which every seed is there, by target, and the best of each target less the others."""
    results: list[ModelResult] = []
    comparisons: list[Comparison] = []
    for task in tasks_of(data):
        for target in task.targets:
            form = form_of(target, data)
            for rows in data.tests:
                sampled: dict[str, dict[str, Sampled]] = {}
                for model in settings.models:
                    mine = [fit for fit in fits if (fit.model, fit.task) == (model, task.name)]
                    if len(mine) == settings.seeds:
                        result, by_metric = _result(data, settings, rows, target, form, mine)
                        if result is not None:
                            results.append(result)
                            sampled[model] = by_metric
                comparisons += _compared(rows.zoo, target.name, sampled)
    return results, comparisons


def _result(
    data: Data, settings: ModelSettings, rows: SampleRows, target: Target, form: TargetForm, fits: list[ModelFit]
) -> tuple[ModelResult | None, dict[str, Sampled]]:
    truth = scaled_values(target, form, rows)
    known = is_finite(truth)
    truth, groups = truth[known], rows.group_codes[known]
    if not len(truth):
        return None, {}
    kinds = {
        "number": {"r2": scores.sampled_r2, "kendall": scores.sampled_kendall},
        "class": {"accuracy": scores.sampled_accuracy},
    }[form.kind]
    by_seed: dict[str, list[Sampled]] = {name: [] for name in kinds}
    for fit in fits:
        predicted = np.array(fit.outcome[rows.zoo][target.name])[known]
        for name, function in kinds.items():
            by_seed[name].append(function(truth, predicted, groups, settings.resamples))
    means = {name: Sampled.mean(parts) for name, parts in by_seed.items()}
    train = scaled_values(target, form, data.train)
    train = train[is_finite(train)]
    result = ModelResult(
        test=rows.zoo, target=target.name, kind=form.kind, scale=form.scale, model=fits[0].model,
        scores={name: mean.score() for name, mean in means.items()},
        by_seed={name: tuple(part.value for part in parts) for name, parts in by_seed.items()},
        baseline=baseline_of(form.kind, train, truth),
        ceiling=scores.kendall_ceiling(truth) if form.kind == "number" else None,
        chosen=fits[0].chosen, rows=len(truth), groups=len(np.unique(groups)), parameters=fits[0].parameters,
        steps=int(np.mean([fit.steps for fit in fits])),
        seconds=sum(fit.seconds for fit in fits) + fits[0].choice_seconds, memory=max(fit.memory for fit in fits),
        invariant=get_predictor(fits[0].model).invariant,
    )  # fmt: skip
    return result, means


def _compared(test: str, target: str, sampled: Mapping[str, Mapping[str, Sampled]]) -> list[Comparison]:
    comparisons = []
    for metric in dict.fromkeys(name for by_metric in sampled.values() for name in by_metric):
        values = {model: by_metric[metric] for model, by_metric in sampled.items()}
        best = max(values, key=lambda model: values[model].value)
        comparisons += [
            Comparison(
                test=test,
                target=target,
                best=best,
                other=model,
                metric=metric,
                difference=values[best].less(other).score(),
            )
            for model, other in values.items()
            if model != best
        ]
    return comparisons
