"""Rows written back as a raw zoo: the folders, names and files that the original authors' tools read.

A trial's folder is named after its model alone, so that a twin's path to its parent is that of the parent's export.
Only of models that would share a folder none has it: they get a hash at the end. The ids themselves are in params.json.
"""

from __future__ import annotations

import io
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from zoo_datasets.builders.shards.rows import RowMaker
from zoo_datasets.builders.sources.base import Source, States
from zoo_datasets.builders.sources.raw.index import index_dict, module_indices
from zoo_datasets.builders.sources.raw.names import COLUMN_OF_KEY, SPARSIFIER_KEY, raw_folder_name
from zoo_datasets.documents import StrPath, brief
from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.loading.exporting import LASTING, ExportRows, states_of
from zoo_datasets.networks.architectures import ARCHITECTURES, get_architecture
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import Layer
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.networks.variational import BETA, LOG_SIGMA2
from zoo_datasets.repository.row import FIGURES, KL_WEIGHT, MEANS, RECORDED, WEIGHTS
from zoo_datasets.specs.zoos import dense_name, get_zoo
from zoo_datasets.storage.files import write_if_changed
from zoo_datasets.storage.folders import check_output
from zoo_datasets.storage.names import distinct_names, file_name, shortened
from zoo_datasets.terminal import Advance

# Ray Tune ends the names of folders with the time; the same rows give the same folders here.
DATE = "2022-01-01_00-00-00"
ID_LENGTH = 16
TEXT_LENGTH = 48  # of an id that is no digest, and of a text among the hyperparameters
TRIAL_LENGTH = 250

_DIGEST = re.compile(r"[0-9a-f]{32}")
_NOISY = "noisy"  # of a state with log σ²
_KIND = ("images", *KIND_COLUMNS, "sparsifier")
_NAMED = tuple(sorted(key for key in COLUMN_OF_KEY if key not in ("seed", "training::batchsize", "optim::momentum")))


@dataclass(frozen=True, kw_only=True, slots=True)
class RawExport:
    """What was written: the zoo's folder, and how many models and states it holds."""

    folder: Path
    models: int
    states: int


def source_rows(source: Source, name: str | None = None, selection: Mapping[str, Any] | None = None) -> ExportRows:
    """All states of a source as rows of the config `name`; without states that cannot be read."""
    if source.network is None:
        raise SpecError(
            f"{source.name}: its networks are not of one architecture that raw zoos know; choose another format"
        )
    maker = RowMaker(source, name or source.name)
    constants = {"zoo": name or source.name, **source.network.columns()}
    models = {
        model.model_id: dict.fromkeys(LASTING) | constants | dict(model.columns)
        | {"model_id": model.model_id}
        for block in source.blocks() for model in block.models
    }  # fmt: skip

    def tables() -> Iterator[pa.Table]:
        for block in source.blocks():
            for item in source.read(block):
                if isinstance(item, States) and item.models:
                    yield pa.Table.from_batches([maker.batch(item)])

    return ExportRows(
        config=name or source.name, models=models, total=source.states, tables=tables, selection=selection or {}
    )


def export_raw(rows: ExportRows, out: StrPath, progress: Advance | None = None) -> RawExport:
    """Write rows as a raw zoo into a new folder of `out`: config.json, index_dict.json, and for each model a trial
    with params.json, result.json and one checkpoint folder an epoch.

    An export that was stopped goes on with the same call; files that are there with their content are kept. Twins by
    variational dropout have log σ² in their checkpoints where the rows have it; else they are the plain networks that
    act. Their losses are those recorded, with β·KL, and are omitted if the rows lack them.

    Raises:
        RepositoryError: if the folder holds another export or something else.
        SpecError: if there are no rows, or they are of several architectures.
        StorageError: if a file cannot be written.
    """
    out = Path(out)
    check_output(out)
    zoo = _RawZoo.of(rows)
    folder = out / zoo.folder
    _begin(folder, zoo.config())
    trials = distinct_names({model_id: zoo.trial(model) for model_id, model in rows.models.items()}, TRIAL_LENGTH)
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    done = 0
    for row in states_of(rows):
        model_id, epoch = row["model_id"], row["epoch"]
        checkpoint = folder / trials[model_id] / f"checkpoint_{epoch:06d}"
        write_if_changed(checkpoint / "checkpoints", _saved(state_dict(row, zoo.layout)))
        write_if_changed(checkpoint / ".is_checkpoint", b"")
        reports.setdefault(model_id, {})[epoch] = _figures(row)
        done += 1
        if progress is not None:
            progress(done, rows.total)
    for model_id, by_epoch in reports.items():
        zoo.write_trial(folder / trials[model_id], rows.models[model_id], by_epoch)
    write_if_changed(folder / "index_dict.json", json.dumps(index_dict(zoo.layers, zoo.dropout)).encode())
    return RawExport(folder=folder, models=len(reports), states=done)


