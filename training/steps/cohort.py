"""Training of one cohort: epoch by epoch, block by block, from its last finished epoch on."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from zoo_datasets.errors import RunError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.networks.kind import is_field
from zoo_datasets.networks.layers import Layer
from zoo_datasets.networks.sparsity import sparsity
from zoo_datasets.networks.variational import LOG_SIGMA2
from zoo_datasets.runs.cohort import ACTING, LABELS, RESUME, SPARSITY, Cohort, metrics_table
from zoo_datasets.specs.members import Member
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.stacked import BlockRecipe, MemberBlock, Tally
from zoo_datasets.stacked.field import psnr, signals_of
from zoo_datasets.training.launch import EpochReport
from zoo_datasets.training.population.opening import Start
from zoo_datasets.training.sparsifiers import SPARSIFIERS
from zoo_datasets.training.steps.recipes import MemberSettings, block_recipe, seeds_of, training_images

# Steps between two looks at whether the user wants to stop: a tenth to half a second of small networks; a large
# one is looked after at each step. Fixed, because the sums of the metrics are rounded at these places.
STEPS_AT_ONCE = 100


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Raised inside a worker after the stop event was set; nothing half-done is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortJob:
    """What all cohorts of a run share.

    Attributes:
        data: the images after limits.
        start: where members begin.
        epochs_before: of the parents' training; random streams go on from there.
        last_epoch: the epoch that every member trains to.
        make_block: the engine path.
        workers: where blocks run.
        stop: set to ask all workers to stop.
    """

    zoo: ZooSpec
    layers: tuple[Layer, ...]
    data: ImageData
    start: Start
    epochs_before: int
    last_epoch: int
    lanes: int
    make_block: Callable[[BlockRecipe, ImageData], MemberBlock]
    workers: Executor
    stop: threading.Event


class CohortTrainer:
    """Trains the members of one cohort from where their folder stands to the job's last epoch."""

    def __init__(self, job: CohortJob, cohort: Cohort, members: Sequence[Member]) -> None:
        self._job = job
        self._cohort = cohort
        self._members = list(members)
        self._slices = [
            slice(start, min(start + job.lanes, len(members))) for start in range(0, len(members), job.lanes)
        ]
        recipes = [block_recipe(job.layers, job.zoo, members[part]) for part in self._slices]
        self._blocks = [job.make_block(recipe, job.data) for recipe in recipes]
        self._field = is_field(job.zoo.architecture)
        self._images = training_images(job.zoo, job.data.train, members)
        self._steps = -(-len(self._images) // recipes[0].batch_size)
        self._orders: dict[int, tuple[int, Tensor]] = {}
        self._settings = [
            MemberSettings.of(members[part], len(self._images), recipes[0].batch_size) for part in self._slices
        ]

    def run(self, report: Callable[[EpochReport], None]) -> None:
        """Train to the job's last epoch; `report` is called after each epoch whose states are kept.

        Raises:
            Stopped: if the stop event was set; finished epochs are on disk.
            RunError: if what lies on disk is broken or belongs to other members.
        """
        with self._cohort.locked():
            self._cohort.begin(self._members)
            done = self._restore()
            if done is None:
                done = 0
                begun = self._begin()
                if begun is not None:
                    report(begun)
            for epoch in range(done + 1, self._job.last_epoch + 1):
                if self._cohort.keeps(epoch):
                    report(self._train(epoch))
                else:
                    self._pass(epoch)

    def _restore(self) -> int | None:
        resume = self._cohort.read_resume()
        if resume is None:
            return None
        epoch, state = resume
        if epoch < self._job.last_epoch:
            weights = state.pop(ACTING) if ACTING in state else self._cohort.weights(epoch)
            for block, part in zip(self._blocks, self._slices, strict=True):
                own = {name: tensor[part] for name, tensor in state.items()}
                block.load(weights[part], own)
                if RESUME in self._cohort.unchecked and not own.keys() == block.store()[1].keys():
                    raise RunError(
                        f"{self._cohort.path / RESUME} holds {', '.join(own)[:80]!r}, which is another state"
                    )
        if epoch > self._job.last_epoch:
            raise RunError(f"{self._cohort.path} is at epoch {epoch}, beyond the {self._job.last_epoch} asked for")
        return epoch

    def _begin(self) -> EpochReport | None:
        """Epoch 0: measured on all splits before any step, where it is kept."""
        weights, state = self._job.start(self._job.zoo, self._job.layers, self._members)
        for block, part in zip(self._blocks, self._slices, strict=True):
            block.load(weights[part], {name: tensor[part] for name, tensor in state.items()})

        if not self._cohort.keeps(0):
            self._write_resume(0)
            return None

        def measure(index: int) -> dict[str, Tally]:
            self._check_stop()
            return {"train": self._blocks[index].evaluate(self._images)} | self._evaluate(index)

        return self._write(0, list(self._job.workers.map(measure, range(len(self._blocks)))))

    def _train(self, epoch: int) -> EpochReport:
        """An epoch whose states are kept, part by part where states within it are."""
        steps, before = self._steps, (epoch - 1) * self._steps
        sums: list[Tally | None] = [None] * len(self._blocks)

        def train(index: int, first: int, last: int) -> dict[str, Tally]:
            part, so_far = self._train_block(index, epoch, first, last), sums[index]
            sums[index] = whole = part if so_far is None else so_far + part
            if self._field:  # what they draw now; a mean over many steps is no PSNR of any state
                return {"train": self._blocks[index].evaluate(self._images)}
            return {"train": whole} | self._evaluate(index)

        stops = [*(step - before for step in self._cohort.steps_within(epoch)), steps]
        tables = []
        for first, last in itertools.pairwise([0, *stops]):
            part = functools.partial(train, first=first, last=last)
            tallies = list(self._job.workers.map(part, range(len(self._blocks))))
            if last < steps:
                tables.append(self._write_step(epoch, before + last, tallies))
        if tables:
            self._cohort.write_step_metrics(epoch, pa.concat_tables(tables))
        return self._write(epoch, tallies)

    def _write_step(self, epoch: int, step: int, tallies: Sequence[Mapping[str, Tally]]) -> pa.Table:
        """Write the tensors after a step within an epoch; returns its rows."""
        self._check_stop()
        weights, tensors, _ = self._stored()
        self._cohort.write_step(epoch, step, tensors)
        table = metrics_table(self._members, epoch, *self._figures(weights, tallies))
        return table.add_column(2, "step", pa.array([step] * len(self._members), pa.int64()))

    def _pass(self, epoch: int) -> None:
        """Train an epoch whose states are not kept: nothing is measured, and training can go on from it."""
        train = functools.partial(self._train_block, epoch=epoch, first_step=0, last_step=self._steps)
        list(self._job.workers.map(train, range(len(self._blocks))))
        self._write_resume(epoch)

    def _write_resume(self, epoch: int) -> None:
        self._check_stop()
        stored = [block.store() for block in self._blocks]
        state = {name: torch.cat([block_state[name] for _, block_state in stored]) for name in stored[0][1]}
        self._cohort.write_resume(epoch, state | {ACTING: torch.cat([weights for weights, _ in stored])})

    def _order(self, index: int, stream: int) -> Tensor:
        """The order of the images of an epoch, which its parts share."""
        drawn = self._orders.get(index)
        if drawn is None or drawn[0] != stream:
            drawn = self._orders[index] = stream, self._blocks[index].order(stream, len(self._images))
        return drawn[1]

    def _train_block(self, index: int, epoch: int, first_step: int, last_step: int) -> Tally:
        """Steps of one epoch of one block; the metrics are running averages over them."""
        self._check_stop()
        job, block = self._job, self._blocks[index]
        stream = job.epochs_before + epoch
        order = self._order(index, stream)
        steps = self._steps
        before = (epoch - 1) * steps
        tally: Tally | None = None
        sparsifier = None if job.zoo.sparsifier is None else SPARSIFIERS[job.zoo.sparsifier]
        weight = 0.0 if sparsifier is None else sparsifier.kl_weight(epoch, job.last_epoch)
        at_once = STEPS_AT_ONCE if job.lanes > 1 else 1
        for first in range(first_step, last_step, at_once):
            self._check_stop()
            settings = [
                self._settings[index].at(job.zoo.scheduler, before + step, job.last_epoch * steps)
                for step in range(first, min(first + at_once, last_step))
            ]
            part = block.train(self._images, order, epoch=stream, first_step=first, settings=settings, kl_weight=weight)
            tally = part if tally is None else tally + part
        assert tally is not None
        return tally

    def _evaluate(self, index: int) -> dict[str, Tally]:
        splits = {"val": self._job.data.val, "test": self._job.data.test}
        tallies = {}
        for name, split in splits.items():
            if split is not None and not self._field:  # the signal of a field is all that it is fitted to
                self._check_stop()
                tallies[name] = self._blocks[index].evaluate(split)
        return tallies

    def _write(self, epoch: int, tallies: Sequence[Mapping[str, Tally]]) -> EpochReport:
        """Write the three files of an epoch in the order that makes it finished."""
        self._check_stop()
        weights, tensors, state = self._stored()
        figures, diverged = self._figures(weights, tallies)
        table = metrics_table(self._members, epoch, figures, diverged)
        self._cohort.write_epoch(epoch, tensors, table)
        self._cohort.write_resume(epoch, state)
        return EpochReport(
            cohort=self._cohort.path.name,
            epoch=epoch,
            members=self._members,
            figure=self._reported(figures),
            diverged=int(diverged.sum()),
        )

    def _reported(self, figures: Mapping[str, Tensor | None]) -> Tensor:
        """What progress shows of each member: float64 [K]."""
        shown = next(
            figure for name in ("val_acc", "test_acc", "train_loss") if (figure := figures.get(name)) is not None
        )
        return psnr(shown) if self._field else shown

    def _stored(self) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The weights [K, D], the tensors [K, …] that a file holds of them, and the state."""
        stored = [block.store() for block in self._blocks]
        weights = torch.cat([block_weights for block_weights, _ in stored])
        layout = self._cohort.layout
        state = {name: torch.cat([block_state[name] for _, block_state in stored]) for name in stored[0][1]}
        tensors = layout.unflatten(weights)
        if LOG_SIGMA2 in state:
            tensors[LOG_SIGMA2] = layout.with_buffers(state[LOG_SIGMA2], -torch.inf)
        if self._field:
            tensors[LABELS] = signals_of(self._job.data, seeds_of(self._members))[1]
        return weights, tensors, state

    def _figures(
        self, weights: Tensor, tallies: Sequence[Mapping[str, Tally]]
    ) -> tuple[dict[str, Tensor | None], Tensor]:
        """The figures [K] of a state by column, and which members diverged, bool [K]."""
        figures: dict[str, Tensor | None] = {}
        for split in tallies[0]:
            figures[f"{split}_loss"] = torch.cat([tally[split].mean_loss for tally in tallies])
            if not self._field:
                figures[f"{split}_acc"] = torch.cat([tally[split].accuracy for tally in tallies])
        if self._job.zoo.sparsifier is not None:
            figures[SPARSITY] = sparsity(weights, self._cohort.layout)
        return figures, ~torch.isfinite(weights).all(dim=1)

    def _check_stop(self) -> None:
        if self._job.stop.is_set():
            raise Stopped
