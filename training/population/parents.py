"""The trained models that twins are made from: of a run, or of a config of a dataset repository."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_datasets.errors import RunError, SpecError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.places import configs_with_manifest
from zoo_datasets.repository.row import HYPERPARAMETERS, SPLITS, WEIGHTS
from zoo_datasets.repository.where import Condition, conditions_in
from zoo_datasets.runs.rows import RunRows
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.axes import FURTHER_AXES, GRID_FIELDS, POINT_FIELDS, HyperParameters
from zoo_datasets.specs.members import Limits, Member
from zoo_datasets.specs.spec import OPTIONAL_FIELDS, OWN_FIELDS, ZooSpec
from zoo_datasets.specs.zoos import get_zoo, zoo_from_dict

NOT_TRAINED = "not trained to that epoch"
DIVERGED = "diverged"
_FIGURES = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")


@dataclass(frozen=True, kw_only=True)
class Parents:
    """Dense models at one epoch.

    Attributes:
        path: the run, or the repository.
        config: of the repository; None for a run.
        zoo: the spec that the models have in common.
        limits: on the images that they were trained on.
        fingerprint: of those images; None if unknown.
        members: the chosen ones, in the order of the source.
        figures: those known at that epoch, by model_id.
        left_out: models that cannot be parents, each with the reason.
        checked: whether all files that were read carry checksums, or are of a repository.
    """

    path: Path
    config: str | None
    epoch: int
    zoo: ZooSpec
    limits: Limits
    fingerprint: str | None
    members: tuple[Member, ...]
    figures: Mapping[str, Mapping[str, float]] = field(repr=False)
    left_out: Mapping[str, str]
    checked: bool = True


def parent_weights(path: Path, config: str | None, epoch: int, model_ids: Sequence[str]) -> Tensor:
    """Weights of models of a run, or of a repository's config, at an epoch: float32 [K, D].

    Raises:
        RunError, RepositoryError: if the weights are missing or cannot be read.
    """
    by_id: dict[str, Tensor] = {}
    if config is None:
        for cohort in Run.open(path).sound_cohorts()[0]:
            ids = [member.model_id for member in cohort.members]
            if not set(ids).isdisjoint(model_ids):
                by_id |= dict(zip(ids, cohort.weights(epoch), strict=True))
    else:
        for condition in conditions_in("model_id", model_ids):
            for part in _load(path, config, epoch, ["model_id", WEIGHTS], condition):
                weights = part.with_format("torch")[WEIGHTS][:]
                by_id |= dict(zip(part["model_id"][:], weights, strict=True))
    lost = [model_id for model_id in model_ids if model_id not in by_id]
    if lost:
        raise RunError(f"{path}: {len(lost)} parents are no longer in it, the first one is {lost[0]}")
    return torch.stack([by_id[model_id] for model_id in model_ids])


def open_parents(
    source: Path,
    config: str | None = None,
    *,
    epoch: int | None = None,
    models: int | None = None,
    where: Condition | None = None,
) -> Parents:
    """The models of a run, or of a repository's config, at an epoch, or the last one.

    Args:
        config: of a repository; needed unless it has one dense config only.
        epoch: None means the last one.
        models: how many to take, the first of those that `where` keeps.
        where: a condition on hyperparameters, seed and the figures at that epoch.

    Raises:
        RunError, RepositoryError: if `source` holds neither, or is broken.
        SpecError: if the models are twins themselves, or none is left; where a run is given a config.
    """
    if config is not None and Run.exists(source):
        raise SpecError(
            f"{source} is a run, which has no configs: leave out --name {config}; --out names the twins' run"
        )
    parents = _of_run(source, epoch) if Run.exists(source) else _of_repository(source, config, epoch)
    if parents.zoo.parent is not None:
        raise SpecError(f"{source}: {parents.zoo.name} is a sparsified twin itself; give the dense zoo")
    kept = {member.model_id for member in parents.members} if where is None else _kept(parents, where)
    members = [one for one in parents.members if one.model_id in kept and one.model_id not in parents.left_out][:models]
    if not members:
        reasons = sorted(set(parents.left_out.values()))
        raise SpecError(
            f"{source}: none of {len(parents.members)} models is left to be a parent at epoch {parents.epoch}"
            + (f" ({'; '.join(reasons)})" if reasons else "; the condition keeps none")
        )
    return dataclasses.replace(parents, members=tuple(members))


def _kept(parents: Parents, where: Condition) -> Collection[str]:
    """Ids of the models that a condition keeps, judged by the rows that are, or will be, built of them."""
    if parents.config is None:
        return RunRows(Run.open(parents.path)).matching(where, [parents.epoch]).keys()
    columns = sorted(where.columns | {"model_id"})
    tables = [part.data.table for part in _load(parents.path, parents.config, parents.epoch, columns)]
    return {model_id for table in tables for model_id in table["model_id"].take(where.kept(table)).to_pylist()}


def _of_run(path: Path, epoch: int | None) -> Parents:
    run = Run.open(path)
    parent_epoch = run.epochs if epoch is None else epoch
    figures: dict[str, Mapping[str, float]] = {}
    cohorts, odd = run.sound_cohorts()
    absent = "; ".join([NOT_TRAINED, *(f"or in {name}, which cannot be used: {why}" for name, why in odd.items())])
    left_out = dict.fromkeys((member.model_id for member in run.members), absent)
    for cohort in cohorts:
        ids = [member.model_id for member in cohort.members]
        try:
            rows = cohort.figures(parent_epoch)
            if rows is None:
                lost = cohort.setback()
                left_out |= dict.fromkeys(ids, NOT_TRAINED if lost is None else f"{cohort.path}: {lost}")
                continue
            cohort.tensors(parent_epoch)
        except RunError as error:
            left_out |= dict.fromkeys(ids, str(error))
            continue
        for row in rows.to_pylist():
            del left_out[row["model_id"]]
            figures[row["model_id"]] = {name: row[name] for name in _FIGURES}
            if row["diverged"]:
                left_out[row["model_id"]] = DIVERGED
    return Parents(
        path=path,
        config=None,
        epoch=parent_epoch,
        zoo=run.manifest.zoo,
        limits=run.manifest.limits,
        fingerprint=run.manifest.images.fingerprint,
        members=tuple(run.members),
        figures=figures,
        left_out=left_out,
        checked=run.checked and not any(cohort.unchecked for cohort in cohorts),
    )


def _of_repository(path: Path, config: str | None, epoch: int | None) -> Parents:
    name = config or _only_config(path)
    manifest = read_manifest(path, name)
    if manifest is None:
        raise SpecError(f"{path} is not a run, and as a repository it has no config {name!r}; `zoo train` makes runs")
    if not manifest.epochs:
        raise SpecError(f"{path} {name} has no rows")
    parent_epoch = manifest.epochs[-1] if epoch is None else epoch
    further = () if manifest.open is None else tuple(column.name for column in manifest.open.further)
    point = (*POINT_FIELDS, *(axis for axis in FURTHER_AXES if axis in further))
    columns = ["model_id", "seed", *point, *_FIGURES]
    rows = [row for part in _load(path, name, parent_epoch, columns) for row in part.to_list()]
    rows.sort(key=lambda row: row["model_id"])  # a hash: the first N spread over the grid
    unknown = [column for column in HYPERPARAMETERS if any(row[column] is None for row in rows)]
    if unknown:
        raise SpecError(
            f"{path} {name}: {', '.join(unknown)} of some models is unknown, and twins are trained like their parents; "
            f"build a config of the others first: zoo build … --where '{unknown[0]} is not None'"
        )
    members = tuple(
        Member(
            model_id=row["model_id"],
            seed=row["seed"],
            hyperparameters=HyperParameters(**{name: row[name] for name in point}),
        )
        for row in rows
    )
    images = manifest.source.get("images") or {}
    return Parents(
        path=path,
        config=name,
        epoch=parent_epoch,
        zoo=_zoo_of(manifest, members),
        limits=Limits(**(manifest.source.get("limits") or {})),
        fingerprint=images.get("fingerprint"),
        members=members,
        figures={row["model_id"]: {figure: row[figure] for figure in _FIGURES} for row in rows},
        left_out={},
    )


def _only_config(path: Path) -> str:
    names = configs_with_manifest(path) if path.is_dir() else []
    dense = [name for name in names if (manifest := read_manifest(path, name)) and not manifest.zoo.get("parent")]
    if len(dense) != 1:
        if dense:
            raise SpecError(f"{path}: its dense configs are {', '.join(dense)}; name the one to sparsify with --name")
        held = f"it has sparsified twins only ({', '.join(names)})" if names else "it is neither a run nor a repository"
        raise SpecError(f"{path}: {held}; twins are made of a run of dense models, or of a repository that has them")
    return dense[0]


def _zoo_of(manifest: Manifest, members: Sequence[Member]) -> ZooSpec:
    """The spec of the config's models; if its source records only a part, the grid is that of its rows."""
    fields = {entry.name for entry in dataclasses.fields(ZooSpec)}
    recipe = {key: value for key, value in manifest.zoo.items() if key in fields and value is not None}
    if fields - recipe.keys() <= {"doi", "parent", "sparsifier", "amount", "scope", "scheduler", *OPTIONAL_FIELDS}:
        return zoo_from_dict(recipe, manifest.config)
    points = [member.hyperparameters.to_dict() for member in members]
    grid = {axis: sorted({point[axis] for point in points}) for axis in GRID_FIELDS}
    momenta = {point["momentum"] for point in points} - {None}
    try:
        defaults = get_zoo(manifest.zoo.get("name", manifest.config)).to_dict()
    except LookupError:
        defaults = {}
    return zoo_from_dict(
        defaults
        | {
            key: value
            for key, value in recipe.items()
            if key in ("images", "architecture", "augmentation", "parent", *OWN_FIELDS)
        }
        | grid
        | {"name": manifest.config, "epochs": max(manifest.epochs[-1], 1), "seeds": len(members)}
        | {"batch_size": points[0]["batch_size"], "momentum": min(momenta, default=0.9)},
        manifest.config,
    )


def _load(path: Path, config: str | None, epoch: int, columns: Sequence[str], where: str | None = None) -> list[Any]:
    """The rows of all splits at an epoch, a dataset each."""
    assert config is not None
    loaded = load_zoo(path, config, epochs=[epoch], columns=columns, where=where)
    return [loaded[split] for split in SPLITS if split in loaded]
