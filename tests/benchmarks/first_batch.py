"""A raw zoo against the repository that is built of it: size, and CPU time to a first batch of 64 random states.

    python tests/benchmarks/first_batch.py tune_zoo_mnist_uniform.zip

CPU time and not that of a clock, so that other work on the machine matters little; the imports come before.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch

import zoo_datasets as zd
from zoo_datasets.builders import build_repository

BATCH = 64


def by_hand(archive: Path) -> torch.Tensor:
    """What there is to do without this package: find the checkpoints, load some, flatten them."""
    with zipfile.ZipFile(archive) as files:
        names = [name for name in files.namelist() if name.endswith("/checkpoints")]
        drawn = np.random.default_rng(0).choice(names, BATCH, replace=False)
        states = [torch.load(io.BytesIO(files.read(name)), weights_only=True) for name in drawn]
    return torch.stack([torch.cat([tensor.flatten() for tensor in state.values()]) for state in states])


def by_repository(repo: Path, name: str) -> torch.Tensor:
    """The same of a repository."""
    stream = zd.load_zoo(repo, name, "train", streaming=True)
    batch: torch.Tensor = next(iter(zd.batches(stream, BATCH, ["weights"], shuffle=True)))["weights"]
    return batch


def seconds(call: Callable[[], torch.Tensor]) -> float:
    """The least CPU time of five calls."""
    times = []
    for _ in range(5):
        begun = time.process_time()
        assert len(call()) == BATCH
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    """Print both."""
    archive = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        repo = Path(folder) / "repo"
        result = build_repository(archive, repo)
        size = sum(file.stat().st_size for file in (repo / result.config).glob("*.parquet"))
        print(f"{result.rows} states: {archive.stat().st_size / 1e6:.2f} MB as a zip, {size / 1e6:.2f} MB as Parquet")
        print(f"first batch: {seconds(lambda: by_hand(archive)) * 1e3:.0f} ms by torch.load, ", end="")
        print(f"{seconds(lambda: by_repository(repo, result.config)) * 1e3:.0f} ms from the repository (CPU)")


if __name__ == "__main__":
    main()
