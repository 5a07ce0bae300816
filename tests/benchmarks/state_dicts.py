"""Building a config of 5,000 safetensors files of 1,185 weights with a table, against a plain loop of `load_file`,
flatten and one Parquet write.

    python tests/benchmarks/state_dicts.py [--files 5000]

Each way runs as its own process on one thread, in turn; times are of the work alone, without imports. The plain loop
reads no table, makes no splits, checks nothing and syncs nothing; `zoo build` does.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES, ROUNDS = 5000, 5


def make(folder: Path, files: int) -> None:
    """Files of perceptrons 64 → 16 → 8 → 1, and a table of them."""
    import torch
    from safetensors.torch import save_file

    (folder / "states").mkdir()
    shapes = {
        "0.weight": (16, 64),
        "0.bias": (16,),
        "2.weight": (8, 16),
        "2.bias": (8,),
        "4.weight": (1, 8),
        "4.bias": (1,),
    }
    lines = ["file,seed,lr,test_acc,train_fraction,label"]
    for number in range(files):
        state = {name: torch.randn(shape) for name, shape in shapes.items()}
        save_file(state, folder / "states" / f"model_{number:05d}.safetensors")
        lines.append(
            f"model_{number:05d}.safetensors,{number},0.01,{number % 97 / 97},{number % 10 / 10},c{number % 7}"
        )
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def plain(folder: Path, out: Path) -> None:
    """What anybody would write first."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import load_file

    names, weights = [], []
    for file in sorted((folder / "states").glob("*.safetensors")):
        weights.append(torch.cat([tensor.flatten() for tensor in load_file(file).values()]).numpy())
        names.append(file.name)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(weights)), len(weights[0]))
    pq.write_table(pa.table({"model": names, "weights": flat}), out)


def ours(folder: Path, out: Path, num_proc: int = 1) -> None:
    """`zoo build` with the table."""
    from zoo_datasets.builders import Reading, StateDictOptions, build_repository

    reading = Reading(state_dicts=StateDictOptions(table=folder / "table.csv"))
    build_repository(folder / "states", out, "perceptrons", reading=reading, num_proc=num_proc)


WAYS = {
    "plain loop": plain,
    "zoo build": ours,
    "zoo build --num-proc 2": lambda folder, out: ours(folder, out, 2),
}


def run_way(way: str, folder: Path) -> None:
    """Do the work and print its seconds and CPU seconds."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as other:
        make(Path(other), 3)
        WAYS[way](Path(other), Path(other) / "out")  # what is imported and compiled once is not measured
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        WAYS[way](folder, Path(other) / "measured")
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]))


def main() -> None:
    """Measure both ways in turn and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--files", type=int, default=FILES)
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.folder)
        return
    times: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.files)
        for _ in range(ROUNDS):
            for way, measured in times.items():
                command = [sys.executable, __file__, "--way", way, "--folder", folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                measured.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {way: [statistics.median(each) for each in zip(*runs, strict=True)] for way, runs in times.items()}
    print(f"{options.files:,} files of 1,185 weights, medians of {ROUNDS} in turn")
    for way, (seconds, cpu) in medians.items():
        ratios = [one / other for one, other in zip(medians["plain loop"], (seconds, cpu), strict=True)]
        print(f"{way:23} {seconds:6.2f} s {ratios[0]:5.1f} ×   CPU {cpu:6.2f} s {ratios[1]:5.1f} ×")


if __name__ == "__main__":
    main()
