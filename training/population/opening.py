"""Opening of a run: everything is checked before anything is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from zoo_datasets.errors import RunError, SpecError, StorageError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.kind import LAYERS, NetworkKind, is_field
from zoo_datasets.networks.layers import Layer
from zoo_datasets.runs.cohort import MEMBERS, Cohort
from zoo_datasets.runs.manifest import Growth, ImagesRecord, ParentsRecord, RunManifest
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Limits, Member, members_of
from zoo_datasets.specs.names import check_names
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.stacked import initialise
from zoo_datasets.stacked.optimizers import State
from zoo_datasets.storage.folders import check_output
from zoo_datasets.training.launch import DEFAULT, Launch
from zoo_datasets.training.population.cohorts import cohort_size, plan_cohorts
from zoo_datasets.training.sparsifiers import SPARSIFIERS
from zoo_datasets.training.steps.paths import EnginePath, Workload, choose_path
from zoo_datasets.version import __version__


class Start(Protocol):
    """Where members begin. Travels to other processes, so it holds names and paths, not tensors."""

    def __call__(self, zoo: ZooSpec, layers: tuple[Layer, ...], members: Sequence[Member]) -> tuple[Tensor, State]:
        """Weights [K, D] and state of the members at epoch 0, as blocks load them."""


def initial_weights(zoo: ZooSpec, layers: tuple[Layer, ...], members: Sequence[Member]) -> tuple[Tensor, State]:
    """The start of dense members: drawn by their seeds."""
    seeds = torch.tensor([member.seed for member in members], dtype=torch.int64)
    points = [member.hyperparameters for member in members]
    stds, biases = [point.init_std for point in points], [point.b_init for point in points]
    return initialise(layers, seeds, [point.init for point in points], stds, biases), {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """What is to be trained.

    Attributes:
        zoo: with the requested number of epochs.
        members: in their fixed order.
        limits: on the images.
        start: where members begin.
        parents: of twins.
    """

    zoo: ZooSpec
    members: Sequence[Member]
    limits: Limits
    start: Start = initial_weights
    parents: ParentsRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """A run as a training will have it.

    Attributes:
        run: with the manifest that it will have; `save` writes it.
        new: whether there is no run in the folder yet.
        changed: whether the manifest is not yet on disk as it is here.
        population: what is trained.
        cohorts: all cohorts in the order of their numbers, each with its members.
        path: how blocks are computed.
    """

    run: Run
    new: bool
    changed: bool
    population: Population
    cohorts: Sequence[tuple[Cohort, Sequence[Member]]]
    path: EnginePath

    def save(self) -> None:
        """Write the manifest where it changed."""
        if self.changed and self.population.parents is not None:
            self.run.save_twins(self.population.members)
        elif self.changed:
            self.run.save()


def check_run(
    zoo: ZooSpec,
    out: Path,
    data: ImageData,
    launch: Launch = DEFAULT,
    *,
    models: int | None = None,
    epochs: int | None = None,
    limits: Limits | None = None,
) -> Opening:
    """The run that a training of the zoo into `out` creates, continues or extends; writes nothing.

    Arguments are those of `train_zoo`; of `launch`, the path and the device.

    Raises:
        SpecError: if the zoo cannot be trained, or not on these images.
        UnknownNameError: if it names an activation, initialisation, optimizer, augmentation, schedule or path that
            does not exist.
        RunError: if `out` holds something else, another run, or a larger one.
        StorageError: if `out` is not writable.
    """
    limits = limits or Limits()
    try:
        zoo = dataclasses.replace(zoo, epochs=epochs or zoo.epochs)
    except ValueError as error:
        raise SpecError(str(error)) from error
    members = _checked_members(zoo, limits, models)
    return open_run(Population(zoo=zoo, members=members, limits=limits), out, data, launch)


def open_run(population: Population, out: Path, data: ImageData, launch: Launch = DEFAULT) -> Opening:
    """As `check_run`, for any population."""
    check_output(out)
    zoo, members = population.zoo, population.members
    check_names(zoo)
    _check_size(zoo, data)
    if is_field(zoo.architecture):
        _check_fields(population, data)
    size = Growth(models=len(members), epochs=zoo.epochs)
    work = workload(zoo, data, launch.device)
    asked = _manifest(population, data, size)
    new = not Run.exists(out)
    if new:
        if out.exists() and (not out.is_dir() or any(path.name != MEMBERS for path in out.iterdir())):
            raise RunError(f"{out} holds something else than a run (there is no zoo.json); choose another --out")
        engine = choose_path(launch.path, None, work)
        manifest = dataclasses.replace(asked, engine=engine.name)
        changed = True
    else:
        earlier = Run.open(out)
        manifest = _grown(earlier, asked, size)
        if population.parents is not None:
            members = _begun_first(earlier, members)
            population = dataclasses.replace(population, members=members)
        if list(members[: earlier.models]) != earlier.members:
            raise RunError(
                f"{out} was begun with other models, and may only grow by further ones; give the same models first, "
                "or choose another --out"
            )
        engine = choose_path(launch.path, earlier.manifest.engine, work)
        if engine.name != earlier.manifest.engine.split("+")[-1]:
            manifest = dataclasses.replace(manifest, engine=f"{earlier.manifest.engine}+{engine.name}")
        changed = manifest != earlier.manifest
    if changed:
        _check_writable(out)
    run = Run(out, manifest)
    plan = plan_cohorts(members, manifest.growth, lambda member: cohort_size(manifest.network_of(member).layout.size))
    cohorts = [(run.cohort(index), part) for index, part in enumerate(plan)]
    return Opening(run=run, new=new, changed=changed, population=population, cohorts=cohorts, path=engine)


def workload(zoo: ZooSpec, data: ImageData, device: str) -> Workload:
    """The properties of a zoo that decide which engine paths can be used."""
    first, *others = (NetworkKind.of_zoo(zoo, data, network).layers for network in zoo.networks())
    return Workload(
        layers=first,
        others=tuple(others),
        in_shape=(data.channels, data.size, data.size),
        activations=zoo.activation,
        optimizers=zoo.optimizer,
        augmentation=zoo.augmentation,
        device=device,
        field=is_field(zoo.architecture),
    )


def existing(path: Path) -> Path:
    """The nearest folder or file upwards that exists."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _check_writable(out: Path) -> None:
    parent = existing(out)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "is read-only" if parent.is_dir() else "is a file, not a folder"
        raise StorageError(f"{out} could not be written: {parent} {what}; choose another --out")


