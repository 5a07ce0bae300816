"""The downstream tasks of the model zoo paper: what simple probes read from the weights of a model.

Linear probes and gradient boosting on features of the weights predict figures and hyperparameters (Schürholt et al.,
2022, section 4; Unterthiner et al., 2020). Probes learn from the training split, choose on validation and are scored
on test; no model is in two splits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.evaluation.benchmark import paper, probes, scores
from zoo_datasets.evaluation.benchmark.probes import Fold, Prediction
from zoo_datasets.evaluation.benchmark.samples import SampleRows, check_apart, features_of, read_splits, types_of
from zoo_datasets.evaluation.benchmark.scores import Numbers, Score
from zoo_datasets.evaluation.benchmark.targets import (
    DEFAULT_TARGETS,
    Target,
    as_classes,
    check_targets,
    columns_of,
    get_targets,
    is_finite,
    logarithmic,
    values_for,
)
from zoo_datasets.evaluation.features import Feature, get_features
from zoo_datasets.loading.load import SplitBy
from zoo_datasets.terminal import Advance

DEFAULT_FEATURES = ("weights", "statistics")
NUMBER, CLASS = "number", "class"
ProtocolName = Literal["standard", "paper"]
PROTOCOLS: Final = get_args(ProtocolName)
# Feature matrices of more bytes than this are refused: the machine would begin to swap.
_LIMIT = 8_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is benchmarked and how.

    Attributes:
        train: the zoo that probes learn from and choose on.
        tests: the zoos that they are tested on, of the same architecture.
        where: a condition on rows; see `zoo_datasets.repository.where`.
        split_by: `seed` keeps models that started from equal weights in one split; `source` is the authors' own split.
        protocol: `paper` computes as the authors of the model zoos do (`zoo_datasets.evaluation.benchmark.paper`).
        fit_rows: PCA and the like are fitted on so many training rows, drawn at random.
        class_rows: logistic regression learns from so many training rows, drawn at random; None means all.
        iterations: of logistic regression's solver, for each penalty.
        resamples: of the bootstrap over models.
    """

    train: str
    tests: tuple[str, ...]
    features: tuple[str, ...] = DEFAULT_FEATURES
    targets: tuple[str, ...] = DEFAULT_TARGETS
    where: str | None = None
    split_by: SplitBy = "model"
    fit_rows: int = 10_000
    class_rows: int | None = None
    iterations: int = 100
    resamples: int = 1000
    protocol: ProtocolName = "standard"

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", self.protocol, PROTOCOLS)
        get_features(list(self.features))
        check_targets(self.targets)
        if not self.tests:
            raise SpecError("no zoo to test on was named")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How well one probe predicts one target from one feature in one test zoo.

    Attributes:
        kind: whether the target is predicted as a `number` or as a `class`.
        scale: `log10` if the number was predicted as its logarithm, else `linear`.
        scores: r2 and kendall of numbers, accuracy of classes.
        baseline: the same for the training split's mean or most frequent class; its τ is 0.
        chosen: the settings of the probe that were best on validation.
        rows, models: of the test split, as far as the target is known.
    """

    test: str
    target: str
    kind: str
    scale: str
    feature: str
    probe: str
    scores: Mapping[str, Score]
    baseline: float
    chosen: Mapping[str, float]
    rows: int
    models: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is not finite, as R² of one row, is null."""
        value = asdict(self)
        value["scores"] = {name: {k: _finite(v) for k, v in score.items()} for name, score in value["scores"].items()}
        return value | {"baseline": _finite(self.baseline)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Result:
        """The inverse of `to_dict`."""
        scores = {
            name: Score(**{part: _number(number) for part, number in score.items()})
            for name, score in value["scores"].items()
        }
        return cls(**{**value, "scores": scores, "baseline": _number(value["baseline"])})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


Finished = Callable[[Result], None]


@dataclass(frozen=True, slots=True)
class Data:
    """The splits that a benchmark reads.

    Attributes:
        skipped: targets that cannot be predicted here, and why.
    """

    train: SampleRows
    validation: SampleRows
    tests: tuple[SampleRows, ...]
    targets: tuple[Target, ...]
    skipped: Mapping[str, str]

    @property
    def parts(self) -> tuple[SampleRows, ...]:
        """All splits: training, validation, then the tests."""
        return (self.train, self.validation, *self.tests)

    @property
    def left_out(self) -> int:
        """Rows with weights that are not finite."""
        return sum(rows.left_out for rows in self.parts)


class Reading(Protocol):
    """What settings say of the rows that are read."""

    @property
    def train(self) -> str: ...

    @property
    def tests(self) -> tuple[str, ...]: ...

    @property
    def targets(self) -> tuple[str, ...]: ...

    @property
    def where(self) -> str | None: ...

    @property
    def split_by(self) -> SplitBy: ...


def read_data(repo: str | Path, settings: Reading, revision: str | None = None) -> Data:
    """The training and validation split of one zoo and the test splits of the zoos to test on.

    Raises:
        RepositoryError: if a split has no rows, or a model is in two of them.
        SpecError: if the zoos differ in architecture.
    """
    options: dict[str, Any] = {"where": settings.where, "split_by": settings.split_by, "revision": revision}
    read = {
        name: read_splits(repo, name, columns_of(settings.targets), **options)
        for name in dict.fromkeys([settings.train, *settings.tests])
    }
    train, validation = (_split(read[settings.train], settings.train, split) for split in ("train", "validation"))
    tests = tuple(_split(read[name], name, "test") for name in settings.tests)
    for test in tests:
        if test.layout != train.layout:
            raise SpecError(f"{test.zoo} has other tensors than {train.zoo}; probes need one architecture")
        for rows in (train, validation):
            check_apart(rows, test)
    targets, skipped = [], {}
    for target in get_targets(settings.targets, types_of(train)):
        values = [values_for(target, rows) for rows in (train, validation)]
        reason = _why_not(*(part[is_finite(part)] for part in values))
        if reason is None:
            targets.append(target)
        else:
            skipped[target.name] = reason
    return Data(train, validation, tests, tuple(targets), skipped)


def _split(parts: Mapping[str, SampleRows], zoo: str, split: str) -> SampleRows:
    if split not in parts or not len(parts[split]):
        raise RepositoryError(
            f"{zoo} has no rows in the {split} split; a benchmark needs all three: build more models into it"
        )
    return parts[split]


def _why_not(train: NDArray[Any], validation: NDArray[Any]) -> str | None:
    if not len(train) or not len(validation):
        return "not known in training and validation"
    different = set(train.tolist())
    return f"always {as_classes(train[:1])[0]} in training" if len(different) == 1 else None


def benchmark(
    data: Data,
    settings: Settings,
    *,
    done: Sequence[Result] = (),
    finished: Finished | None = None,
    progress: Advance | None = None,
) -> list[Result]:
    """Predict every target from every feature; see `Settings`.

    Args:
        done: results of an earlier call with the same settings, which are not computed again.
        finished: called with each result as soon as it is computed.
        progress: called with (done, total) probes.
    """
    features = get_features(list(settings.features))
    tasks = [(feature, task) for feature in features for task in _tasks(feature, data, settings)]
    finished_before = {(result.feature, result.probe, result.target, result.kind): result for result in done}
    results = list(done)
    count = 0
    for feature in features:
        mine = [task for other, task in tasks if other is feature]
        todo = [task for task in mine if (feature.name, task.probe, task.target.name, task.kind) not in finished_before]
        count += len(mine) - len(todo)
        if todo:
            fold = _fold(feature, data, settings)
            for group in _run(feature, todo, fold, data, settings):
                count += 1
                results += group
                if finished:
                    for result in group:
                        finished(result)
                if progress:
                    progress(count, len(tasks))
            del fold
    return results


@dataclass(frozen=True, slots=True)
class _Task:
    target: Target
    kind: str
    probe: str


def _tasks(feature: Feature, data: Data, settings: Settings) -> Iterator[_Task]:
    if settings.protocol == "paper":
        yield from (_Task(target, NUMBER, "ridge") for target in data.targets if target.numeric)
        yield from (_Task(target, CLASS, "linear") for target in data.targets if not target.numeric)
        return
    for kind, linear in ((NUMBER, "ridge"), (CLASS, "logistic")):
        for target in data.targets:
            if target.numeric if kind == NUMBER else target.classes:
                yield _Task(target, kind, linear)
                if feature.boosted:
                    yield _Task(target, kind, "boosting")


def _fold(feature: Feature, data: Data, settings: Settings) -> Fold:
    """The features of all splits, standardised unless the protocol takes them as they are."""
    transform = feature.fit(partial(data.train.sample, settings.fit_rows), data.train.layout)
    if feature.name == "weights":
        size = 4 * data.train.layout.size * sum(map(len, data.parts))
        if size > _LIMIT:
            raise SpecError(
                f"all weights together are {size / 1e9:.1f} GB, at most {_LIMIT / 1e9:.0f} are held in memory; "
                "choose features without weights, as statistics, or fewer rows by a condition, as epoch == 50"
            )
    train, validation, *tests = (features_of(rows, transform) for rows in data.parts)
    fold = Fold(train, validation, tuple(tests))
    return fold if settings.protocol == "paper" else probes.standardised(fold)


def _run(feature: Feature, todo: list[_Task], fold: Fold, data: Data, settings: Settings) -> Iterator[list[Result]]:
    """The results of each task, in any order: numbers known for the same rows are predicted together."""
    together: dict[bytes, list[tuple[_Task, _Values]]] = {}
    for task in todo:
        values = _Values.of(task, data, settings)
        if task.probe == "ridge":
            mask = b"".join(part.tobytes() for part in values.masks)
            together.setdefault(mask, []).append((task, values))
        else:
            yield _results(feature, task, values, _predict(task, values, fold, settings), data, settings)
    for group in together.values():
        values = group[0][1]
        part = values.part_of(fold)
        train, validation = (np.stack([entry[1].values[split] for entry in group], axis=1) for split in (0, 1))
        ridge = paper.numbers if settings.protocol == "paper" else probes.ridge
        for (task, values), prediction in zip(group, ridge(part, train, validation), strict=True):
            yield _results(feature, task, values, prediction, data, settings)


@dataclass(frozen=True, slots=True)
class _Values:
    """A target in training, validation and each test zoo: known values, and which rows these are."""

    values: tuple[NDArray[Any], ...]
    masks: tuple[NDArray[np.bool_], ...]
    scale: str

    @classmethod
    def of(cls, task: _Task, data: Data, settings: Settings) -> _Values:
        all_values = [values_for(task.target, rows) for rows in data.parts]
        masks = tuple(is_finite(values) for values in all_values)
        values = [part[mask] for part, mask in zip(all_values, masks, strict=True)]
        if task.kind == CLASS:
            return cls(tuple(as_classes(part) for part in values), masks, "linear")
        # A logarithm must exist in every split.
        if settings.protocol != "paper" and logarithmic(task.target, np.concatenate(values)):
            return cls(tuple(np.log10(part) for part in values), masks, "log10")
        return cls(tuple(values), masks, "linear")

    def part_of(self, fold: Fold) -> Fold:
        """The features of the rows whose value is known; no copy where it is known of all."""
        train, validation, *tests = (
            matrix if mask.all() else matrix[mask]
            for matrix, mask in zip((fold.train, fold.validation, *fold.tests), self.masks, strict=True)
        )
        return Fold(train, validation, tuple(tests))


def _predict(task: _Task, values: _Values, fold: Fold, settings: Settings) -> Prediction:
    part = values.part_of(fold)
    train, validation = values.values[:2]
    if task.probe == "boosting":
        return probes.boosting(part, train, validation, classes=task.kind == CLASS)
    limit = settings.class_rows
    if limit is not None and limit < len(train):
        drawn = np.sort(np.random.default_rng(0).permutation(len(train))[:limit])
        part, train = Fold(part.train[drawn], part.validation, part.tests), train[drawn]
    if task.probe == "linear":
        return paper.classes(part, train)
    return probes.logistic(part, train, validation, settings.iterations)


def _results(
    feature: Feature, task: _Task, values: _Values, prediction: Prediction, data: Data, settings: Settings
) -> list[Result]:
    """The scores in each test zoo in which the target is known."""
    results = []
    train = values.values[0]
    for number, rows in enumerate(data.tests):
        truth, predicted = values.values[number + 2], prediction.tests[number]
        if not len(truth):
            continue
        models = rows.models[values.masks[number + 2]]
        results.append(
            Result(
                test=rows.zoo,
                target=task.target.name,
                kind=task.kind,
                scale=values.scale,
                feature=feature.name,
                probe=task.probe,
                scores=_scores(task.kind, truth, predicted, models, settings.resamples),
                baseline=baseline_of(task.kind, train, truth),
                chosen=prediction.settings,
                rows=len(truth),
                models=len(np.unique(models)),
            )
        )
    return results


def _scores(
    kind: str, truth: NDArray[Any], predicted: NDArray[Any], models: scores.Codes, resamples: int
) -> dict[str, Score]:
    if kind == CLASS:
        return {"accuracy": scores.accuracy(truth, predicted, models, resamples)}
    numbers = cast(Numbers, predicted)
    return {
        "r2": scores.r2(truth, numbers, models, resamples),
        "kendall": scores.kendall(truth, numbers, models, resamples),
    }


def baseline_of(kind: str, train: NDArray[Any], truth: NDArray[Any]) -> float:
    """The score of the training rows' mean (R²) or most frequent class (accuracy), on tested values."""
    if kind == CLASS:
        names, counts = np.unique(train, return_counts=True)
        return float(np.mean(truth == names[counts.argmax()]))
    spread = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((truth - train.mean()) ** 2).sum() / spread) if spread else float("nan")
