"""Whether a run is what it says: bytes, members, epochs, weights, and figures recomputed from weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_datasets.errors import DamagedError, RunError, ZooError
from zoo_datasets.evaluation.verify.continuity import exchanges
from zoo_datasets.evaluation.verify.figures import STACK_BYTES, spread, wrong_figures
from zoo_datasets.evaluation.verify.findings import Findings, Verification
from zoo_datasets.evaluation.verify.recipes import check_code_of, differs_from_start
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.sparsity import sparsity
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.runs.manifest import RUN_MANIFEST
from zoo_datasets.runs.metrics import METRICS, SPARSITY, STEPS
from zoo_datasets.runs.run import Run
from zoo_datasets.stacked.block import evaluation_recipe
from zoo_datasets.stacked.evaluate import same_loss
from zoo_datasets.stacked.field import FieldBlock, signals_of
from zoo_datasets.terminal import Advance
from zoo_datasets.text import counted, ranges

_SPARSITY_TOLERANCE = 1e-6
# Numbers that are drawn to check the weights of epoch 0 of a cohort.
_DRAWN = 100_000_000


@dataclass(frozen=True, slots=True)
class _State:
    """A model at an epoch, its place in the stack and its row of the metrics."""

    cohort: Cohort
    position: int
    figures: dict[str, Any]

    @property
    def model_id(self) -> str:
        return str(self.figures["model_id"])

    @property
    def epoch(self) -> int:
        return int(self.figures["epoch"])

    @property
    def step(self) -> int | None:
        """The step within its epoch; None after it."""
        return self.figures.get("step")


def verify_run(
    path: Path, *, images: ImageData | None = None, sample: int | None = 32, progress: Advance | None = None
) -> Verification:
    """Check a run, finished or not; every fault becomes a difference, none stops the others.

    Without images: each file holds the bytes that were written, members and epochs are those of zoo.json, tensors
    have the layout's shapes and dtypes, weights are finite unless the metrics say `diverged`, figures can be, weights
    of epoch 0 are those of seed and init, and models continue their own weights from epoch to epoch. With images also:
    they are those of the run, and validation and test figures of `sample` states come out again.

    Args:
        images: the whole dataset; the run's limits are applied here.
        sample: number of states to recompute; None means all.
        progress: called with (cohorts done, cohorts in all).
    """
    findings = Findings()
    try:
        run = Run.open(path)
        members = run.members
    except RunError as error:
        findings.differs("manifest", str(error))
        findings.checked("manifest", "could not be read")
        return findings.verification(path.name, 0, 0)
    _check_manifest(run, findings)
    check_code_of(run.manifest.networks.values(), images is not None, findings)
    cohorts, odd = run.sound_cohorts()
    findings.differ("members", list(odd.values()))
    begun = sum(len(cohort.members) for cohort in cohorts)
    findings.checked("members", f"{begun:,} of {len(members):,} models are begun, in {counted(len(cohorts), 'cohort')}")
    states: list[_State] = []
    for number, cohort in enumerate(cohorts):
        states += _check_cohort(run, cohort, findings)
        if progress is not None:
            progress(number + 1, len(cohorts))
    _close(run, cohorts, len(states), findings)
    recomputed = 0
    if images is None:
        findings.unchecked("figures, as there are no images")
    if not run.manifest.is_field:
        findings.unchecked("train_loss and train_acc after epoch 0, which are averages over the training itself")
    limited = None if images is None else _limited(run, images, findings)
    if limited is not None:
        recorded = [state for state in states if _is_recorded(state, run.manifest.is_field)]
        sampled = spread(recorded, len(recorded) if sample is None else sample)
        recompute = _recompute_fields if run.manifest.is_field else _recompute
        recomputed = recompute(run, sampled, limited, findings)
    return findings.verification(run.manifest.zoo.name, len(states), recomputed)


def _check_manifest(run: Run, findings: Findings) -> None:
    manifest = run.manifest
    try:
        expected = manifest.network.layout
    except ZooError as error:
        findings.differs("manifest", str(error))
    else:
        if expected != manifest.layout:
            findings.differs("manifest", f"the layout in {RUN_MANIFEST} is not that of {manifest.zoo.architecture}")
    findings.checked("manifest", f"{run.models:,} models to epoch {run.epochs}")


def _close(run: Run, cohorts: Sequence[Cohort], states: int, findings: Findings) -> None:
    files = [file for cohort in cohorts for file in _files_of(cohort)]
    unchecked = sum(len(cohort.unchecked) for cohort in cohorts) + (not run.checked)
    size = sum(file.stat().st_size for file in files)
    without = f"; {unchecked} carry none, as earlier versions wrote them" if unchecked else ""
    findings.checked("checksums", f"of {len(files) + 1} files, {size:,} bytes{without}")
    findings.checked("epochs", f"{states:,} of {run.models * len(run.kept_epochs):,} states are trained")
    sizes = sorted({network.layout.size for network in run.manifest.networks.values()})
    shown = (
        f"a layout of {sizes[0]:,} weights" if len(sizes) == 1 else f"layouts of {sizes[0]:,} to {sizes[-1]:,} weights"
    )
    findings.checked("schema", f"shapes and dtypes of {shown}")
    findings.checked("weights", "all finite where the metrics do not say diverged")
    if run.manifest.zoo.sparsifier is None:
        findings.checked("start", "weights of epoch 0 are those of seed and init")
    findings.checked("continuity", "each model continues its own weights, not another's of its cohort")
    findings.checked("metrics", f"{states:,} rows, accuracies in [0, 1] and losses from 0 on")


def _files_of(cohort: Cohort) -> list[Path]:
    return [path for path in sorted(cohort.path.iterdir()) if path.is_file() and not path.name.startswith(".")]


def _check_cohort(run: Run, cohort: Cohort, findings: Findings) -> Iterator[_State]:
    """Each file of a cohort; gives the states of which weights and figures can be read."""
    try:
        metrics = cohort.metrics()
    except RunError as error:
        findings.differs("checksums" if isinstance(error, DamagedError) else "metrics", str(error))
        return
    try:
        setback, lost = cohort.setback(), cohort.without_figures()
        cohort.read_resume()
    except RunError as error:
        findings.differs("checksums" if isinstance(error, DamagedError) else "schema", str(error))
    else:
        if setback is not None:
            findings.differs("epochs", f"{cohort.path}: {setback}; training begins from epoch 0 again")
        if lost:
            findings.differs("epochs", f"{cohort.path}: {METRICS} has no figures of epochs {ranges(lost)}")
    before: Tensor | None = None
    start = False
    for epoch in cohort.epochs():
        if not cohort.keeps(epoch):
            findings.differs("epochs", f"{cohort.path}: {METRICS} has epoch {epoch}, which the run does not keep")
        if epoch > run.epochs:
            findings.differs("epochs", f"{cohort.path}: {METRICS} has epoch {epoch}, the run ends at {run.epochs}")
        if not cohort.epoch_file(epoch).is_file():
            findings.differs("epochs", f"{cohort.epoch_file(epoch)} is missing")
            before = None
            continue
        try:
            rows = cohort.figures_in(metrics, epoch)
            weights = cohort.weights(epoch)
            noise = cohort.log_sigma2(epoch)
        except RunError as error:
            findings.differs("checksums" if isinstance(error, DamagedError) else "schema", str(error))
            before = None
            continue
        figures = [] if rows is None else rows.to_pylist()
        findings.differ("weights", list(_wrong_weights(cohort, weights, noise, figures)))
        findings.differ("metrics", list(_wrong_rows(run, cohort.layout, weights, figures)))
        if epoch == 0 and run.manifest.zoo.sparsifier is None:
            findings.differ("start", list(_wrong_start(run, cohort, weights)))
        if before is not None:
            findings.differ("continuity", list(_exchanged(cohort, epoch, before, weights, start)))
        before, start = weights, epoch == 0
        yield from (_State(cohort, position, row) for position, row in enumerate(figures))
        yield from _check_steps(run, cohort, epoch, findings)


def _check_steps(run: Run, cohort: Cohort, epoch: int, findings: Findings) -> Iterator[_State]:
    """The states within an epoch."""
    if not cohort.steps_within(epoch):
        return
    try:
        metrics = cohort.step_metrics()
    except RunError as error:
        findings.differs("checksums" if isinstance(error, DamagedError) else "metrics", str(error))
        return
    for step in cohort.steps_within(epoch):
        try:
            rows, weights = cohort.step_figures(metrics, step), cohort.weights(epoch, step=step)
        except RunError as error:
            findings.differs("checksums" if isinstance(error, DamagedError) else "schema", str(error))
            continue
        figures = [] if rows is None else rows.to_pylist()
        if not figures:
            findings.differs("epochs", f"{cohort.path}: {STEPS} has no figures of step {step}")
            continue
        findings.differ("weights", list(_wrong_weights(cohort, weights, None, figures)))
        findings.differ("metrics", list(_wrong_rows(run, cohort.layout, weights, figures)))
        yield from (_State(cohort, position, row) for position, row in enumerate(figures))


def _wrong_weights(
    cohort: Cohort, weights: Tensor, noise: Tensor | None, figures: Sequence[dict[str, Any]]
) -> Iterator[str]:
    finite = torch.isfinite(weights).all(dim=1).tolist()
    odd = [False] * len(finite) if noise is None else torch.isnan(noise).any(dim=1).tolist()
    for row, good, nan in zip(figures, finite, odd, strict=True):
        where = f"{cohort.path.name}: model {row['model_id']} at epoch {row['epoch']}"
        if good == row["diverged"]:
            yield f"{where}: weights are {'' if good else 'not '}finite, diverged is {row['diverged']}"
        if nan and good:
            yield f"{where}: log_sigma2 holds NaN"


def _wrong_start(run: Run, cohort: Cohort, weights: Tensor) -> Iterator[str]:
    """Models whose weights of epoch 0 are not those of their seed and init."""
    count = max(_DRAWN // cohort.layout.size, 1)
    members = cohort.members[:count]
    seeds, inits = [member.seed for member in members], [member.hyperparameters.init for member in members]
    points = [member.hyperparameters for member in members]
    stds, biases = [point.init_std for point in points], [point.b_init for point in points]
    network = run.manifest.network_of(members[0])
    for place in differs_from_start(network.layers, seeds, inits, weights[:count], stds, biases):
        drawn_by = f"seed {seeds[place]} and init {inits[place]}"
        yield f"model {members[place].model_id}: weights of epoch 0 are not those of {drawn_by}"


def _exchanged(cohort: Cohort, epoch: int, before: Tensor, after: Tensor, start: bool) -> Iterator[str]:
    """Pairs of models of a cohort that continue each other's weights, `before` being those of epoch 0 at the start."""
    finite = (torch.isfinite(before).all(dim=1) & torch.isfinite(after).all(dim=1)).nonzero().flatten()
    ids = [cohort.members[place].model_id for place in finite.tolist()]
    pairs = exchanges(before[finite].double().numpy(), after[finite].double().numpy(), start=start).pairs
    for first, second in pairs:
        yield f"models {ids[first]} and {ids[second]} each continue the weights of the other at epoch {epoch}"