def state_dict(row: Mapping[str, Any], layout: WeightLayout) -> OrderedDict[str, Tensor]:
    """A row's tensors under the names of the authors' modules, with log σ² where the row has it."""
    noise = row.get(LOG_SIGMA2)
    tensors = layout.unflatten(row[WEIGHTS] if noise is None else row.get(MEANS, row[WEIGHTS]))
    noises = {} if noise is None else layout.unflatten(noise)
    prefixes = _prefixes(row)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        prefix = prefixes.get(layer, layer)
        state[f"{prefix}.{part}"] = tensor.clone()
        if part == "running_var":
            state[f"{prefix}.{IGNORED_SUFFIX}"] = torch.tensor(0)
        if part == "bias" and noises:
            for own, beside in ((f"{layer}.weight", "log_sigma2"), (name, "log_sigma2_bias")):
                # Linear biases have no noise; the authors' modules have the tensor all the same.
                values = noises[own]
                state[f"{prefix}.{beside}"] = torch.where(torch.isneginf(values), torch.zeros(()), values)
    return state


@dataclass(frozen=True, kw_only=True, slots=True)
class _RawZoo:
    """What all trials of an export have in common.

    Attributes:
        varied: keys of params.json whose values differ, with these.
        dropout: whether all its models have dropout layers.
    """

    folder: str
    parents: str
    layers: tuple[Layer, ...]
    layout: WeightLayout
    params: Mapping[str, Any]
    varied: Mapping[str, list[Any]]
    dropout: bool
    selection: Mapping[str, Any]

    @classmethod
    def of(cls, rows: ExportRows) -> _RawZoo:
        models = list(rows.models.values())
        kinds = {tuple(row[name] for name in _KIND) for row in models}
        if len(kinds) != 1:
            raise SpecError(f"{rows.config}: models of {len(kinds)} kinds found ({', '.join(_KIND)}), expected one")
        ((images, *columns, sparsifier),) = kinds
        network = NetworkKind(*columns)
        if network.architecture not in ARCHITECTURES:
            raise SpecError(
                f"{rows.config}: {brief(network.architecture)} is no architecture that raw zoos know; expected "
                f"{', '.join(ARCHITECTURES)}. Export it with --format safetensors"
            )
        architecture = get_architecture(network.architecture)
        values = {key: sorted({_param(key, row) for row in models}, key=str) for key in COLUMN_OF_KEY}
        params = {
            "model::type": architecture.raw_type or architecture.name, "model::channels_in": network.in_channels,
            "model::o_dim": network.classes, "model::use_bias": True, "training::start_epoch": 1,
            "training::output_epoch": 1, "training::val_epochs": 1, "training::idx_out": 500,
            "training::checkpoint_dir": None, "cuda": False,
            "dataset::dump": f"{images}/dataset.pt", **_scheduler(rows.config),
        }  # fmt: skip
        return cls(
            folder=raw_folder_name(rows.config, images, architecture.name, sparsifier),
            parents=raw_folder_name(dense_name(rows.config, sparsifier), images, architecture.name),
            layers=network.layers,
            layout=network.layout,
            params=params | {key: options[0] for key, options in values.items() if len(options) == 1},
            varied={key: options for key, options in values.items() if len(options) > 1},
            dropout=architecture.raw_dropout or all((row["dropout"] or 0) > 0 for row in models),
            selection=rows.selection,
        )

    def config(self) -> dict[str, Any]:
        """config.json: what all trials share, and the values of what varies."""
        searched = {key: {"grid_search": options} for key, options in self.varied.items()}
        return {**self.params, **searched, "zoo_datasets::selection": dict(self.selection)}

    def trial(self, row: Mapping[str, Any]) -> str:
        """A model's folder."""
        if row.get("parent_id") is None:
            return trial_name(row["model_id"], row)
        return f"NN_tune_trainable_from_checkpoint_{_id_in_name(row['model_id'])}_00000_0_seed={row['seed']}_{DATE}"

    def write_trial(self, trial: Path, model: Mapping[str, Any], reports: Mapping[int, Mapping[str, Any]]) -> None:
        """params.json and result.json of a model."""
        params = {**self.params, **{key: _param(key, model) for key in COLUMN_OF_KEY}}
        if model["dropout"] is None:
            del params["model::dropout"]  # null would mean none
        params["training::epochs_train"] = _epochs_trained(reports)
        params["zoo_datasets::model_id"] = model["model_id"]
        if model.get("parent_id") is not None:
            parent = trial_name(model["parent_id"], model)
            params["training::init_checkpoint_path"] = f"zoos/{self.parents}/{parent}"
            params[SPARSIFIER_KEY] = model["sparsifier"]
        if any(_NOISY in report for report in reports.values()):
            params["model::type"] = f"{params['model::type']}_ARD"
        lines = []
        last = max(reports)
        for epoch in sorted(reports):
            figures = {name: value for name, value in reports[epoch].items() if name not in (KL_WEIGHT, _NOISY)}
            report = figures | {"training_iteration": epoch, "done": epoch == last, "config": params}
            lines.append(json.dumps(report | {"trial_id": f"{model['model_id'][:5]}_00000"}) + "\n")
        write_if_changed(trial / "params.json", json.dumps(params, indent=2).encode())
        write_if_changed(trial / "result.json", "".join(lines).encode())


