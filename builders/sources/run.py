"""Runs of `zoo train` as a source."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from zoo_datasets.builders.containers.locate import Place, has_file, local_folder
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import OpenColumns, Reading, Source, StateBlock, States
from zoo_datasets.errors import RunError, SourceError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.variational import LOG_SIGMA2
from zoo_datasets.repository.credit import TRAINED
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.where import parse_where
from zoo_datasets.runs.cohort import METRICS, STEPS, UNCHECKED, Cohort
from zoo_datasets.runs.manifest import RUN_MANIFEST
from zoo_datasets.runs.rows import LABEL, PSNR, Model, RunRows, figures_of, further_columns, is_open, psnr_of
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Limits, Member
from zoo_datasets.specs.spec import digest_of

NOT_TRAINED = "not trained yet"
LOST = f"its figures are lost: {METRICS} has none of this epoch; the command that trained the run makes them again"

_LIMITS = "it records the limits on its images itself, so --limit-… would contradict them"
_PARENTS = "its members know their parents, so --parents is of no use"
_IMAGES = "its losses are cross-entropy already, so there is nothing to recompute with --images"
_NONE: frozenset[int] = frozenset()
_UNCHECKED = "without checksum"


def is_run(place: Place) -> bool:
    """Whether a run lies in a folder, local or remote."""
    return has_file(place, RUN_MANIFEST)


class RunSource(Source):
    """A run, finished or not. Its blocks are the rectangles by which it grew."""

    kind = "run"
    credit = TRAINED

    def __init__(self, run: Run, reading: Reading | None = None) -> None:
        manifest = run.manifest
        self._metrics: dict[Path, pa.Table] = {}
        self.run = run
        self._reading = reading or Reading()
        if self._reading.keep_log_sigma2 and manifest.zoo.sparsifier != "variational_dropout":
            raise SourceError(f"{run.path} holds no log_sigma2: its models are not twins by variational dropout")
        self.name = manifest.zoo.name
        self._rows = RunRows(run, self._reading.name)
        own = self._reading.state_dicts.where
        further = {column.name: column.type for column in further_columns(manifest.zoo)}
        self._where = self._reading.where if own is None else parse_where(own, further)
        if is_open(run):
            if self._reading.keep_log_sigma2:
                raise SourceError(f"{run.path}: log_sigma2 is kept of zoos without further hyperparameters only")
            columns = further_columns(manifest.zoo)
            self.open_columns = OpenColumns(records=self._rows.records, further=columns, weights=self._rows.mean_size)
        else:
            self.network = manifest.network
        self.extras = (LOG_SIGMA2,) if self._reading.keep_log_sigma2 else ()
        self.models = len(self._chosen)
        self.states = sum(map(self._states_of, self._chosen, self._chosen.values()))

    @classmethod
    def open(cls, place: Place, reading: Reading | None = None) -> RunSource:
        """The run in a folder; a remote one is fetched as a whole.

        Raises:
            RunError: if there is no run, or it is broken.
            SourceError: if no state fits the selection, or an option that only applies to raw zoos is set.
        """
        reading = reading or Reading()
        refused = [why for asked, why in ((reading.limits != Limits(), _LIMITS), (reading.parents, _PARENTS),
                                          (reading.images, _IMAGES)) if asked]  # fmt: skip
        if refused:
            shown = place if isinstance(place, Path) else place.name
            raise SourceError(f"{shown} is a run: {'; '.join(refused)}")
        return cls(Run.open(local_folder(place)), reading)

    @property
    def layout(self) -> WeightLayout:
        """As the run records it."""
        return self.run.manifest.layout

    @property
    def zoo(self) -> Mapping[str, Any]:
        """The recipe."""
        return self.run.manifest.zoo.to_dict()

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        """Folders that are not cohorts of the run, and the number of states without checksums."""
        notes = Notes()
        for name, reason in self._odd.items():
            notes.add([Note("run-odd-folder", f"{name} is left out: {self._published(reason)}", whole=True)])
        count = tallies.get(_UNCHECKED, 0)
        notes.add_counted(Note("run-unchecked", f"{UNCHECKED} ({count:,} states)", whole=True), count)
        return notes

    @property
    def source_id(self) -> str:
        """Digest of what a run may not change: the recipe without its epochs, limits, and the images."""
        manifest = self.run.manifest
        recipe = {key: value for key, value in manifest.zoo.to_dict().items() if key != "epochs"}
        where = [] if self._where is None else [self._where.text]
        parents = [] if manifest.parents is None else [dataclasses.asdict(manifest.parents), *self.extras]
        return digest_of([recipe, dataclasses.asdict(manifest.limits), manifest.images.fingerprint, *parents, *where])

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """What the run records about itself, without its folder."""
        value = self.run.manifest.to_dict()
        parts = ("growth", "limits", "images", "engine", "versions", "parents")
        recorded = {key: value[key] for key in parts if key in value}
        selection = self._reading.selection()
        return recorded | ({"selection": selection} if selection else {})

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of the files that rows are made of."""
        files = [self.run.path / RUN_MANIFEST]
        for pattern in ("members.json", "metrics.parquet", "epoch-*.safetensors", "step*"):
            files += sorted(self.run.path.glob(f"cohort-*/{pattern}"))
        stats = [(str(file.relative_to(self.run.path)), file.stat()) for file in files]
        return digest_of([self.source_id, *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)])

    def blocks(self) -> Sequence[StateBlock]:
        """For each step of growth: the new members with all their epochs, then the new epochs of the others."""
        by_step: list[list[Model]] = [[] for _ in self.run.manifest.growth]
        for cohort, step in self._cohorts:
            by_step[step] += [self._rows.models[member.model_id] for member in cohort.members]
        for model_id in self._unbegun:
            by_step[self._step_of[model_id]].append(self._rows.models[model_id])
        blocks: list[StateBlock] = []
        older: list[Model] = []
        reached = -1
        for size, new in zip(self.run.manifest.growth, by_step, strict=True):
            blocks.append(StateBlock(models=tuple(new), epochs=self._kept(-1, size.epochs)))
            blocks.append(StateBlock(models=tuple(older), epochs=self._kept(reached, size.epochs)))
            older += new
            reached = size.epochs
        return [part for block in blocks if (part := self._part(block)).models and part.epochs]

    def _kept(self, after: int, last: int) -> tuple[int, ...]:
        return tuple(epoch for epoch in self.run.kept_epochs if after < epoch <= last)

    def _part(self, block: StateBlock) -> StateBlock:
        """The selected models and epochs of a block; `read` skips single states."""
        models = tuple(m for m in block.models if not self._chosen.get(m.model_id, _NONE).isdisjoint(block.epochs))
        epochs = frozenset[int]().union(*(self._chosen[model.model_id] for model in models))
        return StateBlock(models=models, epochs=tuple(epoch for epoch in block.epochs if epoch in epochs))

    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, one cohort and epoch at a time."""
        wanted = {model.model_id: model for model in block.models}
        readers = [_Reader(self.run, cohort, self.extras, self._metrics) for cohort, _ in self._cohorts]
        odd = "; ".join(f"{name} ({self._published(why)})" for name, why in self._odd.items())
        absent = f"{NOT_TRAINED}, or in a folder that cannot be used: {odd}" if odd else NOT_TRAINED
        for epoch in block.epochs:
            here = {model_id: model for model_id, model in wanted.items() if epoch in self._chosen[model_id]}
            for reader in readers:
                yield from reader.at(epoch, here)
            unbegun = (model_id for model_id in here if model_id in self._unbegun)
            for model_id in unbegun:
                yield LeftOut(model=model_id, epochs=(epoch,) * self._states_of(model_id, (epoch,)), reason=absent)

    def _published(self, reason: str) -> str:
        """A reason as it stands in the repository, where the folder on this machine means nothing."""
        return reason.replace(f"{self.run.path}/", "")

    @cached_property
    def _chosen(self) -> dict[str, frozenset[int]]:
        """The selected epochs of each selected model, in the order of the zoo."""
        reading = self._reading
        asked = [epoch for epoch in self.run.kept_epochs if reading.epochs is None or epoch in reading.epochs]
        if self._where is None:
            wanted = dict.fromkeys(self._rows.models, frozenset(asked)) if asked else {}
        else:
            wanted = self._rows.matching(self._where, asked)
        wanted = dict(itertools.islice(wanted.items(), reading.models))
        if not wanted:
            held = f"it has epochs 0 to {self.run.epochs} of {self.run.models:,} members"
            raise SourceError(f"{self.run.path}: no state of it fits the selection; {held}")
        return wanted

    def _states_of(self, model_id: str, epochs: Collection[int]) -> int:
        """The number of states of a model at some epochs, with those after steps within them."""
        manifest = self.run.manifest
        if manifest.zoo.every_steps is None:
            return len(epochs)
        member = self._by_id[model_id]
        return sum(1 + len(manifest.steps_within(member, epoch)) for epoch in epochs)

    @cached_property
    def _by_id(self) -> dict[str, Member]:
        return {member.model_id: member for member in self._members}

    @cached_property
    def _members(self) -> list[Member]:
        return self.run.members

    @cached_property
    def _step_of(self) -> dict[str, int]:
        """The step of growth that each member came with: members join in the order of the zoo."""
        sizes = [step.models for step in self.run.manifest.growth]
        return {member.model_id: bisect.bisect_right(sizes, index) for index, member in enumerate(self._members)}

    @cached_property
    def _cohorts(self) -> list[tuple[Cohort, int]]:
        """The cohorts already begun, each with its step of growth."""
        return self._sound[0]

    @property
    def _odd(self) -> dict[str, str]:
        """Folders left out, by name, with the reason why their members are not those of the run."""
        return self._sound[1]

    @cached_property
    def _sound(self) -> tuple[list[tuple[Cohort, int]], dict[str, str]]:
        cohorts, odd = self.run.sound_cohorts()
        sound: list[tuple[Cohort, int]] = []
        for cohort in cohorts:
            steps = {self._step_of[member.model_id] for member in cohort.members}
            if len(steps) == 1:
                sound.append((cohort, steps.pop()))
            else:
                odd[cohort.path.name] = f"its members are of growth steps {sorted(steps)}, expected one step a cohort"
        return sound, odd

    @cached_property
    def _unbegun(self) -> dict[str, None]:
        """Ids of members whose cohort does not exist yet, in the order of the zoo."""
        begun = {member.model_id for cohort, _ in self._cohorts for member in cohort.members}
        return {member.model_id: None for member in self._members if member.model_id not in begun}


class _Reader:
    """One cohort, epoch by epoch; its metrics are read once and kept in `metrics`."""

    def __init__(self, run: Run, cohort: Cohort, extras: Sequence[str], metrics: dict[Path, pa.Table]) -> None:
        self._run = run
        self._extras = extras
        self._cohort = cohort
        self._metrics = metrics
        self._ids = [member.model_id for member in cohort.members]

    def at(self, epoch: int, wanted: Mapping[str, Model]) -> Iterator[States | LeftOut]:
        """The states of those of its members that are wanted, or the reason why they are missing."""
        positions = [position for position, model_id in enumerate(self._ids) if model_id in wanted]
        models = [wanted[self._ids[position]] for position in positions]
        some = None if len(positions) == len(self._ids) else positions
        if not models:
            return
        for step in (*self._cohort.steps_within(epoch), None):
            yield from self._state(epoch, step, models, some)

    def _rows_at(self, epoch: int, step: int | None) -> pa.Table | None:
        file, read = self._cohort.path / METRICS, self._cohort.metrics
        if step is not None:
            file, read = self._cohort.path / STEPS, self._cohort.step_metrics
        if file not in self._metrics:
            self._metrics[file] = read()
        metrics = self._metrics[file]
        return self._cohort.figures_in(metrics, epoch) if step is None else self._cohort.step_figures(metrics, step)

    def _state(
        self, epoch: int, step: int | None, models: Sequence[Model], some: Sequence[int] | None
    ) -> Iterator[States | LeftOut]:
        """The states of some models after an epoch, or a step within it."""
        try:
            rows = self._rows_at(epoch, step)
            weights = None if rows is None else self._cohort.weights(epoch, some, step)
            extras = {} if rows is None else {name: self._extra(name, epoch) for name in self._extras}
            labels = self._labels(epoch, some) if rows is not None and self._run.manifest.is_field else torch.empty(0)
        except RunError as error:
            # The reason is published with the data, where the folder on this machine means nothing.
            reason = str(error).replace(f"{self._run.path}/", "")
            yield from (LeftOut(model=model.model_id, epochs=(epoch,), reason=reason) for model in models)
            return
        if rows is None or weights is None:
            reason = LOST if epoch in self._lost else NOT_TRAINED
            yield from (LeftOut(model=model.model_id, epochs=(epoch,), reason=reason) for model in models)
            return
        if some is not None:
            rows = rows.take(pa.array(some, pa.int64()))
        figures = {name: rows.column(name).combine_chunks() for name in figures_of(self._run)}
        manifest = self._run.manifest
        if manifest.is_field:
            figures |= {PSNR: psnr_of(figures["train_loss"]), LABEL: pa.array(labels.tolist(), pa.int64())}
        if manifest.zoo.every_steps is not None or manifest.is_field:
            so_far = epoch * manifest.steps_an_epoch(self._cohort.members[0]) if step is None else step
            figures["step"] = pa.array([so_far] * len(models), pa.int64())
        yield States(
            epochs=[epoch] * len(models),
            models=models,
            layout=models[0].layouts[0] if models[0].layouts else None,
            weights=weights,
            figures=figures,
            extras={name: values if some is None else values[some] for name, values in extras.items()},
            tallies=Counter({_UNCHECKED: len(models)} if self._is_unchecked(epoch) else {}),
        )

    def _labels(self, epoch: int, some: Sequence[int] | None) -> Tensor:
        labels = self._cohort.labels(epoch)
        return labels if some is None else labels[some]

    def _extra(self, name: str, epoch: int) -> Tensor:
        values = self._cohort.log_sigma2(epoch)
        if values is None:
            raise RunError(f"{self._cohort.epoch_file(epoch)}: there is no {name} in it")
        return values

    def _is_unchecked(self, epoch: int) -> bool:
        return not self._cohort.unchecked.isdisjoint((METRICS, self._cohort.epoch_file(epoch).name))

    @cached_property
    def _lost(self) -> Collection[int]:
        try:
            return self._cohort.without_figures()
        except RunError:
            return _NONE  # training will say what is the matter with it
