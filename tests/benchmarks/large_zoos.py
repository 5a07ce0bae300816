"""Zoos that are large: how soon the first batch comes, and how much memory is used. Not part of `make bench`.

`first` makes a zoo whose training split holds 2 GB and times the first batch, streamed and prepared, each in a new
process and without the imports. `memory` makes rows of 45 MB (ResNet-18) and takes the memory of a process that
prepares them and of processes that iterate: what it holds by itself (anonymous), without the pages of mapped files,
which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.specs.zoos import get_zoo

NAME = "digits_cnn_s"
SECONDS = {"streamed": 5.0, "streamed, shuffled": 5.0, "prepared": 2.0, "prepared, shuffled": 2.0}
COMMON = """
import sys, time, threading
from pathlib import Path
import datasets, torch
datasets.disable_progress_bars()
datasets.config.HF_DATASETS_CACHE = Path(sys.argv[2])
from zoo_datasets import batching, load_zoo, batches, streaming, tasks
repo, how, size = sys.argv[1], sys.argv[3], int(sys.argv[4])
options = dict(batch_size=size, shuffle="shuffled" in how, columns=["weights", "test_acc"])
"""
FIRST = (
    COMMON
    + """
begun = time.perf_counter()
zoo = load_zoo(repo, "NAME", "train", streaming="streamed" in how)
made = batches(zoo, **options)
iterator = iter(made)
next(iterator)
print(time.perf_counter() - begun)
"""
)
MEMORY = (
    COMMON
    + """
peak, done = 0, False
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.005)
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
zoo = load_zoo(repo, "NAME", "train", streaming="streamed" in how)
total = sum(float(batch["weights"].sum()) for batch in batches(zoo, **options)) if "preparing" not in how else 0
done = True
thread.join()
print(peak - before)
"""
)


def ask(program: str, *arguments: object) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program.replace("NAME", NAME), *map(str, arguments)],
        capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def first_batches(folder: Path, gigabytes: float) -> tuple[dict[str, float], int]:
    """Seconds to the first batch, and bytes of the training split."""
    epochs = 50
    width = layout_of("cnn_s", 1, 10).size
    models = int(gigabytes * 1e9 / 0.7 / (epochs + 1) / width / 4)
    zoo = dataclasses.replace(get_zoo(NAME), seeds=models)
    make_run(folder / "run", ((models, epochs),), zoo=zoo, cohort_size=500)
    build_repository(folder / "run", folder / "repo")
    shards = json.loads((folder / "repo" / "_meta" / NAME / "manifest.json").read_text())["shards"]
    size = sum(shard["rows"] for shard in shards if shard["split"] == "train") * width * 4
    found = {"preparing": ask(FIRST, folder / "repo", folder / "cache", "prepared", 256)}
    return found | {how: ask(FIRST, folder / "repo", folder / "cache", how, 256) for how in SECONDS}, size


def memory(folder: Path, models: int, sizes: list[int]) -> dict[str, float]:
    """Gigabytes that a process holds at most while it goes through rows of 45 MB, by what it does."""
    zoo = dataclasses.replace(get_zoo(NAME), architecture="resnet18")
    make_run(folder / "run", ((models, 0),), zoo=zoo, cohort_size=4)
    build_repository(folder / "run", folder / "repo")
    place = (folder / "repo", folder / "cache")
    found = {"preparing": ask(MEMORY, *place, "preparing", 1) / 1e9}
    for how in SECONDS:
        for size in sizes:
            found[f"{how}, batches of {size}"] = ask(MEMORY, *place, how, size) / 1e9
    return found


def bound(how: str) -> float:
    """Gigabytes that are expected at most: batches in use, read ahead and shuffled in; and, where Parquet is read,
    row groups of 100 MB while they are decoded."""
    batches = int(how.split()[-1]) * 0.045 if "batches" in how else 0.0
    return 5 * batches if how.startswith("prepared") else 1.2 + (10 if "shuffled" in how else 4) * batches


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("first", "memory"))
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the training split, for `first`")
    parser.add_argument("--models", type=int, default=30, help="rows of 45 MB over all splits, for `memory`")
    parser.add_argument("--folder", type=Path, help="where the zoo is made, and deleted again")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="zoo-bench-", dir=options.folder) as folder:
        if options.what == "first":
            found, size = first_batches(Path(folder), options.gigabytes)
            table = Table("first batch of 256", "seconds", "at most", title=f"training split of {size / 1e9:.2f} GB")
            for how, seconds in found.items():
                table.add_row(how, f"{seconds:.2f}", f"{SECONDS[how]:.0f}" if how in SECONDS else "")
            held = all(found[how] <= most for how, most in SECONDS.items())
        else:
            table = Table(
                "rows of 45 MB", "GB held at most", "bound", title=f"{options.models} models of 11.2 M weights"
            )
            peaks = memory(Path(folder), options.models, [1, 2, 4])
            for how, gigabytes in peaks.items():
                table.add_row(how, f"{gigabytes:.2f}", f"{bound(how):.2f}")
            held = all(peak <= bound(how) for how, peak in peaks.items())
    console.print(table)
    return int(options.strict and not held)


if __name__ == "__main__":
    raise SystemExit(main())
