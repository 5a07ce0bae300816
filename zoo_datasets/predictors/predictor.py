"""A trained predictor with all that it needs: the network whose weights it reads, and what its outputs mean.

predictor = zd.Predictor.fit("nfn", train, validation, targets=["test_acc"], seconds=60)
predictor.save("accuracy")
zd.Predictor.load("accuracy").predict(test)["test_acc"]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import safetensors
import torch
from datasets import Dataset
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from zoo_datasets.documents import brief, problems_of, read_json
from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.modules import layers_of_row
from zoo_datasets.networks.layers.documents import layers_from_json, layers_to_json
from zoo_datasets.predictors import get_predictor
from zoo_datasets.predictors.augment import check_augmentations
from zoo_datasets.predictors.base import Model, WeightSpace
from zoo_datasets.predictors.fit import Plan, Rows, Tick, Trained, fit, predict
from zoo_datasets.predictors.statistics import Statistics
from zoo_datasets.repository.row import WEIGHTS
from zoo_datasets.storage.files import write_bytes, write_json
from zoo_datasets.storage.folders import check_output

ACTIVATION = "activation"
CONFIG, TENSORS = "predictor.json", "model.safetensors"
FORMAT = 1
_MOST_CLASSES = 10_000
_MOST_TARGETS = 256

Values = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class TargetForm:
    """What an output means.

    Attributes:
        kind: a `number`, or a `class`, which has an output for each of `classes`.
        scale: numbers of scale `log10` are predicted as their logarithm, and come back as numbers.
        mean, deviation: an output is a number less its mean, over its deviation, both of training.
        low, high: bounds of the predictions: those of training.
        classes: names, in the order of the outputs.
    """

    name: str
    kind: Literal["number", "class"] = "number"
    scale: Literal["linear", "log10"] = "linear"
    mean: float = 0.0
    deviation: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    classes: tuple[str, ...] = ()

    @classmethod
    def of_numbers(cls, name: str, values: Values, scale: Literal["linear", "log10"] = "linear") -> TargetForm:
        """Of training values float64 [N], NaN where unknown, on the scale that is given.

        Raises:
            SpecError: if none is known, or all are the same.
        """
        known = values[np.isfinite(values)]
        if not len(known) or known.min() == known.max():
            raise SpecError(f"target {name!r} has no two different values in training")
        return cls(
            name=name, scale=scale, mean=float(known.mean()), deviation=float(known.std()), low=float(known.min()),
            high=float(known.max()),
        )  # fmt: skip

    @classmethod
    def of_classes(cls, name: str, values: Sequence[str]) -> TargetForm:
        """Of training classes.

        Raises:
            SpecError: if there is but one, or there are more than 10,000.
        """
        classes = tuple(sorted(set(values)))
        if not 2 <= len(classes) <= _MOST_CLASSES:
            raise SpecError(
                f"target {name!r} has {len(classes):,} classes in training, expected 2 to {_MOST_CLASSES:,}"
            )
        return cls(name=name, kind="class", classes=classes)

    def encoded(self, values: Values) -> Tensor:
        """Values as outputs should be: float64 [N], or int64 [N] of classes, −1 for one that training did not have."""
        if self.kind == "class":
            places = {name: place for place, name in enumerate(self.classes)}
            return torch.tensor([places.get(value, -1) for value in values], dtype=torch.int64)
        return (torch.from_numpy(np.array(values, np.float64)) - self.mean) / self.deviation

    def decoded(self, outputs: Tensor) -> Values:
        """Numbers float64 [N] on the target's scale, of outputs [N]; names of classes [N], of [N, classes]."""
        if self.kind == "class":
            names: Values = np.array(self.classes)[outputs.argmax(dim=1).cpu().numpy()]
            return names
        numbers = outputs.double().cpu().numpy() * self.deviation + self.mean
        return np.asarray(np.clip(np.nan_to_num(numbers, nan=self.mean), self.low, self.high))


