"""Importing 5,000 `cnn_s` checkpoints, against a plain loop of torch.load, flatten and one Parquet write.

    python tests/benchmarks/importing.py [--trials 98]

Each way runs as its own process on one thread, the three in turn; times are of the work alone, without importing
torch. What bounds `zoo build` is writing: a third of its time is zstd and byte-splitting of floats; listing the folder,
opening and reading the files, and parsing result.json, which the plain loop leaves alone, share most of the rest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS, EPOCHS = 98, 51


def make(folder: Path, trials: int) -> int:
    """A zoo of real structure and random weights; gives the number of checkpoints."""
    from raw_zoos import make_zoo

    make_zoo(folder, models=trials, epochs=range(EPOCHS))
    return trials * EPOCHS


def plain(folder: Path, out: Path) -> None:
    """What anybody would write first."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    names, epochs, weights = [], [], []
    for file in sorted(folder.glob("*/checkpoint_*/checkpoints")):
        state = torch.load(file, weights_only=True)
        weights.append(torch.cat([tensor.flatten() for tensor in state.values()]).numpy())
        names.append(file.parent.parent.name)
        epochs.append(int(file.parent.name.removeprefix("checkpoint_")))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(weights)), len(weights[0]))
    pq.write_table(pa.table({"model": names, "epoch": epochs, "weights": flat}), out)


def ours(source: Path, out: Path) -> None:
    """`zoo build`."""
    from zoo_datasets.builders import build_repository

    build_repository(source, out)


def measure(way: str, source: Path) -> tuple[float, float]:
    """Seconds of work and peak memory in MB of one way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--source", str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def run_way(way: str, source: Path) -> None:
    """Do the work and print its time and memory."""
    import torch

    import zoo_datasets.builders  # noqa: F401 - imports are not what is measured

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        plain(source, Path(folder) / "plain.parquet") if way == "plain" else ours(source, Path(folder) / "repo")
        seconds = time.perf_counter() - begun
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    """Measure all ways in turn and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.source)
        return
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder) / "tune_zoo_mnist_uniform"
        count = make(zoo, options.trials)
        from raw_zoos import zipped

        archive = zipped(zoo)
        ways = [
            ("plain loop, folder", "plain", zoo),
            ("zoo build, folder", "ours", zoo),
            ("zoo build, zip", "ours", archive),
        ]
        times: dict[str, list[float]] = {}
        peaks: dict[str, float] = {}
        for _ in range(3):  # in turn, so that a busy moment of the machine hits all alike
            for title, way, source in ways:
                seconds, peak = measure(way, source)
                times.setdefault(title, []).append(seconds)
                peaks[title] = max(peaks.get(title, 0), peak)
        base = min(times["plain loop, folder"])
        print(f"{count:,} checkpoints of cnn_s, best of 3")
        for title, seconds in times.items():
            best = min(seconds)
            print(f"{title:30} {best:7.2f} s {count / best:9,.0f} a second {base / best:5.1f} × {peaks[title]:6.0f} MB")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
