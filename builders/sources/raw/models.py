"""What the trials of a raw zoo are: its images and name, each trial's model, the parents of twins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo_datasets.builders.checkpoints.recognise import Recognised
from zoo_datasets.builders.checkpoints.zips import check_name
from zoo_datasets.builders.containers.archives import ARCHIVES
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import open_location
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.raw.epochs import UNMATCHED, match, numbers_are_iterations
from zoo_datasets.builders.sources.raw.figures import Figures
from zoo_datasets.builders.sources.raw.hyperparameters import MISSING, columns_of, flattened
from zoo_datasets.builders.sources.raw.names import (
    SPARSIFIER_KEY,
    FolderName,
    free_images,
    named_images,
    parent_of,
    raw_model_id,
    read_folder_name,
    read_trial_name,
    zoo_name,
)
from zoo_datasets.builders.sources.raw.published import common_to_all
from zoo_datasets.builders.sources.raw.results import Results, last_config, parse_results
from zoo_datasets.builders.sources.raw.trials import RawFolder, Trial, contradictions, find_zoo, read_json
from zoo_datasets.documents import MAX_JSON
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.runs.rows import Model
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.specs.spec import SparsifierName
from zoo_datasets.storage.instead import BEGINNING, instead
from zoo_datasets.text import printable

_PROBES = 9
_NAMED, _SHOWN = 5, 60  # names in a message, and characters of each
_HYPERPARAMETER_FILES = ("params.json", "config.json")  # the first that has a value counts
_DESCRIBING = (*_HYPERPARAMETER_FILES, "result.json")


@dataclass(kw_only=True, slots=True)
class TrialModel:
    """One trial and its outcome: a model with its states, or the reason why it is not one.

    Attributes:
        epochs: of the states that it has or should have.
        numbers: of their checkpoint folders, by epoch.
        figures: those reported, by epoch.
        lost: checkpoints that cannot be a state, each with the reason.
    """

    trial: Trial
    model: Model | None = None
    results: Results | None = None
    epochs: tuple[int, ...] = ()
    numbers: Mapping[int, int] = field(default_factory=dict)
    figures: Mapping[int, Figures] = field(default_factory=dict)
    lost: tuple[LeftOut, ...] = ()
    reason: str = ""

    def checkpoint(self, epoch: int) -> str | None:
        """Path of an epoch's checkpoint inside the container; None where it is missing."""
        return self.trial.checkpoint(self.numbers[epoch])