def _manifest(population: Population, data: ImageData, size: Growth) -> RunManifest:
    zoo, limits = population.zoo, population.limits
    limited = data.limited(limits)
    networks = [NetworkKind.of_zoo(zoo, data, network) for network in zoo.networks()]
    own = {network.architecture: record[LAYERS] for network in networks if LAYERS in (record := network.record())}
    return RunManifest(
        zoo=zoo,
        growth=(size,),
        limits=limits,
        images=ImagesRecord(
            name=zoo.images,
            fingerprint=data.fingerprint,
            channels=data.channels,
            classes=data.classes,
            train=len(limited.train.labels),
            val=0 if limited.val is None else len(limited.val.labels),
            test=len(limited.test.labels),
            pixels=data.pixels,
        ),
        layout=networks[0].layout,
        engine="",
        versions={"zoo_datasets": __version__, "torch": torch.__version__},
        parents=population.parents,
        layers=(own or None) if zoo.is_sized else own.get(zoo.architecture),
    )


def _checked_members(zoo: ZooSpec, limits: Limits, models: int | None) -> list[Member]:
    if zoo.parent is not None:
        raise SpecError(
            f"{zoo.name} is a sparsified twin of {zoo.parent}: it is made from a trained run of {zoo.parent}, "
            f"not trained from nothing. Train {zoo.parent}, then use `zoo sparsify`"
        )
    try:
        return members_of(zoo, limits, models)
    except ValueError as error:
        raise SpecError(f"{error}; pass --models with at most {zoo.models:,}") from error


def _check_size(zoo: ZooSpec, data: ImageData) -> None:
    for network in zoo.networks():
        name = zoo.architecture_of(network)
        of_table = zoo.outline_of(network) is None
        size = get_architecture(name).input_size if of_table else zoo.input_size
        if size is not None and size != data.size:
            raise SpecError(f"{name} takes {size} × {size} images, found {data.size} × {data.size}")


