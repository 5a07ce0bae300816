"""Benchmarks of properties predicted from weights."""

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
    "Record",
    "Result",
    "Settings",
    "benchmark",
    "read_data",
    "run_benchmark",
]