class RawModels:
    """Reads params.json and result.json of a zoo's trials.

    Attributes:
        images, name: of the zoo; from its folder's name, else from what the user calls it, else from params.json.
        notes: irregularities that excluded no model.
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
        self.notes = Notes()
        self.sparsifier = self._sparsifier(own)
        self.images, self.name = self._identify(own)

    def found(self) -> list[TrialModel]:
        """The trials, in the order of their models' ids: a hash, so that the first N spread over the grid."""
        trials = sorted(self._folder.trials, key=lambda trial: raw_model_id(self._folder.name, trial.name))
        if self._reading.where is None:
            trials = trials[: self._reading.models]  # what the others tell cannot change which are the first
        paths = [f"{trial.path}{name}" for trial in trials for name in _DESCRIBING if name in trial.files]
        self._container.prepare(paths, MAX_JSON)
        entries = [self._find(trial) for trial in trials]
        self._match(entries)
        return entries

    @property
    def unmatched(self) -> bool:
        """Whether epochs of some models are numbers of checkpoints, because their reports cannot be matched."""
        return UNMATCHED.code in self.notes.counts

    @property
    def parents_read(self) -> bool:
        """Whether the parents' zoo was available."""
        return self.sparsifier is not None and bool(self._parents)

    def _identify(self, own: FolderName) -> tuple[str, str]:
        parent = self._parent_folder() if self.sparsifier is not None else None
        names = [own, *([parent] if parent else [])]
        if self._reading.name is not None:
            names.append(read_folder_name(self._reading.name))
        names += [read_folder_name(dump) for dump in self._dumps()]
        architecture = self._kind.network.architecture
        images = free_images(self._folder.name) or next(
            (name.images for name in names if name.images is not None), None
        )
        if images is None and self._reading.name is not None:
            images = named_images(self._reading.name, architecture)
        if images is None:
            raise SourceError(
                f"{self._folder.name}: cannot tell which images its models were trained on; rename the folder as the "
                f"authors did (tune_zoo_mnist_…), or give --name mnist_{architecture} or the like"
            )
        suffix = own.suffix or (parent.suffix if parent else "")
        return images, zoo_name(images, architecture, suffix, self.sparsifier, own.percent)

    def _sparsifier(self, own: FolderName) -> SparsifierName | None:
        """How the zoo's models were pruned, if they are twins; masks alone make no twins of models without parents."""
        stated = self._stated_sparsifier() or own.sparsifier
        if self._kind.sparsifier == "magnitude" and stated is None and self._parent_folder() is None:
            text = (
                "weights are masked (weight_mask) and no model names a parent: they are rows of a dense zoo, with zeros"
            )
            self.notes.add_counted(Note("import-masked-weights", text, whole=True), len(self._folder.trials))
            return None
        return self._kind.sparsifier or stated

    def _stated_sparsifier(self) -> SparsifierName | None:
        """The sparsifier that an export of this package records."""
        stated = (self._params(trial).get(SPARSIFIER_KEY) for trial in self._folder.trials[:1])
        return next((name for name in stated if isinstance(name, str) and NAME.fullmatch(name)), None)

    def _dumps(self) -> Iterator[str]:
        for trial in self._folder.trials[:_PROBES]:
            dump = self._params(trial).get("dataset::dump")
            if isinstance(dump, str):
                yield dump.replace("\\", "/")

    def _parent_folder(self) -> FolderName | None:
        """The parsed name of the parents' zoo folder; None if no twin names one."""
        for trial in self._folder.trials[:_PROBES]:
            parent = parent_of(self._params(trial).get("training::init_checkpoint_path"))
            if parent is not None:
                return read_folder_name(parent[0])
        return None

    def _params(self, trial: Trial) -> Mapping[str, Any]:
        """The hyperparameters of a trial by flattened name, empty if none can be read; `_told` notes why."""
        return next((values for _, values in self._told(trial, [])), {})

    def _find(self, trial: Trial) -> TrialModel:
        """A trial as a model; `_match` fills in its states."""
        entry = TrialModel(trial=trial)
        if trial.path in self._container.refused:
            entry.reason = self._container.refused[trial.path]
            return entry
        problems = []
        notes: list[Note] = []
        try:
            entry.results = self._results(trial)
            notes += entry.results.notes
        except CheckpointError as error:
            problems.append(str(error))
        try:
            entry.model = self._model(trial, notes)
        except CheckpointError as error:
            problems.append(str(error))
        if problems:
            problems += [note.text for note in notes if note.code == MISSING]
        if trial.contents.renamed:
            names = ", ".join(printable(name)[:_SHOWN] for name in sorted(trial.contents.renamed)[:_NAMED])
            text = f"no file is named checkpoints; the weights are those in {names}"
            notes.append(Note("import-checkpoint-name", text))
        self.notes.add(notes)
        entry.reason = "; ".join(problems)
        return entry

    def _match(self, entries: Sequence[TrialModel]) -> None:
        """Fill in the states of trials and the reports that belong to them."""
        with_results = [(entry.trial.epochs, entry.results) for entry in entries if entry.results is not None]
        by_iteration = numbers_are_iterations(with_results)
        for entry in entries:
            numbers = entry.trial.epochs
            if entry.results is None:
                entry.numbers = {number: number for number in sorted(numbers)}
            else:
                matching = match(numbers, entry.results, by_iteration, self._checkpoint_numbers)
                entry.numbers, entry.figures = matching.numbers, matching.figures
                entry.lost = tuple(
                    LeftOut(model=entry.trial.name, epochs=(number,), reason=reason)
                    for number, reason in sorted(matching.lost.items())
                )
                self.notes.add(matching.notes)
            entry.epochs = tuple(entry.numbers)
            if not numbers and not entry.epochs and entry.trial.path not in self._container.refused:
                entry.reason = "; ".join(filter(None, [entry.reason, "the folder holds no checkpoint"]))
            if entry.reason:
                entry.model = None

    def _results(self, trial: Trial) -> Results:
        if "result.json" not in trial.files:
            raise CheckpointError("the folder holds no result.json")
        try:
            data = self._container.read(f"{trial.path}result.json", MAX_JSON)
        except CheckpointError as error:
            raise CheckpointError(f"result.json: {error}") from error
        results = parse_results(data, twins=self.sparsifier == "variational_dropout")
        if not results.epochs:
            raise CheckpointError(f"result.json {instead(data[:BEGINNING]) or 'reports no epoch'}")
        return results

    @cached_property
    def _checkpoint_numbers(self) -> frozenset[int]:
        """Numbers of which any trial has a checkpoint: zoos may keep fewer than they report."""
        return frozenset().union(*(trial.epochs for trial in self._folder.trials))

    def _told(self, trial: Trial, notes: list[Note]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The hyperparameters of a trial by flattened name, file by file, each read on demand."""
        for file in _HYPERPARAMETER_FILES:
            if file not in trial.files:
                continue
            try:
                yield file, flattened(read_json(self._container.read(f"{trial.path}{file}", MAX_JSON)))
            except CheckpointError as error:
                notes.append(Note("import-params-unread", f"{file}: {error}"))
        if "result.json" in trial.files:
            with contextlib.suppress(CheckpointError):
                config = last_config(self._container.read(f"{trial.path}result.json", MAX_JSON))
                if config:
                    yield "result.json", flattened(config)

    def _model(self, trial: Trial, notes: list[Note]) -> Model:
        files = Told(self._told(trial, notes))
        columns, strange = columns_of(files, trial.name, self._defaults)
        notes += strange
        file, params = next(iter(files), ("the folder's name", {}))
        if "params.json" not in trial.files:
            notes.append(Note("import-params-elsewhere", f"there is no params.json; {file} was used instead"))
        notes += contradictions(file, params, self._kind.network)
        columns |= {"images": self.images, "sparsifier": self.sparsifier}
        if self.sparsifier is not None:
            parent = parent_of(params.get("training::init_checkpoint_path"))
            if parent is None:
                raise CheckpointError("params.json names no parent (training::init_checkpoint_path)")
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
        """Hyperparameters of the parents' zoo, by zoo folder and trial; empty if it is not available."""
        names = {
            parent[0]
            for trial in self._folder.trials[:_PROBES]
            if (parent := parent_of(self._params(trial).get("training::init_checkpoint_path"))) is not None
        }
        return read_params(self._reading.parents, self._beside, names - {self._folder.name})

    @cached_property
    def _defaults(self) -> Mapping[str, Any]:
        """What all members have in common, where this is known to be a published zoo."""
        return common_to_all(self.name, self._folder.name, [trial.name for trial in self._folder.trials])


class Told:
    """Files of hyperparameters that are read when they are needed, each once: the first usually suffices."""

    def __init__(self, files: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        self._files = files
        self._read: list[tuple[str, Mapping[str, Any]]] = []

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield from self._read
        for one in self._files:
            self._read.append(one)
            yield one


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is longer than any file's, or a folder that may not be entered
        return False


def read_params(
    given: Path | str | None, beside: Path | None, names: Iterable[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Hyperparameters of another raw zoo, by zoo folder and trial folder; empty if there is none.

    Args:
        given: the location of that zoo, if the user gave one.
        beside: a folder in which to look for it otherwise.
        names: possible names of its folder.
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
    hyperparameters = {}
    for trial in folder.trials:
        try:
            params = read_json(container.read(f"{trial.path}params.json", MAX_JSON))
            hyperparameters[folder.name, trial.name], _ = columns_of(
                [("params.json", flattened(params))], trial.name, {}
            )
        except CheckpointError:
            continue  # the name of its folder is what remains
    return hyperparameters