def trial_name(model_id: str, row: Mapping[str, Any]) -> str:
    """The folder of a dense model: its id, hyperparameters and seed, in Ray Tune's manner."""
    values = {key: _param(key, row) for key in (*_NAMED, "seed")}
    settings = ",".join(
        f"{key.replace('::', '__')}={_in_name(value)}" for key, value in values.items() if value is not None
    )
    return shortened(f"NN_tune_trainable_{_id_in_name(model_id)}_00000_0_{settings}_{DATE}", TRIAL_LENGTH)


def _id_in_name(model_id: str) -> str:
    """The first half of a digest; another id whole, shortened to what a name can hold."""
    return model_id[:ID_LENGTH] if _DIGEST.fullmatch(model_id) else file_name(model_id, TEXT_LENGTH)


def _in_name(value: Any) -> Any:
    return file_name(value, TEXT_LENGTH) if isinstance(value, str) else value


def _scheduler(config: str) -> dict[str, str]:
    """The schedule of a zoo of the table, as the authors call it; another name is ours."""
    try:
        name = get_zoo(config).scheduler
    except UnknownNameError:
        return {}
    return {} if name is None else {"optim::scheduler": "OneCycleLR" if name == "onecycle" else name}


def _begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json, unless an earlier export of the same rows did.

    Raises:
        RepositoryError: if the folder holds anything else.
    """
    content = (json.dumps(config, indent=2) + "\n").encode()
    file = folder / "config.json"
    entries = [] if not folder.is_dir() else [entry.name for entry in folder.iterdir() if entry.name[:1] != "."]
    if entries and (not file.is_file() or file.read_bytes() != content):
        raise RepositoryError(
            f"{folder} holds another export, or something else ({', '.join(sorted(entries)[:3])}, …); choose another "
            "--out, or remove it"
        )
    write_if_changed(file, content)


def _param(key: str, row: Mapping[str, Any]) -> Any:
    return row[COLUMN_OF_KEY[key]]


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """What result.json reports of a state. Twins' losses are the recorded ones where the row has them."""
    figures = {name: row[name] for name in FIGURES}
    if row["sparsifier"] == "variational_dropout":
        figures |= {name: row.get(column) for name, column in RECORDED.items()}
        figures["sparsity_ratio"] = row["sparsity"]
        figures |= {KL_WEIGHT: row.get(KL_WEIGHT), _NOISY: True if LOG_SIGMA2 in row else None}
    elif row["sparsifier"] is not None:
        figures["sparsity_ratio"] = row["sparsity"]
    return {name: value for name, value in figures.items() if value is not None}


def _epochs_trained(reports: Mapping[int, Mapping[str, Any]]) -> int:
    """The last epoch; of twins, the number of epochs that β was made with, which a selection may have cut off."""
    for epoch, report in reports.items():
        if report.get(KL_WEIGHT):
            epochs: int = round(BETA * (epoch - 1) / report[KL_WEIGHT])
            return epochs
    return max(reports)


def _saved(state: OrderedDict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _prefixes(row: Mapping[str, Any]) -> Mapping[str, str]:
    """The authors' names of the layers; those of ResNets are ours."""
    network = NetworkKind.of_row(row)
    dropout = get_architecture(network.architecture).raw_dropout or (row["dropout"] or 0) > 0
    return _module_names(network, dropout)


@lru_cache(maxsize=64)
def _module_names(network: NetworkKind, dropout: bool) -> Mapping[str, str]:
    return {name: f"module_list.{index}" for name, index in module_indices(network.layers, dropout).items()}
