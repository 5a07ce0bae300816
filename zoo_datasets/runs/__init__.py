"""A run on disk: what training writes and builders read."""

from zoo_datasets.runs.checked import MEMBERS
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.runs.manifest import (
    MAX_STATES,
    RUN_FORMAT,
    RUN_MANIFEST,
    Growth,
    ImagesRecord,
    ParentsRecord,
    RunManifest,
)
from zoo_datasets.runs.metrics import METRICS_SCHEMA, SPARSITY, metrics_table
from zoo_datasets.runs.run import Run

__all__ = [
    "MAX_STATES",
    "MEMBERS",
    "METRICS_SCHEMA",
    "RUN_FORMAT",
    "RUN_MANIFEST",
    "SPARSITY",
    "Cohort",
    "Growth",
    "ImagesRecord",
    "ParentsRecord",
    "Run",
    "RunManifest",
    "metrics_table",
]