def _check_fields(population: Population, data: ImageData) -> None:
    """See that each member has a signal, and nothing is asked for that only classifiers have."""
    zoo = population.zoo
    others = {
        "dropout": zoo.dropout != (0.0,), "augmentation": zoo.augmentation, "label_smoothing": zoo.label_smoothing,
        "train_fraction": zoo.train_fraction, "every_steps": zoo.every_steps, "sparsifier": zoo.sparsifier,
    }  # fmt: skip
    if wrong := [name for name, value in others.items() if value]:
        raise SpecError(f"{zoo.name}: fields, which are fitted to a signal each, have no {wrong[0]}; leave it out")
    if population.limits != Limits():
        raise SpecError(f"{zoo.name}: each model is fitted to an image of its own; choose how many by --models")
    signals = len(data.train) + len(data.test)
    beyond = [member.seed for member in population.members if not 1 <= member.seed <= signals]
    if beyond:
        raise SpecError(
            f"{zoo.name}: the model of seed {beyond[0]:,} would be fitted to image {beyond[0]:,} of {signals:,}; "
            f"expected seeds from 1 to {signals:,}"
        )


def _grown(run: Run, asked: RunManifest, size: Growth) -> RunManifest:
    """The manifest with `size` added where it is larger; anything else that differs is an error."""
    recorded = run.manifest
    if recorded.images.fingerprint != asked.images.fingerprint:
        raise RunError(
            f"{run.path} was trained on other images: fingerprint {recorded.images.fingerprint} there, "
            f"{asked.images.fingerprint} now. Pass the images it was trained on, or another --out"
        )
    differences = _differences(recorded, asked)
    if differences:
        raise RunError(
            f"{run.path} is a run of another recipe: {'; '.join(differences)}. A run may grow in models and "
            "epochs only; choose another --out for another recipe"
        )
    last = recorded.growth[-1]
    if size.models < last.models or size.epochs < last.epochs:
        raise RunError(
            f"{run.path} was begun with {last.models} models to epoch {last.epochs}, and a run does not shrink: "
            f"{size.models} models to epoch {size.epochs} were asked for. Ask for as many, choose another --out, or "
            "delete the folder to begin anew"
        )
    if size == last:
        return recorded
    if size.epochs > last.epochs and (schedule := _schedule(recorded.zoo)):
        raise RunError(
            f"{run.path} was trained with the {schedule} schedule over {last.epochs} epochs; "
            f"to {size.epochs} epochs is another training. Choose another --out"
        )
    return dataclasses.replace(recorded, zoo=asked.zoo, growth=(*recorded.growth, size))


def _begun_first(run: Run, members: Sequence[Member]) -> list[Member]:
    """The run's members before further ones: parents whose training ended later stand anywhere among the others."""
    places = {member.model_id: place for place, member in enumerate(run.members)}
    return sorted(members, key=lambda member: places.get(member.model_id, len(places)))


def _schedule(zoo: ZooSpec) -> str | None:
    """What depends on the number of epochs; None if a run may grow."""
    if zoo.sparsifier is not None and SPARSIFIERS[zoo.sparsifier].whole:
        return zoo.sparsifier
    return zoo.scheduler


def _parents_text(parents: ParentsRecord | None) -> str:
    return "none" if parents is None else f"{parents.zoo} at epoch {parents.epoch} (--from-epoch {parents.epoch})"


def _differences(recorded: RunManifest, asked: RunManifest) -> list[str]:
    differences = []
    for part in ("zoo", "limits", "images"):
        old, new = (dataclasses.asdict(getattr(manifest, part)) for manifest in (recorded, asked))
        for name in old:
            unknown = (part, name) == ("images", "pixels") and old[name] is None
            if old[name] != new[name] and (part, name) != ("zoo", "epochs") and not unknown:
                differences.append(f"{part}.{name} is {old[name]} there and {new[name]} here")
    if recorded.parents != asked.parents:
        differences.append(
            f"its parents are {_parents_text(recorded.parents)} there and {_parents_text(asked.parents)} here"
        )
    if recorded.layout != asked.layout:
        differences.append("the layout of the weights differs")
    return differences
