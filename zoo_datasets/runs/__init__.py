"""A run on disk: what training writes and builders read."""

from zoo_datasets.runs.cohort import LOG_SIGMA2, MEMBERS, METRICS_SCHEMA, SPARSITY, Cohort, metrics_table
from zoo_datasets.runs.manifest import FORMAT, MANIFEST, MAX_STATES, Growth, ImagesRecord, ParentsRecord, RunManifest
from zoo_datasets.runs.run import Run

__all__ = [
    "FORMAT",
    "LOG_SIGMA2",
    "MANIFEST",
    "MAX_STATES",
    "MEMBERS",
    "METRICS_SCHEMA",
    "SPARSITY",
    "Cohort",
    "Growth",
    "ImagesRecord",
    "ParentsRecord",
    "Run",
    "RunManifest",
    "metrics_table",
]
