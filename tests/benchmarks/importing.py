"""Importing 5,000 `cnn_s` checkpoints, against a plain loop of torch.load, flatten and one Parquet write.

    python tests/benchmarks/importing.py [--trials 98]      speed
    python tests/benchmarks/importing.py --memory           peak memory: 100,000 checkpoints, and rows of 45 MB

Each way runs as its own process, on one thread where it does not say otherwise, all in turn; times are of the work
alone, without importing torch. CPU seconds are what a core is kept busy, also on a machine that has other work; they
leave out waiting for the disk, which only `zoo build` does (it syncs its shards). What bounds `zoo build` of this zoo:
writing Parquet takes more than two fifths of the time (28 columns in each of 153 row groups, the weights compressed),
listing the folder and result.json a sixth, reading the checkpoints an eighth, closing the shards and their checksums a
tenth. Two threads share listing, reading and writing; result.json, the light config and the card are left to one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

TRIALS, EPOCHS = 98, 51
MANY_TRIALS, MANY_EPOCHS, DIFFERENT = 2000, 50, 200


def make(folder: Path, trials: int) -> int:
    """A zoo of real structure and random weights; gives the number of checkpoints."""
    from raw_zoos import make_zoo

    make_zoo(folder, models=trials, epochs=range(EPOCHS))
    return trials * EPOCHS


def make_linked(folder: Path, files: list[Path], trials: int, epochs: int, **params: object) -> int:
    """A zoo whose checkpoints are hard links to a few files; gives the number of checkpoints."""
    from raw_zoos import PARAMS, result_line, trial_name, write_trial

    for index in range(trials):
        own = PARAMS | params | {"seed": index}
        lines = [result_line(epoch, own) for epoch in range(epochs)]
        trial = write_trial(folder / trial_name(index, index), own, dict.fromkeys(range(epochs)), lines)
        for epoch in range(epochs):
            file = files[(index * epochs + epoch) % len(files)]
            os.link(file, trial / f"checkpoint_{epoch:06d}" / "checkpoints")
    return trials * epochs


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


def ours(source: Path, out: Path, num_proc: int = 1) -> None:
    """`zoo build`."""
    from zoo_datasets.builders import build_repository

    build_repository(source, out, num_proc=num_proc)


def do(way: str, source: Path, out: Path) -> None:
    """Import by one way: `plain`, or `zoo build` with so many threads."""
    if way == "plain":
        plain(source, out)
    else:
        ours(source, out, int(way))


def measure(way: str, source: Path) -> tuple[float, float, float]:
    """Seconds of work, CPU seconds, and peak memory in MB of one way, run by itself."""
    command = [sys.executable, __file__, "--way", way, "--source", str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu, peak


def run_way(way: str, source: Path) -> None:
    """Do the work and print its time and memory."""
    import torch

    import zoo_datasets.builders  # noqa: F401 - imports are not what is measured

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tune_zoo_mnist_uniform"
        make(tiny, 1)
        do(way, tiny, Path(folder) / "tiny")  # what is loaded and set up once is not what is measured either
        before = _usage()
        begun = time.perf_counter()
        do(way, source, Path(folder) / "out")
        seconds = time.perf_counter() - begun
        after = _usage()
    print(json.dumps([seconds, after[0] - before[0], after[1]]))


def _usage() -> tuple[float, float]:
    """CPU seconds of this process, and its peak memory in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def speed(trials: int) -> None:
    """Measure all ways in turn and print a table."""
    from raw_zoos import zipped

    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder) / "tune_zoo_mnist_uniform"
        count = make(zoo, trials)
        stored = zipped(zoo).rename(Path(folder) / "stored_zoo_mnist_uniform.zip")
        deflated = zipped(zoo, zipfile.ZIP_DEFLATED)
        ways = [
            ("plain loop, folder", "plain", zoo),
            ("zoo build, folder", "1", zoo),
            ("zoo build, zip (stored)", "1", stored),
            ("zoo build, zip (deflated)", "1", deflated),
            ("zoo build, folder, --num-proc 2", "2", zoo),
        ]
        found: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(3):  # in turn, so that a busy moment of the machine hits all alike
            for title, way, source in ways:
                found.setdefault(title, []).append(measure(way, source))
        best = {title: [min(values) for values in zip(*runs, strict=True)] for title, runs in found.items()}
        plain_seconds, plain_cpu, _ = best["plain loop, folder"]
        print(f"{count:,} checkpoints of cnn_s, best of 3")
        for title, (seconds, cpu, peak) in best.items():
            print(
                f"{title:31} {seconds:6.2f} s {count / seconds:8,.0f} a second {plain_seconds / seconds:5.1f} ×   "
                f"CPU {cpu:6.2f} s {plain_cpu / cpu:5.1f} × {peak:6.0f} MB"
            )


def memory() -> None:
    """Print the peak memory of builds of many checkpoints and of large ones."""
    import torch
    from raw_zoos import make_zoo, saved

    from zoo_datasets.networks.architectures import layout_of

    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few"
        make_zoo(few, models=DIFFERENT // 10, epochs=range(10))
        many = Path(folder) / "tune_zoo_mnist_uniform"
        count = make_linked(many, sorted(few.rglob("checkpoints")), MANY_TRIALS, MANY_EPOCHS)
        layout = layout_of("resnet18", 3, 10)
        weights = torch.randn(layout.size) * 0.01
        file = Path(folder) / "resnet18"
        file.write_bytes(saved(layout.unflatten(weights)))
        large = Path(folder) / "tune_zoo_cifar10_resnet18"
        rows = make_linked(large, [file], 8, 4, **{"model::type": "Resnet18", "model::channels_in": 3})
        for title, source in ((f"{count:,} checkpoints of cnn_s", many), (f"{rows} of resnet18, 45 MB each", large)):
            for num_proc in ("1", "2"):
                _, cpu, peak = measure(num_proc, source)
                print(f"{title:36} --num-proc {num_proc}: {peak:6.0f} MB, CPU {cpu:6.1f} s")


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.source)
    elif options.memory:
        memory()
    else:
        speed(options.trials)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
