"""The plan of a training before it begins: cohorts, states, time and disk. Nothing is written."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from zoo_datasets.images.prepare import ImageData
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.variational import LOG_SIGMA2
from zoo_datasets.runs.cohort import METRICS_SCHEMA, Cohort
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Member
from zoo_datasets.stacked.block import MASK, TRAINED
from zoo_datasets.storage.cores import cores
from zoo_datasets.storage.files import TEMPORARY_SUFFIX
from zoo_datasets.terminal import Terminal, say
from zoo_datasets.text import json_text
from zoo_datasets.training.estimate.pace import Pace, measure_pace
from zoo_datasets.training.population.cohorts import GroupKey, group_key
from zoo_datasets.training.population.opening import Opening, existing
from zoo_datasets.training.steps.recipes import block_recipe, training_images


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortGroup:
    """The cohorts of one architecture, activation, optimizer, batch size and share of the training images; `fill` is
    the share of lanes with a member."""

    architecture: str
    activation: str
    optimizer: str
    batch_size: int
    train_fraction: float
    cohorts: int
    members: int
    blocks: int
    fill: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingEstimate:
    """The plan of a training and its estimated cost.

    Attributes:
        states: models × kept epochs of the finished run, by default all; `states_left` are to be trained.
        pace: as measured on this machine; None if nothing is left to train.
        seconds: estimated wall time on `threads` threads of this machine, without writing.
        size: bytes of the finished run's files; `size_left` are to be added; `free` is on the disk.
    """

    zoo: str
    folder: Path
    new: bool
    models: int
    epochs: int
    groups: Sequence[CohortGroup]
    path: str
    lanes: int
    states: int
    states_left: int
    threads: int
    pace: Pace | None
    seconds: float
    size: int
    size_left: int
    free: int


def estimate_training(opening: Opening, data: ImageData, threads: int | None = None) -> TrainingEstimate:
    """The plan of a training that would begin now; trains for a few seconds in memory to estimate its time.

    Args:
        opening: from `check_run`.
        data: the images after limits.
        threads: blocks that train at the same time; None means all cores.
    """
    threads = threads or cores()
    run = opening.run
    left = [_epochs_left(cohort, run.epochs) for cohort, _ in opening.cohorts]
    kept = run.kept_epochs
    states_left = sum(
        len(members) * sum(epoch > run.epochs - epochs for epoch in kept)
        for (_, members), epochs in zip(opening.cohorts, left, strict=True)
    )
    within = [len(members) * _steps_within(run, members) for _, members in opening.cohorts]
    states_left += sum(
        len(members) * _steps_within(run, members, run.epochs - epochs)
        for (_, members), epochs in zip(opening.cohorts, left, strict=True)
    )
    paces: dict[NetworkKind, Pace] = {}
    for network in run.manifest.networks.values() if states_left else ():
        members = _typical_block(opening, left, network)
        if members:
            zoo, start = run.manifest.zoo, opening.population.start
            make_block = opening.path.make_block
            paces[network] = measure_pace(make_block, zoo, network.layers, data, members, threads, start)
    size = run_size(opening)
    written = _size_there(run.path)
    return TrainingEstimate(
        zoo=run.manifest.zoo.name,
        folder=run.path,
        new=opening.new,
        models=run.models,
        epochs=run.epochs,
        groups=_groups(opening),
        path=opening.path.name,
        lanes=opening.path.lanes_of(run.manifest.network.layers),
        states=run.models * len(kept) + sum(within),
        states_left=states_left,
        threads=threads,
        pace=next(iter(paces.values()), None),
        seconds=_seconds(opening, left, data, paces, threads),
        size=size,
        size_left=max(size - written, 0),
        free=shutil.disk_usage(existing(run.path)).free,
    )


def _epochs_left(cohort: Cohort, last: int) -> int:
    """Number of epochs still to train for a cohort, epoch 0 included."""
    done = cohort.resume_epoch()
    return last + 1 if done is None else max(last - done, 0)


def _key(members: Sequence[Member]) -> GroupKey:
    return group_key(members[0])


def _groups(opening: Opening) -> list[CohortGroup]:
    groups = []
    cohorts = sorted((members for _, members in opening.cohorts), key=_key)
    for key, parts in itertools.groupby(cohorts, _key):
        alike = list(parts)
        sizes = [len(members) for members in alike]
        network = opening.run.manifest.network_of(alike[0][0])
        lanes = opening.path.lanes_of(network.layers)
        blocks = sum(-(-size // lanes) for size in sizes)
        activation, optimizer, batch_size, train_fraction, *_ = key
        groups.append(
            CohortGroup(
                architecture=network.architecture,
                activation=activation,
                optimizer=optimizer,
                batch_size=batch_size,
                train_fraction=train_fraction,
                cohorts=len(sizes),
                members=sum(sizes),
                blocks=blocks,
                fill=sum(sizes) / (blocks * lanes),
            )
        )
    return groups


def _typical_block(opening: Opening, left: Sequence[int], network: NetworkKind) -> Sequence[Member]:
    """The first block of the largest cohort in the group with most to train, of those of a network; none where nothing
    is left to train."""
    weights: dict[GroupKey, int] = {}
    cohorts: list[Sequence[Member]] = []
    for (_, members), epochs in zip(opening.cohorts, left, strict=True):
        if epochs and opening.run.manifest.network_of(members[0]) == network:
            weights[_key(members)] = weights.get(_key(members), 0) + len(members) * epochs
            cohorts.append(members)
    largest = max(weights, key=lambda key: weights[key], default=None)
    lanes = opening.path.lanes_of(network.layers)
    return max((members for members in cohorts if _key(members) == largest), key=len, default=())[:lanes]


def _seconds(
    opening: Opening, left: Sequence[int], data: ImageData, paces: Mapping[NetworkKind, Pace], threads: int
) -> float:
    """Wall time: all blocks' work over the threads, or the longest cohort's, whose epochs follow each other."""
    zoo = opening.run.manifest.zoo
    fields = opening.run.manifest.is_field  # whose evaluation is one more step
    evaluated = 0 if fields else sum(len(split) for role, split in data.splits().items() if role != "train")
    total = longest = 0.0
    for (_, members), epochs in zip(opening.cohorts, left, strict=True):
        network = opening.run.manifest.network_of(members[0])
        if not epochs:
            continue
        pace = paces[network]
        order = pace.order / pace.images
        images = len(training_images(zoo, data.train, members))
        train = (order + pace.train) * images
        start = pace.evaluate * (images + evaluated)
        blocks = -(-len(members) // opening.path.lanes_of(network.layers))
        begins = int(epochs == opening.run.epochs + 1)
        measured = sum(epoch > opening.run.epochs - epochs for epoch in opening.run.kept_epochs if epoch)
        measured += _steps_within(opening.run, members, opening.run.epochs - epochs)
        one = (epochs - begins) * train + measured * pace.evaluate * evaluated + begins * start
        total += blocks * one
        longest = max(longest, -(-blocks // threads) * one)
    return max(total / threads, longest)


def _steps_within(run: Run, members: Sequence[Member], after: int = -1) -> int:
    """The number of states within the epochs after one, of each of these members."""
    return sum(len(run.manifest.steps_within(members[0], epoch)) for epoch in run.kept_epochs if epoch > after)


def run_size(opening: Opening) -> int:
    """Bytes of all files of the finished run: tensors to the byte, metrics as for figures that do not repeat."""
    run = opening.run
    size = len(_json(run.manifest.to_dict()))
    sparsifier = run.manifest.zoo.sparsifier
    if sparsifier is not None:
        size += len(_json([member.to_dict() for member in opening.population.members]))
    for _, members in opening.cohorts:
        count = len(members)
        network = run.manifest.network_of(members[0])
        layout, recipe = network.layout, block_recipe(network.layers, run.manifest.zoo, members)
        names = {spec.name: spec.shape for spec in layout.tensors}
        beside = (LOG_SIGMA2, TRAINED) if recipe.variational else (MASK,) if sparsifier is not None else ()
        if recipe.variational:
            names[LOG_SIGMA2] = (layout.size,)
        state = (*recipe.state, *beside)
        within = _steps_within(run, members)
        size += (len(run.kept_epochs) + within) * _tensors_size(count, names.items(), {})
        size += _metrics_size(count, within) if within else 0
        size += _tensors_size(count, [(name, (layout.parameters,)) for name in state], {"epoch": str(run.epochs)})
        size += _metrics_size(count, len(run.kept_epochs))
        size += len(_json([member.to_dict() for member in members]))
    return size


def _json(value: object) -> bytes:
    return f"{json_text(value, indent=2)}\n".encode()


def _tensors_size(count: int, tensors: Iterable[tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> int:
    """Bytes of a safetensors file of float32 tensors [count, …]: header length, header, numbers."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in tensors:
        begin = end
        end += 4 * torch.Size((count, *shape)).numel()
        header[name] = {"dtype": "F32", "shape": [count, *shape], "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + length + -length % 8 + end


@cache
def _metrics_size(count: int, states: int) -> int:
    """Bytes of metrics.parquet, measured by writing one in memory."""
    generator = torch.Generator().manual_seed(0)
    members = [f"{number:032x}" for number in torch.randint(2**62, (count,), generator=generator).tolist()]
    rows = count * states
    columns: dict[str, object] = {
        "model_id": members * states,
        "epoch": [epoch for epoch in range(states) for _ in members],
        "diverged": [False] * rows,
    }
    for field in METRICS_SCHEMA:
        if field.name not in columns:
            columns[field.name] = torch.rand(rows, generator=generator).numpy()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=METRICS_SCHEMA), sink)
    return int(sink.getvalue().size)


