"""What a zoo holds: fields, members, and the table of the zoos."""

from zoo_datasets.specs.axes import FURTHER_AXES, GRID_FIELDS, Activation, Drawn, HyperParameters, Init, Optimizer
from zoo_datasets.specs.bounds import MAX_BATCH, MAX_EPOCH, MAX_MODELS, NAME, SEED_LIMIT
from zoo_datasets.specs.images import ImageSpec, Pixels
from zoo_datasets.specs.members import Limits, Member, members_of
from zoo_datasets.specs.spec import Augmentation, Scheduler, Scope, SeedKind, SparsifierName, ZooSpec, digest_of

__all__ = [
    "FURTHER_AXES",
    "GRID_FIELDS",
    "MAX_BATCH",
    "MAX_EPOCH",
    "MAX_MODELS",
    "NAME",
    "SEED_LIMIT",
    "Activation",
    "Augmentation",
    "Drawn",
    "HyperParameters",
    "ImageSpec",
    "Init",
    "Limits",
    "Member",
    "Optimizer",
    "Pixels",
    "Scheduler",
    "Scope",
    "SeedKind",
    "SparsifierName",
    "ZooSpec",
    "digest_of",
    "members_of",
]