@dataclass
class Predictor:
    """A trained predictor; see `fit`, `predict`, `save` and `load`.

    Attributes:
        name: of the table `zoo_datasets.predictors.PREDICTORS`.
        targets: numbers, or one class.
    """

    name: str
    space: WeightSpace
    targets: tuple[TargetForm, ...]
    model: Model
    trained: Trained | None = None

    @classmethod
    def fit(
        cls,
        name: str,
        train: Dataset,
        validation: Dataset,
        targets: Sequence[str] = ("test_acc",),
        *,
        seconds: float = 60.0,
        epochs: int | None = None,
        seed: int = 0,
        augment: Sequence[str] = (),
        device: str = "cpu",
        **config: Any,
    ) -> Predictor:
        """Train a predictor on one split of a zoo; what is best on another is kept.

        Args:
            name: of `PREDICTORS`: `statistics`, `nfn`, `graph`, ….
            train, validation: as `load_zoo` gives them for one split; rows with weights or targets that are not
                finite are left out.
            targets: columns of numbers, learned together; or one column of texts, a class.
            seconds, epochs: training ends at whichever comes first.
            augment: any of `permute`, `scale` and `noise`.
            config: fields of the predictor's config, as `channels` or `learning_rate`.

        Raises:
            SpecError: if a field, a target or the networks do not fit.
            UnknownNameError: if there is no such predictor, column or augmentation.
        """
        check_augmentations(tuple(augment))
        parts = [_read(data, targets) for data in (train, validation)]
        layers = layers_of_row(train[0])
        told = ACTIVATION not in targets and parts[0].activations is not None
        names = sorted(set(cast(list[str], parts[0].activations))) if told else []
        forms = _forms(targets, parts[0].columns)
        space = WeightSpace(layers, tuple(names))
        plan = Plan(seconds=seconds, epochs=epochs, seed=seed, augment=tuple(augment), device=device)
        rows = [rows_of(space, forms, part.weights, part.activations, part.columns) for part in parts]
        return cls.train(name, space, forms, rows[0], rows[1], plan, config)

    @classmethod
    def train(
        cls,
        name: str,
        space: WeightSpace,
        targets: tuple[TargetForm, ...],
        train: Rows,
        validation: Rows,
        plan: Plan,
        config: Mapping[str, Any] | None = None,
        tick: Tick | None = None,
    ) -> Predictor:
        """Train on rows that are in memory."""
        predictor = cls.untrained(name, space, targets, config or {}, plan.seed)
        predictor.trained = fit(predictor.model, train, validation, plan, tick)
        return predictor

    @classmethod
    def untrained(
        cls, name: str, space: WeightSpace, targets: tuple[TargetForm, ...], config: Mapping[str, Any], seed: int = 0
    ) -> Predictor:
        """With weights drawn from a seed."""
        kind = get_predictor(name)
        checked = kind.config_type.checked(config)
        if not targets or (len(targets) > 1 and any(target.kind == "class" for target in targets)):
            raise SpecError(f"{len(targets)} targets: expected numbers, or one class")
        outputs = len(targets[0].classes) if targets[0].kind == "class" else len(targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = kind(space, outputs, checked)
        model.eval()
        return cls(name, space, targets, model)

    def predict(self, rows: Any, device: str = "cpu") -> dict[str, Values]:
        """What each network is, by target: numbers float64 [N], or names of classes [N].

        Args:
            rows: a split of a zoo, a batch of `batches`, one row, or weights [N, D]. Where the predictor reads
                activations, and its zoo had several, rows must tell them.

        Raises:
            SpecError: if an activation is missing or unknown.
            LayoutError: if the weights are of another network.
        """
        weights, names = _given(rows)
        return self.decoded(self.outputs(weights, self._codes(names, len(weights)), device))

    def outputs(self, weights: Tensor, activation: Tensor, device: str = "cpu") -> Tensor:
        """The model's outputs [N, outputs]."""
        where = torch.device(device)
        self.model.to(where)
        made = predict(self.model, weights.to(where), activation.to(where)).cpu()
        self.model.cpu()
        return made

    def decoded(self, outputs: Tensor) -> dict[str, Values]:
        """Outputs as what they mean."""
        if self.targets[0].kind == "class":
            return {self.targets[0].name: self.targets[0].decoded(outputs)}
        values = {target.name: target.decoded(outputs[:, place]) for place, target in enumerate(self.targets)}
        return {
            target.name: 10 ** values[target.name] if target.scale == "log10" else values[target.name]
            for target in self.targets
        }

    def _codes(self, names: Sequence[str] | None, count: int) -> Tensor:
        if not self.model.reads_activation or len(self.space.activations) < 2:
            return torch.zeros(count, dtype=torch.int64)
        if names is None:
            raise SpecError(
                f"{self.name} reads each network's activation; give rows with the column {ACTIVATION!r}, of "
                f"{', '.join(self.space.activations)}"
            )
        return self.space.codes(names)

    def save(self, folder: str | Path) -> Path:
        """Write `predictor.json` and `model.safetensors` into a folder.

        Raises:
            RepositoryError: if the folder holds other files.
        """
        folder = Path(folder)
        check_output(folder)
        if folder.exists() and {path.name for path in folder.iterdir()} - {CONFIG, TENSORS}:
            raise RepositoryError(f"{folder} holds other files; expected a new folder, or that of a predictor")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        write_bytes(folder / TENSORS, save(tensors))
        write_json(folder / CONFIG, self.to_dict())
        return folder

    def to_dict(self) -> dict[str, Any]:
        """All but the weights, as JSON values."""
        return {
            "format": FORMAT,
            "predictor": self.name,
            "layers": layers_to_json(self.space.layers),
            "activations": list(self.space.activations),
            "targets": [_finite(dataclasses.asdict(target)) for target in self.targets],
            "config": dataclasses.asdict(self.model.config),
        }

    @classmethod
    def load(cls, folder: str | Path) -> Predictor:
        """A predictor that `save` wrote. Nothing in the files is executed.

        Raises:
            RepositoryError: if the folder holds none, or files that do not fit each other.
        """
        folder = Path(folder)
        try:
            value = read_json(folder / CONFIG)
            predictor = cls._of_dict(value)
            tensors = load_file(folder / TENSORS)
            _restore(predictor.model, tensors)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            problem = str(error) if isinstance(error, SpecError | UnknownNameError) else brief(str(error))
            raise RepositoryError(f"{folder} holds no predictor that can be read: {problem}") from error
        return predictor

    @classmethod
    def _of_dict(cls, value: Any) -> Predictor:
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise SpecError(f"{CONFIG}: format {FORMAT} expected")
        activations = value["activations"]
        if (
            not isinstance(activations, list)
            or len(activations) > 100
            or not all(isinstance(name, str) for name in activations)
        ):
            raise SpecError(f"{CONFIG}: activations: expected a list of names")
        if not isinstance(value["targets"], list) or len(value["targets"]) > _MOST_TARGETS:
            raise SpecError(f"{CONFIG}: targets: expected a list of at most {_MOST_TARGETS}")
        try:
            targets = TypeAdapter(tuple[TargetForm, ...]).validate_python(
                [_unbounded(target) for target in value["targets"]], extra="forbid"
            )
        except ValidationError as error:
            raise SpecError(f"{CONFIG}: targets: {problems_of(error)}") from None
        if not isinstance(value["config"], dict):
            raise SpecError(f"{CONFIG}: config: expected a mapping")
        space = WeightSpace(layers_from_json(value["layers"]), tuple(activations))
        return cls.untrained(str(value["predictor"]), space, targets, value["config"])


def _finite(target: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in target.items()}


def _unbounded(target: Any) -> Any:
    """Bounds that are null are none."""
    if not isinstance(target, dict):
        return target
    return {name: v for name, v in target.items() if not (v is None and name in ("low", "high"))}


def _restore(model: Model, tensors: dict[str, Tensor]) -> None:
    if isinstance(model, Statistics):
        model.set_trees(tensors)
        return
    for name, tensor in model.state_dict().items():
        if name not in tensors or tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            there = "nothing" if name not in tensors else f"{tensors[name].dtype} of {list(tensors[name].shape)}"
            raise SpecError(f"{TENSORS}: {name} is {there}, expected {tensor.dtype} of {list(tensor.shape)}")
    model.load_state_dict(tensors)


@dataclass(frozen=True)
class _Part:
    weights: Tensor
    activations: list[str] | None
    columns: dict[str, list[Any]]


def _read(data: Any, targets: Sequence[str]) -> _Part:
    """Finite rows of a split in memory."""
    if isinstance(targets, str) or not targets:
        raise SpecError(f"targets={targets!r}: expected a list of at least one column")
    if not isinstance(data, Dataset):
        raise SpecError(f"got a {type(data).__name__}, expected a split as load_zoo gives it")
    known = ACTIVATION in data.column_names
    columns = list(dict.fromkeys([*targets, *([ACTIVATION] if known else [])]))
    weights: list[Tensor] = []
    lists: dict[str, list[Any]] = {name: [] for name in columns}
    for batch in batches(data, 1024, columns=[WEIGHTS, *columns], dtype=torch.float32, device="cpu"):
        values = {n: v.double().tolist() if isinstance(v := batch[n], Tensor) else list(v) for n in columns}
        fine = torch.isfinite(batch[WEIGHTS]).all(dim=1)
        keep = [bool(ok) and all(values[n][row] is not None for n in targets) for row, ok in enumerate(fine.tolist())]
        weights.append(batch[WEIGHTS][torch.tensor(keep)])
        for name in columns:
            lists[name] += [value for value, kept in zip(values[name], keep, strict=True) if kept]
    if not sum(map(len, weights)):
        raise SpecError("found no rows with finite weights and known targets")
    activations = lists[ACTIVATION] if known and all(isinstance(v, str) for v in lists[ACTIVATION]) else None
    return _Part(torch.cat(weights), activations, {name: lists[name] for name in targets})


def _forms(names: Sequence[str], columns: Mapping[str, list[Any]]) -> tuple[TargetForm, ...]:
    """Texts and truth values are classes, numbers are numbers."""
    forms = []
    for name in dict.fromkeys(names):
        values = columns[name]
        if any(isinstance(value, str | bool) for value in values):
            forms.append(TargetForm.of_classes(name, [str(value) for value in values]))
        else:
            forms.append(TargetForm.of_numbers(name, np.array(values, np.float64)))
    return tuple(forms)


def rows_of(
    space: WeightSpace,
    targets: tuple[TargetForm, ...],
    weights: Tensor,
    activations: Sequence[str] | None,
    columns: Mapping[str, Sequence[Any]],
) -> Rows:
    """Rows for training: weights [N, D], the names of activations, and the values of each target. Rows of a class that
    training did not have are left out."""
    told = activations is not None and bool(space.activations)
    codes = space.codes(cast(Sequence[str], activations)) if told else torch.zeros(len(weights), dtype=torch.int64)
    if targets[0].kind == "class":
        encoded = targets[0].encoded(np.array([str(value) for value in columns[targets[0].name]]))
        seen = encoded >= 0
        weights, codes, encoded = weights[seen], codes[seen], encoded[seen]
    else:
        encoded = torch.stack([target.encoded(np.array(columns[target.name], np.float64)) for target in targets], dim=1)
    return Rows(weights, codes, encoded)


def _given(rows: Any) -> tuple[Tensor, list[str] | None]:
    """Weights [N, D] and the names of activations, of anything that `predict` takes."""
    if isinstance(rows, Dataset):
        columns = [WEIGHTS, *([ACTIVATION] if ACTIVATION in rows.column_names else [])]
        parts = list(batches(rows, 1024, columns=columns, dtype=torch.float32, device="cpu"))
        names = [name for part in parts for name in part[ACTIVATION]] if len(columns) > 1 else None
        return torch.cat([part[WEIGHTS] for part in parts]), names
    if isinstance(rows, Mapping):
        weights = torch.as_tensor(rows[WEIGHTS], dtype=torch.float32)
        names = rows.get(ACTIVATION)
        if weights.ndim == 1:
            return weights[None], [names] if isinstance(names, str) else None
        return weights, None if names is None else list(names)
    weights = torch.as_tensor(rows, dtype=torch.float32)
    return (weights[None] if weights.ndim == 1 else weights), None


__all__ = ["CONFIG", "TENSORS", "Predictor", "TargetForm", "rows_of"]