def _wrong_rows(run: Run, layout: WeightLayout, weights: Tensor, figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    images, zoo = run.manifest.images, run.manifest.zoo
    splits = [name for name, count in (("train", images.train), ("val", images.val), ("test", images.test)) if count]
    names = [f"{split}_{what}" for split in splits for what in ("loss", "acc")]
    names = ["train_loss"] if run.manifest.is_field else names
    shares = None if zoo.sparsifier is None else sparsity(weights, layout).tolist()
    for position, row in enumerate(figures):
        where = f"model {row['model_id']} at epoch {row['epoch']}"
        missing = [name for name in names if row[name] is None]
        if missing:
            yield f"{where}: its {', '.join(missing)} is missing"
        if shares is None or row[SPARSITY] is None or row["diverged"]:
            continue
        if abs(shares[position] - row[SPARSITY]) > _SPARSITY_TOLERANCE:
            yield f"{where}: sparsity is {row[SPARSITY]:.6f}, its weights have {shares[position]:.6f}"


def _limited(run: Run, images: ImageData, findings: Findings) -> ImageData | None:
    """The images as the models saw them; None where these are others."""
    recorded = run.manifest.images
    limited = None
    if recorded.fingerprint == images.fingerprint:
        limited = images.limited(run.manifest.limits)
        for name, split in (("train", limited.train), ("val", limited.val), ("test", limited.test)):
            count = 0 if split is None else len(split.labels)
            if count != getattr(recorded, name):
                findings.differs("images", f"{count} images of {name}, {RUN_MANIFEST} says {getattr(recorded, name)}")
    else:
        findings.differs(
            "images",
            f"these are not the images of the run: {images.spec.name} with fingerprint {images.fingerprint[:16]}… "
            f"found, {recorded.name} with {recorded.fingerprint[:16]}… expected; figures were not recomputed",
        )
    findings.checked("images", f"{images.spec.name}, fingerprint {images.fingerprint[:16]}…")
    return limited


def _is_recorded(state: _State, field: bool) -> bool:
    """Whether there is anything to compare; what came out of weights that are not finite is no property of them."""
    if field:
        return not state.figures["diverged"]
    return not state.figures["diverged"] and any(state.figures[f"{split}_acc"] is not None for split in ("val", "test"))


def _recompute(run: Run, sample: Sequence[_State], images: ImageData, findings: Findings) -> int:
    """Recompute the sampled states, as many at a time as fit in memory; returns their number."""
    largest = max(network.layout.size for network in run.manifest.networks.values())
    size = max(STACK_BYTES // (4 * largest), 1)
    ordered = sorted(sample, key=lambda state: (state.cohort.path, state.epoch, state.step or 0, state.position))
    for first in range(0, len(ordered), size):
        states = ordered[first : first + size]
        try:
            for position, problems in wrong_figures(_rows(run, states), images, start=True):
                state = states[position]
                findings.differ("figures", [f"model {state.model_id} at epoch {state.epoch}: {p}" for p in problems])
        except (ZooError, RuntimeError, ValueError) as error:
            message = " ".join(str(error).split())[:200]
            findings.differs("figures", f"{len(states)} states could not be recomputed: {message}")
    findings.checked("figures", f"of {len(ordered)} states recomputed from their weights")
    return len(ordered)


def _recompute_fields(run: Run, sample: Sequence[_State], images: ImageData, findings: Findings) -> int:
    """Recompute the errors and labels of the sampled states of fields; returns their number."""
    ordered = sorted(sample, key=lambda state: (state.cohort.path, state.epoch, state.position))
    for (_, epoch), group in groupby(ordered, key=lambda state: (state.cohort.path, state.epoch)):
        states = list(group)
        cohort, places = states[0].cohort, [state.position for state in states]
        members = [cohort.members[place] for place in places]
        seeds = torch.tensor([member.seed for member in members], dtype=torch.int64)
        recipe = evaluation_recipe(run.manifest.network_of(members[0]).layers, "none", seeds)
        try:
            block = FieldBlock(recipe, images)
            block.load(cohort.weights(epoch, places))
            errors, labels = block.evaluate(images.train).mean_loss.tolist(), cohort.labels(epoch)[places].tolist()
            expected = signals_of(images, recipe.seeds)[1].tolist()
        except (ZooError, RuntimeError, ValueError) as error:
            message = " ".join(str(error).split())[:200]
            findings.differs("figures", f"{len(states)} states could not be recomputed: {message}")
            continue
        for state, again, label, own in zip(states, errors, labels, expected, strict=True):
            recorded = state.figures["train_loss"]
            where = f"model {state.model_id} at epoch {state.epoch}"
            if not same_loss(recorded, again):
                findings.differs("figures", f"{where}: train_loss is {recorded:.6f}, recomputed {again:.6f}")
            if label != own:
                findings.differs("figures", f"{where}: its label is {label}, that of its signal {own}")
    findings.checked("figures", f"of {len(ordered)} states recomputed from their weights")
    return len(ordered)


def _rows(run: Run, states: Sequence[_State]) -> list[dict[str, Any]]:
    """Rows with weights, of states in the order of cohorts and epochs."""
    rows: list[dict[str, Any]] = []
    for (_, epoch, step), group in groupby(states, key=lambda state: (state.cohort.path, state.epoch, state.step)):
        together = list(group)
        weights = together[0].cohort.weights(epoch, [state.position for state in together], step).numpy()
        for state, vector in zip(together, weights, strict=True):
            member = state.cohort.members[state.position]
            common = run.manifest.network_of(member).columns()
            rows.append(common | member.hyperparameters.to_dict() | state.figures | {"weights": vector})
    return rows
