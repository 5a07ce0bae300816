"""Benchmarks of properties predicted from weights."""

from zoo_datasets.evaluation.benchmark.model_record import ModelRecord, run_models
from zoo_datasets.evaluation.benchmark.model_results import ModelResult
from zoo_datasets.evaluation.benchmark.models import ModelSettings
from zoo_datasets.evaluation.benchmark.record import Record, run_benchmark
from zoo_datasets.evaluation.benchmark.run import (
    DEFAULT_FEATURES,
    Data,
    Finished,
    Result,
    Settings,
    benchmark,
    read_data,
)

__all__ = [
    "DEFAULT_FEATURES",
    "Data",
    "Finished",
    "ModelRecord",
    "ModelResult",
    "ModelSettings",
    "Record",
    "Result",
    "Settings",
    "benchmark",
    "read_data",
    "run_benchmark",
    "run_models",
]
