"""`zoo_datasets.evaluation.benchmark.record` under the name that it had."""

from zoo_datasets.evaluation.benchmark.record import Record, run_benchmark

__all__ = ["Record", "run_benchmark"]
