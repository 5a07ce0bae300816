"""The on-disk format of a trained population: the only seam between training and builders.

    runs/mnist_cnn_s/
      zoo.json                       spec, growth, limits, images, layout, engine, versions; of twins their parents
      members.json                   of twins only: all members, each with its parent
      cohort-0000/
        members.json                 ids, hyperparameters, seeds
        epoch-0000.safetensors       every tensor stacked over the members: [K, …]; of twins by variational dropout
                                     the weights that act, and `log_sigma2` [K, D], −∞ where a weight has no noise
        metrics.parquet              one row a member and finished epoch
        step-00000012.safetensors    of zoos with `every_steps`: the tensors after a step within an epoch, counted from
        steps.parquet                the start of the training, and the figures of these states
        resume.safetensors           state of training after the last finished epoch; where a zoo keeps some epochs
                                     only (`checkpoints`), and not this one, with its weights as `acting` [K, D]

Per epoch the three files are written in that order, each atomically: an epoch is finished for a reader
when it stands in the metrics, and for training when it stands in the resume file. Nothing in a run
depends on when or how often it was interrupted, so there are no times in it.

These three and zoo.json carry a checksum in themselves (`storage.checksums`), with the epoch they were written after
and a digest of their models; a members.json is compared with the models that zoo.json describes. Runs of earlier
versions carry none and are read all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from zoo_datasets.documents import StrPath, read_json
from zoo_datasets.errors import DamagedError, DocumentError, RunError
from zoo_datasets.runs.cohort import MEMBERS, Cohort, digest_of_members, read_members
from zoo_datasets.runs.manifest import RUN_MANIFEST, RunManifest
from zoo_datasets.specs.members import Member, members_of
from zoo_datasets.storage.checksums import RECORD, Record, read_record, write_checked
from zoo_datasets.storage.files import write_json
from zoo_datasets.text import json_text


class Run:
    """A run folder. `Run.open` reads one, `Run.save` writes its zoo.json."""

    def __init__(self, path: Path, manifest: RunManifest, record: Record | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._record = record

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.manifest.zoo.name}, {self.models:,} models, epochs 0–{self.epochs})"

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a run lies in this folder."""
        return (path / RUN_MANIFEST).is_file()

    @classmethod
    def open(cls, path: StrPath) -> Run:
        """The run in a folder.

        Raises:
            RunError: if there is none, or its zoo.json is broken.
            DamagedError: if zoo.json holds other bytes than were written.
        """
        path = Path(path)
        file = path / RUN_MANIFEST
        if not file.is_file():
            raise RunError(f"{path} is not a run: there is no {RUN_MANIFEST} in it; `zoo train` makes runs")
        try:
            value = read_json(file)
        except (OSError, DocumentError) as error:
            raise RunError(f"{file} could not be read: {error}") from error
        manifest = RunManifest.from_dict(value, str(file))
        try:
            return cls(path, manifest, read_record(file))
        except DamagedError as error:
            raise DamagedError(f"{error}; write it again as it was, or train into another folder") from error

    def save(self) -> None:
        """Write zoo.json."""
        record = Record(self.epochs, digest_of_members(self.members))
        value = self.manifest.to_dict() | {RECORD: record.line()}
        write_checked(self.path / RUN_MANIFEST, f"{json_text(value, indent=2)}\n".encode())

    def save_twins(self, members: Sequence[Member]) -> None:
        """Write zoo.json, and before it the list of members, which a twin's spec does not tell."""
        write_json(self.path / MEMBERS, [member.to_dict() for member in members])
        self.save()

    @cached_property
    def members(self) -> list[Member]:
        """The members that the run was asked for, in their fixed order.

        Raises:
            RunError: if those of twins cannot be read.
        """
        if self.manifest.parents is None:
            file = self.path / RUN_MANIFEST
            try:
                members = members_of(self.manifest.zoo, self.manifest.limits, self.models)
            except ValueError as error:
                raise RunError(f"{file}: {error}") from error
        else:
            file = self.path / MEMBERS
            members = read_members(file)[: self.models]
        if len(members) < self.models:
            raise RunError(f"{file} lists {len(members)} members, expected {self.models}")
        if self._record is not None and self._record.members != digest_of_members(members):
            raise DamagedError(f"{file} describes other models than those that the run was begun with")
        return members

    @property
    def epochs(self) -> int:
        """The last epoch that the run was asked for."""
        return self.manifest.growth[-1].epochs

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """The epochs whose states it keeps, ascending, of those that it was asked for."""
        return self.manifest.zoo.kept_epochs(self.epochs)

    @property
    def models(self) -> int:
        """Number of members that the run was asked for."""
        return self.manifest.growth[-1].models

    def cohort(self, index: int) -> Cohort:
        """The cohort of that number, whether or not it was begun."""
        return self._cohort(self.path / f"cohort-{index:04d}")

    def _cohort(self, path: Path) -> Cohort:
        zoo, network_of = self.manifest.zoo, self.manifest.network_of
        layout = (lambda member: network_of(member).layout) if zoo.is_sized else self.manifest.layout
        steps = self.manifest.steps_within if zoo.every_steps else None
        return Cohort(path, layout, zoo.checkpoints, steps)

    def cohorts(self) -> list[Cohort]:
        """All cohorts that were begun, in order."""
        folders = sorted(path for path in self.path.glob("cohort-*") if (path / MEMBERS).is_file())
        return [self._cohort(path) for path in folders]

    @property
    def checked(self) -> bool:
        """Whether zoo.json carried a checksum when it was read: earlier versions wrote none."""
        return self._record is not None

    def sound_cohorts(self) -> tuple[list[Cohort], dict[str, str]]:
        """The cohorts whose members are those of the run, and of other folders, by name, why theirs are not."""
        members = {member.model_id: member for member in self.members}
        seen: set[str] = set()
        sound: list[Cohort] = []
        odd: dict[str, str] = {}
        for path in sorted(path for path in self.path.glob("cohort-*") if any(path.glob("[!.]*"))):
            cohort = self._cohort(path)
            try:
                cohort.check_members(members, seen)
            except RunError as error:
                odd[path.name] = str(error)
            else:
                seen.update(member.model_id for member in cohort.members)
                sound.append(cohort)
        return sound, odd
