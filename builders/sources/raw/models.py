"""What the trials of a raw zoo are: its images and name, each trial's model, the parents of twins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo_datasets.builders.checkpoints.recognise import Recognised
from zoo_datasets.builders.checkpoints.zips import check_name
from zoo_datasets.builders.containers.archives import ARCHIVES
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import open_location
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.raw.names import (
    SPARSIFIER_KEY,
    FolderName,
    parent_of,
    raw_model_id,
    read_folder_name,
    read_trial_name,
    zoo_name,
)
from zoo_datasets.builders.sources.raw.trials import (
    RawFolder,
    Results,
    Trial,
    columns_of,
    contradictions,
    find_zoo,
    parse_results,
    read_json,
)
from zoo_datasets.documents import MAX_JSON
from zoo_datasets.errors import CheckpointError, SourceError, UnknownNameError
from zoo_datasets.runs.rows import Model
from zoo_datasets.specs.spec import GRID_FIELDS, NAME, Sparsifier
from zoo_datasets.specs.zoos import get_zoo

_PROBES = 9
_DESCRIBING = ("params.json", "result.json")


@dataclass(kw_only=True, slots=True)
class Found:
    """One trial and what became of it: a model with its states, or the reason why it is none."""

    trial: Trial
    model: Model | None = None
    results: Results | None = None
    epochs: tuple[int, ...] = ()
    reason: str = ""


class RawModels:
    """Reads params.json and result.json of a zoo's trials.

    Attributes:
        images, name: of the zoo; from its folder's name, else from what the user calls it, else from params.json.
        notes: what was strange and yet did not keep a model out, with the number of models.
    """

    def __init__(
        self, container: Container, folder: RawFolder, kind: Recognised, reading: Reading, beside: Path | None
    ) -> None:
        self._container = container
        self._folder = folder
        self._kind = kind
        self._reading = reading
        self._beside = beside
        own = read_folder_name(folder.name)
        self.sparsifier: Sparsifier | None = kind.sparsifier or self._stated_sparsifier() or own.sparsifier
        self.notes: Counter[str] = Counter()
        self.images, self.name = self._identify(own)

    def found(self) -> list[Found]:
        """The trials, in the order of their models' ids: a hash, so that the first N spread over the grid."""
        trials = sorted(self._folder.trials, key=lambda trial: raw_model_id(self._folder.name, trial.name))
        if self._reading.where is None:
            trials = trials[: self._reading.models]  # what the others tell cannot change which are the first
        self._container.prepare([f"{trial.path}{name}" for trial in trials for name in _DESCRIBING], MAX_JSON)
        return [self._find(trial) for trial in trials]

    @property
    def parents_read(self) -> bool:
        """Whether the parents' zoo was at hand."""
        return self.sparsifier is not None and bool(self._parents)

    def _identify(self, own: FolderName) -> tuple[str, str]:
        parent = self._parent_folder() if self.sparsifier is not None else None
        told = [own, *([parent] if parent else [])]
        if self._reading.name is not None:
            told.append(read_folder_name(self._reading.name))
        told += [read_folder_name(dump) for dump in self._dumps()]
        images = next((name.images for name in told if name.images is not None), None)
        if images is None:
            raise SourceError(
                f"{self._folder.name}: nothing tells which images its models were trained on; "
                "rename the folder as the authors did (tune_zoo_mnist_…), or give --name mnist_cnn_s or the like"
            )
        suffix = own.suffix or (parent.suffix if parent else "")
        return images, zoo_name(images, self._kind.architecture, suffix, self.sparsifier, own.percent)

    def _stated_sparsifier(self) -> Sparsifier | None:
        """What an export of this package says."""
        stated = (self._params(trial).get(SPARSIFIER_KEY) for trial in self._folder.trials[:1])
        return next((name for name in stated if isinstance(name, str) and NAME.fullmatch(name)), None)

    def _dumps(self) -> Iterator[str]:
        for trial in self._folder.trials[:_PROBES]:
            dump = self._params(trial).get("dataset::dump")
            if isinstance(dump, str):
                yield dump

    def _parent_folder(self) -> FolderName | None:
        """What the parents' zoo folder is called."""
        for trial in self._folder.trials[:_PROBES]:
            parent = parent_of(self._params(trial).get("training::init_checkpoint_path"))
            if parent is not None:
                return read_folder_name(parent[0])
        return None

    def _params(self, trial: Trial) -> dict[str, Any]:
        """params.json, empty where there is none that can be read; `_model` says why."""
        try:
            return read_json(self._container.read(f"{trial.path}params.json", MAX_JSON))
        except CheckpointError:
            return {}

    def _find(self, trial: Trial) -> Found:
        """A trial as a model, with the epochs of which it should have states."""
        found = Found(trial=trial)
        if trial.path in self._container.refused:
            found.reason = self._container.refused[trial.path]
            return found
        problems = []
        try:
            found.results = self._results(trial)
        except CheckpointError as error:
            problems.append(str(error))
        reported = set(found.results.epochs) if found.results else set()
        found.epochs = tuple(sorted({*trial.epochs, *(reported & self._checkpoint_epochs)}))
        try:
            found.model = self._model(trial)
        except CheckpointError as error:
            problems.append(str(error))
        if not found.epochs:
            problems.append("the folder holds no checkpoint")
        if problems:
            found.model, found.reason = None, "; ".join(problems)
        return found

    def _results(self, trial: Trial) -> Results:
        if "result.json" not in trial.files:
            raise CheckpointError("the folder holds no result.json")
        try:
            results = parse_results(self._container.read(f"{trial.path}result.json", MAX_JSON))
        except CheckpointError as error:
            raise CheckpointError(f"result.json: {error}") from error
        if not results.epochs:
            raise CheckpointError("result.json reports no epoch")
        self.notes.update(results.notes(trial.epochs))
        return results

    @cached_property
    def _checkpoint_epochs(self) -> frozenset[int]:
        """Epochs of which any trial has a checkpoint: zoos may keep fewer than they report."""
        return frozenset().union(*(trial.epochs for trial in self._folder.trials))

    def _model(self, trial: Trial) -> Model:
        params: dict[str, Any] = {}
        if "params.json" in trial.files:
            try:
                params = read_json(self._container.read(f"{trial.path}params.json", MAX_JSON))
            except CheckpointError as error:
                self.notes[f"params.json: {error}; the folder's name was used instead"] += 1
        else:
            self.notes["there is no params.json; the folder's name was used instead"] += 1
        columns = columns_of(params, trial.name, self._defaults)
        self.notes.update(contradictions(params, self._kind.classes, self._kind.in_channels))
        columns |= {"images": self.images, "sparsifier": self.sparsifier}
        if self.sparsifier is not None:
            parent = parent_of(params.get("training::init_checkpoint_path"))
            if parent is None:
                raise CheckpointError("params.json tells no parent (training::init_checkpoint_path)")
            columns |= self._parent_columns(parent)
            trained = params.get("training::epochs_train")
            columns |= {"parent_id": raw_model_id(*parent), "parent_zoo": parent[0]}
            columns |= {"epochs_train": trained if type(trained) is int and trained > 0 else None}
        return Model(model_id=raw_model_id(self._folder.name, trial.name), columns=columns, label=trial.name)

    def _parent_columns(self, parent: tuple[str, str]) -> dict[str, Any]:
        """The parent's hyperparameters: its own, else those in its folder's name. What a twin's params.json says is
        often those of the zoo's first parent."""
        return self._parents.get(parent) or read_trial_name(parent[1])

    @cached_property
    def _parents(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Hyperparameters of the parents' zoo, by zoo folder and trial; empty where it is not at hand."""
        names = {
            parent[0]
            for trial in self._folder.trials[:_PROBES]
            if (parent := parent_of(self._params(trial).get("training::init_checkpoint_path"))) is not None
        }
        return read_params(self._reading.parents, self._beside, names - {self._folder.name})

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        """What all members of a published zoo have in common."""
        try:
            spec = get_zoo(self.name)
        except UnknownNameError:
            return {}
        common = {axis: getattr(spec, axis)[0] for axis in GRID_FIELDS if len(getattr(spec, axis)) == 1}
        return common | {"momentum": spec.momentum, "batch_size": spec.batch_size}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is longer than any file's, or a folder that may not be entered
        return False


def read_params(
    given: Path | str | None, beside: Path | None, names: Iterable[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Hyperparameters of another raw zoo, by zoo folder and trial folder; empty where there is none.

    Args:
        given: where that zoo lies, if the user said so.
        beside: a folder in which to look for it else.
        names: what its folder may be called.
    """
    endings = ("", *(ending for kind in ARCHIVES for ending in kind.endings))
    # Files tell these names: one that is no plain name would lead to other folders.
    plain = [name for name in sorted(names) if check_name(name) is None and "/" not in name]
    nearby = [beside / f"{name}{ending}" for name in plain for ending in endings] if beside else []
    path = given or next((path for path in nearby if _is_there(path)), None)
    if path is None:
        return {}
    container = open_location(path)
    folder = find_zoo(container)
    container.prepare([f"{trial.path}params.json" for trial in folder.trials], MAX_JSON)
    found = {}
    for trial in folder.trials:
        try:
            params = read_json(container.read(f"{trial.path}params.json", MAX_JSON))
            found[folder.name, trial.name] = columns_of(params, trial.name, {})
        except CheckpointError:
            continue  # the name of its folder is what remains
    return found
