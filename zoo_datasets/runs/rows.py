"""Rows without weights: what is known of states before these are read, and which of them a condition keeps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zoo_datasets.errors import RunError, SourceError
from zoo_datasets.networks.fields import FIELD, Convention
from zoo_datasets.networks.kind import NetworkKind, is_field
from zoo_datasets.networks.layers import Shift, Sine
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.row import (
    EXTRAS,
    FIGURES,
    NAMES,
    WEIGHTS,
    Column,
    OpenRows,
    further_column,
    is_wide,
    meta_schema,
    split_of,
)
from zoo_datasets.repository.where import Condition
from zoo_datasets.runs.cohort import METRICS_SCHEMA, SPARSITY
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.axes import FURTHER_AXES
from zoo_datasets.specs.members import Member
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.stacked.field import GRID

# Batches of different models whose columns are remembered: some cohorts of each split.
_KEPT = 64
_CHANGING = frozenset({*EXTRAS, *FIGURES, "ggap", "epoch"})
# Rows without weights that are made and judged at a time.
_JUDGED = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One model of a source: its id, the columns that are the same at every epoch, and its name in the source.

    `layouts` are, of an open source, the hashes of the layouts of its states.
    """

    model_id: str
    columns: Mapping[str, Any]
    label: str | None = None
    layouts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call it in a list of what was left out: its name in the source, else its id."""
        return self.label or self.model_id

    @property
    def split(self) -> str:
        """Its split; a twin is where its parent is, and a model of a group where all of the group are."""
        return split_of(self.columns.get("group") or self.columns.get("parent_id") or self.model_id)


class NarrowRows:
    """Makes the columns of rows that are not as wide as the weights. Threads may share it.

    Args:
        constants: columns that are the same in all rows, besides the zoo's name.

    Attributes:
        schema: of the rows.
    """

    def __init__(self, schema: pa.Schema, config: str, constants: Mapping[str, Any] | None = None) -> None:
        self.schema = schema
        self._places = {column.name: (place, column.type) for place, column in enumerate(schema)}
        self._kept: dict[tuple[int, ...], tuple[tuple[Model, ...], list[pa.Array | None]]] = {}
        self._lock = threading.Lock()
        self._constants = {"zoo": config, **(constants or {})}

    def table(self, models: Sequence[Model], epochs: Sequence[int], figures: Mapping[str, pa.Array]) -> pa.Table:
        """Rows without the columns as wide as the weights: what is known before weights are read."""
        columns = zip(self.schema.names, self.columns(models, epochs, figures), strict=True)
        return pa.table({name: values for name, values in columns if values is not None})

    def columns(
        self, models: Sequence[Model], epochs: Sequence[int], figures: Mapping[str, pa.Array]
    ) -> list[pa.Array | None]:
        """All columns of some models, each at an epoch; None in the place of those as wide as the weights."""
        figures = dict(figures)
        if "ggap" not in figures and {"train_acc", "test_acc"} <= figures.keys():
            figures["ggap"] = pc.subtract(figures["train_acc"], figures["test_acc"])
        with self._lock:
            columns = list(self._lasting(models))
        for name, values in figures.items():
            place, kind = self._places[name]
            columns[place] = values if values.type == kind else values.cast(kind)
        columns[self._places["epoch"][0]] = pa.array(np.array(epochs, np.int32))
        return columns

    def _lasting(self, models: Sequence[Model]) -> Sequence[pa.Array | None]:
        """The columns that are the same at every epoch, nulls in the others and None in the wide ones; the same models
        come again at the next epoch."""
        key = tuple(map(id, models))
        kept = self._kept.get(key)
        if kept is None:
            columns = self._columns(models)
            if len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            # The models are kept too: their ids must not be given to others.
            kept = self._kept[key] = (tuple(models), columns)
        return kept[1]

    def _columns(self, models: Sequence[Model]) -> list[pa.Array | None]:
        unique = {id(model): model for model in models}
        if len(unique) == len(models):
            known = {"model_id", *self._constants}.union(*(model.columns for model in models))
            return [self._column(column, models, column.name in known) for column in self.schema]
        # The same models at several epochs.
        places = {key: place for place, key in enumerate(unique)}
        rows = pa.array([places[id(model)] for model in models])
        return [None if column is None else column.take(rows) for column in self._lasting(list(unique.values()))]

    def _column(self, column: pa.Field, models: Sequence[Model], known: bool) -> pa.Array | None:
        if is_wide(column.type):
            return None
        if column.name in _CHANGING or not known:
            return pa.nulls(len(models), column.type)
        return pa.array([self._value(column.name, model) for model in models], column.type)

    def _value(self, name: str, model: Model) -> Any:
        if name == "model_id":
            return model.model_id
        return self._constants[name] if name in self._constants else model.columns.get(name)


def matching(
    where: Condition,
    rows: NarrowRows,
    states: Sequence[tuple[Model, int]],
    figures: Callable[[slice], Mapping[str, pa.Array]],
) -> list[int]:
    """Numbers of the states, each a model at an epoch, whose rows a condition keeps: judged by what will be stored.

    Args:
        figures: gives those of the states of a slice, as `States` has them.
    """
    kept: list[int] = []
    for start in range(0, len(states), _JUDGED):
        here = slice(start, start + _JUDGED)
        models, epochs = zip(*states[here], strict=True)
        kept += (start + where.kept(rows.table(models, epochs, figures(here)))).tolist()
    return kept


def check_readable(where: Condition, unknown: Collection[str], source: str) -> None:
    """Refuse a condition on columns that are computed from the weights.

    Raises:
        SourceError: if it asks for such columns; names them, and those that can be used.
    """
    hidden = sorted(where.columns.intersection(unknown))
    if hidden:
        usable = [name for name in NAMES if name != WEIGHTS and name not in unknown]
        raise SourceError(
            f"{source}: {', '.join(hidden)} will be computed from the weights, so that no condition can choose by it "
            f"what is read; use {', '.join(usable)}, or build all and load with a condition"
        )


# What each further hyperparameter is, as a repository says it.
_FURTHER_DOCS = {
    "width": "width of the network, as its architecture takes it",
    "depth": "depth of the network, as its architecture takes it",
    "init_std": "standard deviation, or gain, of the initialisation",
    "b_init": "what biases start at",
    "train_fraction": "share of the training images that the model is trained on, the first ones",
    "clip_norm": "norm that gradients are scaled down to",
    "label_smoothing": "share of the labels that is spread over all classes",
    "warmup_epochs": "epochs over which the learning rate rises linearly",
    "decay_epochs": "epochs after which the learning rate falls again",
    "decay_factor": "what the learning rate is multiplied by then",
}
_INTEGERS = ("decay_epochs", "width", "depth")
# What rows of fields have, by the type that it is of.
PSNR, LABEL = "psnr", "label"
_FIELD_COLUMNS = (
    (LABEL, "int64", "class of the signal"),
    ("signal_index", "int64", "number of the signal in its part of the images, from 0 on"),
    ("signal_split", "string", "the part of the images, train or test"),
    (PSNR, "float64", "dB of the fitted signal: −10 log₁₀ of train_loss, the mean squared error over its pixels"),
    ("omega", "float64", "ω₀ of the first layer, sin(ω₀(Wx+b))"),
    ("omega_hidden", "float64", "ω₀ of the other hidden layers"),
    ("output_offset", "float64", "added to the output of the last layer"),
    ("grid", "string", "where pixels are: xy[-1,1] is column, row, each from −1 to 1"),
)


def further_columns(zoo: ZooSpec) -> tuple[Column, ...]:
    """The further columns that rows of a zoo have: none where it has no further axes and is none of fields."""
    axes = tuple(
        further_column(axis, "int64" if axis in _INTEGERS else "float64", _FURTHER_DOCS[axis])
        for axis in FURTHER_AXES
        if getattr(zoo, axis) and axis in _FURTHER_DOCS
    )
    return axes + tuple(further_column(*column) for column in _FIELD_COLUMNS if is_field(zoo.architecture))


def is_open(run: Run) -> bool:
    """Whether rows of a run are open ones, as they are where its zoo has further axes, or states within epochs; else
    they are classic."""
    zoo = run.manifest.zoo
    return zoo.is_sized or zoo.every_steps is not None or bool(further_columns(zoo))


class RunRows:
    """The rows that are, or will be, built of a run, without their weights.

    Args:
        config: the name that they are built under; the zoo's unless given.
    """

    def __init__(self, run: Run, config: str | None = None) -> None:
        self._run = run
        zoo = run.manifest.zoo
        schema = OpenRows(further=further_columns(zoo)).light_schema() if is_open(run) else meta_schema()
        constants = {} if zoo.is_sized else run.manifest.network.columns()
        self._rows = NarrowRows(schema, config or zoo.name, constants)

    @cached_property
    def models(self) -> dict[str, Model]:
        """All members by their ids, in the order of the zoo."""
        return {member.model_id: self._model_of(member) for member in self._run.members}

    @cached_property
    def records(self) -> dict[str, NetworkRecord]:
        """The networks of open rows, by hash, which this process knows from now on."""
        return remember(self._records.values())

    @cached_property
    def _records(self) -> dict[NetworkKind, NetworkRecord]:
        return {
            network: NetworkRecord(network.layout, json.dumps(layers_to_json(network.layers)))
            for network in self._run.manifest.networks.values()
        }

    @property
    def mean_size(self) -> float:
        """The mean of D over its models."""
        sizes = [self.records[model.layouts[0]].layout.size for model in self.models.values()]
        return sum(sizes) / len(sizes)

    def _model_of(self, member: Member) -> Model:
        zoo = self._run.manifest.zoo
        own = {"seed": member.seed, "images": zoo.images, "parent_id": member.parent_id, "sparsifier": zoo.sparsifier}
        columns = member.hyperparameters.to_dict() | own
        if not is_open(self._run):
            return Model(model_id=member.model_id, columns=columns)
        network = self._run.manifest.network_of(member)
        columns |= {"task": "classification"} | network.columns()
        if self._run.manifest.is_field:
            columns |= self._of_field(member, network)
        return Model(model_id=member.model_id, columns=columns, layouts=(self._records[network].hash,))

    def _of_field(self, member: Member, network: NetworkKind) -> dict[str, Any]:
        split, number = self._run.manifest.signal_of(member)
        omega, *others = (layer.omega for layer in network.layers if isinstance(layer, Sine))
        shifts = [layer.amount for layer in network.layers if isinstance(layer, Shift)]
        convention = Convention(
            omega=omega, omega_hidden=others[0] if others else omega, output_offset=sum(shifts), grid=GRID
        )
        signal = {"signal_index": number, "signal_split": split, "source_split": split}
        own = {"task": FIELD, "group": f"{split} {number}", "activation": None}  # each layer names its own
        return signal | own | {name: value for name, value in convention.columns().items() if value is not None}

    def matching(self, where: Condition, epochs: Sequence[int]) -> dict[str, frozenset[int]]:
        """Of these epochs, those at which a condition keeps a model, by its id in the order of the zoo.

        Models that it keeps at none are missing; figures that are not there yet are null. States whose figures are
        lost or damaged cannot be judged by them and are kept, so that who reads them says why.
        """
        states = [(model, epoch) for model in self.models.values() for epoch in epochs]
        names = figures_of(self._run)
        asked = not where.columns.isdisjoint({*names, "ggap", PSNR})
        if self._run.manifest.is_field:
            check_readable(where, {LABEL}, str(self._run.path))

        def figures(here: slice) -> dict[str, pa.Array]:
            if not asked:  # broken metrics are told where they are needed
                return {}
            metrics, places = self._all_metrics
            rows = pa.array([places.get((model.model_id, epoch)) for model, epoch in states[here]], pa.int64())
            figures = {name: metrics[name].combine_chunks().take(rows) for name in names}
            return figures | ({PSNR: psnr_of(figures["train_loss"])} if self._run.manifest.is_field else {})

        epochs_of: dict[str, set[int]] = {}
        for number in matching(where, self._rows, states, figures):
            model, epoch = states[number]
            epochs_of.setdefault(model.model_id, set()).add(epoch)
        for model_id, lost in self._lost.items() if asked else ():
            if unjudged := lost.intersection(epochs):
                epochs_of.setdefault(model_id, set()).update(unjudged)
        return {model_id: frozenset(epochs_of[model_id]) for model_id in self.models if model_id in epochs_of}

    @property
    def _lost(self) -> Mapping[str, frozenset[int]]:
        """Of models, by id, the epochs whose figures are lost or damaged."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[list[pa.Table], dict[str, frozenset[int]]]:
        tables: list[pa.Table] = []
        lost: dict[str, frozenset[int]] = {}
        for cohort in self._run.sound_cohorts()[0]:
            try:
                tables.append(cohort.metrics())
                missing = frozenset(cohort.without_figures())
            except RunError:
                missing = frozenset(self._run.kept_epochs)
            lost |= {member.model_id: missing for member in cohort.members if missing}
        return tables, lost

    @cached_property
    def _all_metrics(self) -> tuple[pa.Table, dict[tuple[str, int], int]]:
        """The metrics of all cohorts, and the place of each model at each epoch."""
        metrics = pa.concat_tables([METRICS_SCHEMA.empty_table(), *self._read[0]])
        keys = zip(metrics["model_id"].to_pylist(), metrics["epoch"].to_pylist(), strict=True)
        return metrics, {key: place for place, key in enumerate(keys)}


def psnr_of(errors: pa.Array) -> pa.Array:
    """dB of mean squared errors, float64; null where they are not known."""
    return pc.multiply(pc.log10(errors.cast(pa.float64())), -10.0)


def figures_of(run: Run) -> tuple[str, ...]:
    """The columns of rows that a run's metrics tell."""
    return FIGURES if run.manifest.parents is None else (*FIGURES, SPARSITY)
