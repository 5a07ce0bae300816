"""How fast weights come out of a zoo, beside what the machine copies: `make bench`.

The yardstick is numpy: the same bytes, in the same order of rows, copied from a memory-mapped file into one
batch buffer. The file is written by one `tofile`, as a user would: the kernel keeps a file in pages as large as the
writes were, and one in 4 KB pages, as a written memory map leaves it, is read more slowly. Every side sums each batch
on one thread, and the sides take turns; the best of their times counts. `batches` reads ahead in a second thread, so
on a machine with one free core it shows less.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))

from plain import permute_row_by_row
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.symmetries import permute

NAME = "digits_cnn_s"
MODELS, EPOCHS, BATCH = 570, 50, 256
COLUMNS = ["weights", "test_acc"]
# name: (compared with, at least this share of its speed)
TARGETS = {
    "batches, stored order": ("numpy memory map", 0.8),
    "batches, stored order, copy=False": ("numpy memory map", 0.8),
    "batches, shuffled": ("numpy memory map", 0.55),
    "streamed, stored order": ("pyarrow alone", 0.9),
    "streamed, shuffled": ("pyarrow alone", 0.9),
}
MAPPED = [name for name, (beside, _) in TARGETS.items() if beside == "numpy memory map"]
AT_LEAST = 5.0  # times the DataLoader


def summed_numpy(matrix: np.memmap, rows: int) -> Callable[[], float]:
    buffer = torch.empty(BATCH, matrix.shape[1])
    target = buffer.numpy()

    def run() -> float:
        total = 0.0
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            target[:count] = matrix[start : start + count]
            total += float(buffer[:count].sum())
        return total

    return run


def summed(made) -> Callable[[], float]:
    return lambda: sum(float(batch["weights"].sum()) for batch in made)


def summed_parquet(files: list[Path]) -> Callable[[], float]:
    """All row groups by pyarrow alone, and nothing copied."""

    def run() -> float:
        total = 0.0
        for file in files:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                column = parquet.read_row_group(group, columns=["weights"]).column("weights")
                for chunk in column.chunks:
                    rows = torch.from_numpy(chunk.flatten().to_numpy()).view(len(chunk), -1)
                    total += sum(float(part.sum()) for part in rows.split(BATCH))
        return total

    return run


def best_times(sides: dict[str, Callable[[], float]], turns: int) -> dict[str, float]:
    best = dict.fromkeys(sides, float("inf"))
    totals = {}
    for _ in range(turns):
        for name, side in sides.items():
            begun = time.perf_counter()
            totals[name] = side()
            best[name] = min(best[name], time.perf_counter() - begun)
    expected = next(iter(totals.values()))
    for name, total in totals.items():
        if abs(total - expected) > 1e-3 * abs(expected) + 1.0:
            raise RuntimeError(f"{name} summed to {total}, expected {expected}: it did not read the same bytes")
    return best


def measure(folder: Path, turns: int) -> dict[str, object]:
    make_run(folder / "run", ((MODELS, EPOCHS),), cohort_size=190)
    build_repository(folder / "run", folder / "repo")
    zoo = load_zoo(folder / "repo", NAME, "train")
    rows, width = len(zoo), zoo.features["weights"].length
    np.concatenate([chunk.flatten().to_numpy() for chunk in zoo.data.column("weights").chunks]).tofile(
        folder / "weights.bin"
    )
    matrix = np.memmap(folder / "weights.bin", np.float32, "r", shape=(rows, width))

    torch_zoo = zoo.select_columns(COLUMNS).with_format("torch")
    first = first_batch(folder)
    times = best_times(
        {
            "numpy memory map": summed_numpy(matrix, rows),
            "batches, stored order": summed(batches(zoo, BATCH, COLUMNS)),
            "batches, stored order, copy=False": summed(batches(zoo, BATCH, COLUMNS, copy=False)),
            "batches, shuffled": summed(batches(zoo, BATCH, COLUMNS, shuffle=True)),
        },
        turns,
    )
    stream = load_zoo(folder / "repo", NAME, "train", streaming=True)
    streaming = {
        "pyarrow alone": summed_parquet(sorted((folder / "repo" / NAME).glob("train-*.parquet"))),
        "streamed, stored order": summed(batches(stream, BATCH, ["weights"])),
        "streamed, shuffled": summed(batches(stream, BATCH, ["weights"], shuffle=True)),
    }
    times |= best_times(streaming, max(turns // 3, 1))
    times |= best_times({"DataLoader, with_format, shuffled": summed(DataLoader(torch_zoo, BATCH, shuffle=True))}, 1)
    layers = get_architecture("cnn_s").layers(1, 10)
    some = next(iter(batches(zoo, BATCH, ["weights"])))["weights"]
    array, draw = some.numpy(), np.random.default_rng(0)
    permuting = {
        "permute": lambda: float(permute(some, layers).sum()),
        "row by row in numpy": lambda: float(permute_row_by_row(array, layers, draw).sum()),
    }
    size = rows * width * 4
    return {
        "rows": rows,
        "width": width,
        "batch_size": BATCH,
        "seconds_to_first_batch": first,
        "seconds_to_permute_a_batch": best_times(permuting, turns),
        "gigabytes_per_second": {name: size / seconds / 1e9 for name, seconds in times.items()},
    }


def first_batch(folder: Path) -> float:
    """Seconds from load_zoo of a prepared zoo to the first shuffled batch."""
    begun = time.perf_counter()
    next(iter(batches(load_zoo(folder / "repo", NAME, "train"), BATCH, COLUMNS, shuffle=True)))
    return time.perf_counter() - begun


def verdicts(speeds: dict[str, float], permuting: dict[str, float]) -> list[tuple[str, float, float, bool]]:
    """(what, ratio, at least, whether it holds)."""
    found = []
    for name, (beside, least) in TARGETS.items():
        found.append((f"{name} / {beside}", speeds[name] / speeds[beside], least))
    loader = next(name for name in speeds if name.startswith("DataLoader"))
    found += [(f"{name} / {loader}", speeds[name] / speeds[loader], AT_LEAST) for name in MAPPED]
    found.append(("permute / row by row in numpy", permuting["row by row in numpy"] / permuting["permute"], AT_LEAST))
    return [(what, ratio, least, ratio >= least) for what, ratio, least in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        result = measure(Path(folder), options.turns)
    console = Console(width=120)
    speeds = result["gigabytes_per_second"]
    table = Table(title=f"{result['rows']:,} rows of {result['width']:,} float32 in batches of {BATCH}, each summed")
    table.add_column("reader")
    table.add_column("GB/s", justify="right")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.2f}")
    console.print(table)
    table = Table(title="targets")
    for title in ("ratio of speeds", "found", "at least", "holds"):
        table.add_column(title, justify="left" if title == "ratio of speeds" else "right")
    result["targets"] = []
    for what, ratio, least, holds in verdicts(speeds, result["seconds_to_permute_a_batch"]):
        table.add_row(what, f"{ratio:.2f}", f"{least:.2f}", "yes" if holds else "NO")
        result["targets"].append({"ratio": what, "found": ratio, "at_least": least, "holds": holds})
    console.print(table)
    console.print(f"first shuffled batch of the prepared zoo after {result['seconds_to_first_batch']:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(options.strict and not all(target["holds"] for target in result["targets"]))


if __name__ == "__main__":
    raise SystemExit(main())