def _size_there(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(TEMPORARY_SUFFIX))
    return sum(path.stat().st_size for path in files)


def print_estimate(plan: TrainingEstimate, console: Console | None = None) -> None:
    """Print a plan: a table of the cohorts, then path, states, time and disk, a line each."""
    console = console or Terminal()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(title=f"{plan.zoo}: {plan.models:,} models to epoch {plan.epochs:,}", title_justify="left")
    several = len({group.architecture for group in plan.groups}) > 1
    shares = any(group.train_fraction < 1 for group in plan.groups)
    for title in (*(("architecture",) if several else ()), "activation", "optimizer"):
        table.add_column(title)
    if shares:
        table.add_column("train images", justify="right")
    for title in ("batch size", "cohorts", "members", "blocks", "lanes filled"):
        table.add_column(title, justify="right")
    for group in plan.groups:
        numbers = (group.batch_size, group.cohorts, group.members, group.blocks)
        names = [*([group.architecture] if several else []), group.activation, group.optimizer]
        names += [f"{group.train_fraction:.0%}"] if shares else []
        table.add_row(*names, *(f"{number:,}" for number in numbers), f"{group.fill:.0%}")
    if len(plan.groups) > 1:
        totals = [sum(getattr(group, name) for group in plan.groups) for name in ("cohorts", "members", "blocks")]
        fill = plan.models / sum(group.members / group.fill for group in plan.groups)
        table.add_section()
        table.add_row("all", *[""] * (2 + several + shares), *(f"{total:,}" for total in totals), f"{fill:.0%}")
    console.print(table)
    lines = {"run": f"{plan.folder} ({'new' if plan.new else 'goes on'})", "path": f"{plan.path}, {plan.lanes} lanes"}
    states_done = plan.states - plan.states_left
    lines["states"] = f"{plan.states_left:,} to train" + (
        f", {states_done:,} of {plan.states:,} are there" if states_done else ""
    )
    lines["time"] = _time_line(plan)
    new = f", {plan.size_left / 1e6:,.1f} MB of it new" if states_done and plan.states_left else ""
    lines["disk"] = f"{plan.size / 1e6:,.1f} MB{new}; {plan.free / 1e9:,.1f} GB are free"
    for title, text in lines.items():
        say(console, f"{title:8}{text}")
    if plan.size_left > plan.free:
        say(console, "warning: the disk is too small for this run")
    say(console, "nothing was written; without --dry-run the training begins")


def _time_line(plan: TrainingEstimate) -> str:
    if plan.pace is None:
        return "none: nothing is left to train"
    rate = plan.threads / plan.pace.train * plan.pace.members
    rated = plan.threads / plan.pace.evaluate * plan.pace.members
    return (
        f"about {_duration(plan.seconds)} on {plan.threads} threads of this machine "
        f"(measured: {rate:,.0f} samples/s in training, {rated:,.0f} in evaluation)"
    )


def _duration(seconds: float) -> str:
    """The two largest units: `1.4 s`, `3 min 20 s`, `5 h 2 min`, `12 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for large, small, unit in ((86400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if seconds >= large:
            first, second = unit.split()
            whole = round(seconds / small)
            return f"{whole * small // large} {first} {whole % (large // small)} {second}"
    raise AssertionError(seconds)
