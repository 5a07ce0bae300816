"""Predictors against each other: the same rows, the same groups, the same budget, one table.

Each model is trained on the training split, chosen on validation (its settings by short runs, and within a run the
moment that is kept), and measured once on the test splits, with several seeds. All numbers are learned together, each
class by itself. The budget is a model's in a zoo: it holds targets, choice and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_datasets.errors import SpecError, ZooError
from zoo_datasets.evaluation.benchmark.memory import measured
from zoo_datasets.evaluation.benchmark.run import Data
from zoo_datasets.evaluation.benchmark.samples import SampleRows
from zoo_datasets.evaluation.benchmark.targets import check_targets
from zoo_datasets.evaluation.benchmark.tasks import Task, Values, form_of, scaled_values, tasks_of
from zoo_datasets.loading.load import SplitBy
from zoo_datasets.loading.modules import layers_of_row
from zoo_datasets.loading.samples import SampleForm
from zoo_datasets.predictors import get_predictor
from zoo_datasets.predictors.augment import check_augmentations
from zoo_datasets.predictors.base import WeightSpace
from zoo_datasets.predictors.fit import Plan, Rows
from zoo_datasets.predictors.predictor import ACTIVATION, Predictor, TargetForm
from zoo_datasets.repository.row import WEIGHTS

# Share of the budget that is for the choice of settings.
CHOICE = 0.25
_LIMIT = 8_000_000_000
_PARTS = 1000  # of a fit, for progress
_READ = 8192

Outcome = dict[str, dict[str, list[Any]]]
# Settings, and the seconds that their choice took.
Chosen = tuple[Mapping[str, Any], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """What is compared and how.

    Attributes:
        train, tests, where, split_by, resamples: as of `Settings` of the benchmark of features.
        models: names of `zoo_datasets.predictors.PREDICTORS`.
        targets: columns; texts, truth values and labels are classes, and `COLUMN:class` is one.
        seeds: how often each model is trained.
        budget: seconds for a model in a zoo: all targets, choice and seeds.
        epochs: passes over the training rows, at most, of each training.
        augment: any of `permute`, `scale` and `noise`.
    """

    train: str
    tests: tuple[str, ...]
    models: tuple[str, ...]
    targets: tuple[str, ...] = ("test_acc",)
    where: str | None = None
    split_by: SplitBy = "model"
    seeds: int = 3
    budget: float = 180.0
    epochs: int | None = None
    augment: tuple[str, ...] = ()
    device: str = "cpu"
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not self.models:
            raise SpecError("no model was named; see zoo benchmark --help")
        for name in self.models:
            get_predictor(name)
        check_targets(self.targets)
        check_augmentations(self.augment)
        if not self.tests:
            raise SpecError("no zoo to test on was named")
        if self.seeds < 1 or not self.budget > 0:
            raise SpecError(f"{self.seeds} seeds in {self.budget:g} s: expected at least one, in more than no time")
        _check_device(self.device)


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpecError(f"there is no device {name!r}: {line[:200]}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFit:
    """One model, trained once.

    Attributes:
        task: `numbers`, or the class that is learned.
        chosen: the settings that were best on validation.
        error: on validation; see `zoo_datasets.predictors.fit.Trained`.
        seconds: of training; `choice_seconds` those of the choice, told with each seed.
        memory: bytes at most, beyond those before.
        outcome: test zoo to target to the prediction of each of its rows.
    """

    model: str
    task: str
    seed: int
    chosen: Mapping[str, Any]
    error: float
    steps: int
    epochs: float
    seconds: float
    choice_seconds: float
    memory: int
    parameters: int
    outcome: Outcome


@dataclass
class Learning:
    """A task's rows in memory.

    Attributes:
        tests: weights and codes of activations of each test zoo.
    """

    space: WeightSpace
    forms: tuple[TargetForm, ...]
    train: Rows
    validation: Rows
    tests: list[tuple[SampleRows, Tensor, Tensor]] = field(default_factory=list)


class Benchmark:
    """Trains models on the rows of a benchmark; their weights are read once."""

    def __init__(self, data: Data, settings: ModelSettings) -> None:
        self.data, self.settings = data, settings
        size = 4 * data.train.layout.size * sum(map(len, data.parts))
        if size > _LIMIT:
            raise SpecError(
                f"all weights together are {size / 1e9:.1f} GB, at most {_LIMIT / 1e9:.0f} are held in memory; choose "
                "fewer rows by a condition, as epoch == 50"
            )
        self._weights = [_weights_of(part) for part in data.parts]
        self._activations = [_activations_of(part) for part in data.parts]
        self._layers = layers_of_row(data.train.data[int(data.train.kept[0])])

    def learning(self, task: Task) -> Learning:
        """The rows of a task. A class that is to be predicted is not told: neither are activations then."""
        parts = self.data.parts
        told = task.name != ACTIVATION and all(names is not None for names in self._activations)
        names = sorted({name for part in self._activations for name in part or ()}) if told else []
        space = WeightSpace(self._layers, tuple(names))
        codes = [
            space.codes(part) if told and part is not None else torch.zeros(len(rows), dtype=torch.int64)
            for part, rows in zip(self._activations, parts, strict=True)
        ]
        forms = tuple(form_of(target, self.data) for target in task.targets)
        encoded = [self._encoded(rows, forms, task) for rows in parts[:2]]
        kept = [~values.isnan().all(dim=1) if values.dtype != torch.int64 else values >= 0 for values in encoded]
        train, validation = (
            Rows(self._weights[place][kept[place]], codes[place][kept[place]], encoded[place][kept[place]])
            for place in (0, 1)
        )
        tests = list(zip(self.data.tests, self._weights[2:], codes[2:], strict=True))
        return Learning(space, forms, train, validation, tests)

    def _encoded(self, rows: SampleRows, forms: tuple[TargetForm, ...], task: Task) -> Tensor:
        columns = [
            form.encoded(scaled_values(target, form, rows)) for form, target in zip(forms, task.targets, strict=True)
        ]
        return columns[0] if forms[0].kind == "class" else torch.stack(columns, dim=1)

    def refusal(self, model: str, learning: Learning) -> str | None:
        """Why a model cannot read these networks, or learn this; None where it can."""
        try:
            Predictor.untrained(model, learning.space, learning.forms, get_predictor(model).choices[0])
        except ZooError as error:
            return str(error)
        return None

    def choose(self, model: str, learning: Learning, seconds: float) -> Chosen:
        """The settings of a model that are best on validation after a short training each, and the seconds that it
        took."""
        choices = get_predictor(model).choices
        if len(choices) == 1:
            return choices[0], 0.0
        errors, used = [], 0.0
        for choice in choices:
            plan = self._plan(seconds / len(choices), 0)
            trained = self._train(model, learning, plan, choice).trained
            assert trained is not None
            errors.append(trained.error)
            used += trained.seconds
        return choices[int(np.argmin(errors))], used

    def fit(
        self,
        model: str,
        task: Task,
        learning: Learning,
        chosen: Chosen,
        seed: int,
        seconds: float,
        tick: Callable[[float], None] | None,
        save: Path | None,
    ) -> ModelFit:
        """Train a model once, and let it predict the test rows."""
        with measured(self.settings.device) as memory:
            predictor = self._train(model, learning, self._plan(seconds, seed), chosen[0], tick)
        trained = predictor.trained
        assert trained is not None
        outcome: Outcome = {}
        for rows, weights, codes in learning.tests:
            outputs = predictor.outputs(weights, codes, self.settings.device)
            outcome[rows.zoo] = {
                form.name: _listed(form.decoded(outputs if form.kind == "class" else outputs[:, place]))
                for place, form in enumerate(learning.forms)
            }
        if save is not None:
            predictor.save(save / f"{model}-{task.name}-{seed}")
        return ModelFit(
            model=model, task=task.name, seed=seed, chosen=dict(chosen[0]), error=trained.error, steps=trained.steps,
            epochs=trained.epochs, seconds=trained.seconds, choice_seconds=chosen[1], memory=memory.bytes,
            parameters=predictor.model.parameters_count, outcome=outcome,
        )  # fmt: skip

    def _plan(self, seconds: float, seed: int) -> Plan:
        settings = self.settings
        return Plan(
            seconds=seconds, epochs=settings.epochs, seed=seed, augment=settings.augment, device=settings.device
        )

    def _train(
        self,
        model: str,
        learning: Learning,
        plan: Plan,
        config: Mapping[str, Any],
        tick: Callable[[float], None] | None = None,
    ) -> Predictor:
        return Predictor.train(
            model, learning.space, learning.forms, learning.train, learning.validation, plan, config, tick
        )


Skipped = Callable[[str, str, str], None]


def fit_all(
    data: Data,
    settings: ModelSettings,
    *,
    done: Sequence[ModelFit] = (),
    skipped: Skipped | None = None,
    progress: Callable[[int, int], None] | None = None,
    save: Path | None = None,
) -> Iterator[ModelFit]:
    """Train every model on every task with every seed.

    Args:
        done: of an earlier call with the same settings; these are not trained again.
        skipped: called with (model, task, reason) where a model cannot read the networks.
        progress: called with (done, total) thousandths of a training.
        save: a folder that each predictor is saved into, as `nfn-numbers-0`.
    """
    bench = Benchmark(data, settings)
    tasks = tasks_of(data)
    have = {(fit.model, fit.task, fit.seed): fit for fit in done}
    total = len(settings.models) * len(tasks) * settings.seeds
    share = settings.budget / max(len(tasks), 1)
    count = 0

    def told(part: float) -> None:
        if progress:
            progress(int(_PARTS * (count + part)), _PARTS * total)

    for task in tasks:
        learning = bench.learning(task)
        for model in settings.models:
            missing = [seed for seed in range(settings.seeds) if (model, task.name, seed) not in have]
            count += settings.seeds - len(missing)
            earlier = next((fit for fit in have.values() if (fit.model, fit.task) == (model, task.name)), None)
            if missing and (reason := bench.refusal(model, learning)) is not None:
                count += len(missing)
                if skipped:
                    skipped(model, task.name, reason)
                continue
            chosen: Chosen = ({}, 0.0)
            if earlier is not None:
                chosen = (earlier.chosen, earlier.choice_seconds)
            elif missing:
                chosen = bench.choose(model, learning, CHOICE * share)
            training = (1 - CHOICE if len(get_predictor(model).choices) > 1 else 1) * share
            for seed in missing:
                fit = bench.fit(model, task, learning, chosen, seed, training / settings.seeds, told, save)
                count += 1
                told(0)
                yield fit


def _weights_of(rows: SampleRows) -> Tensor:
    """The weights of a split, float32 [N, D]."""
    parts = [
        rows.reader.read(slice(start, min(start + _READ, len(rows))), SampleForm())[WEIGHTS]
        for start in range(0, len(rows), _READ)
    ]
    return torch.cat([part.to(torch.float32) for part in parts])


def _activations_of(rows: SampleRows) -> list[str] | None:
    """The activation of each row; None where a row has none."""
    if ACTIVATION not in rows.data.column_names:
        return None
    names = rows.column(ACTIVATION).to_pylist()
    return names if all(isinstance(name, str) for name in names) else None


def _listed(values: Values) -> list[Any]:
    """As JSON values: numbers of 7 digits, as float32 has."""
    if values.dtype.kind == "f":
        return [float(f"{value:.7g}") for value in values]
    return [str(value) for value in values]
