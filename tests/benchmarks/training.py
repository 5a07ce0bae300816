"""A whole training at paper settings: share of an epoch's wall time spent writing, and peak memory.

    python tests/benchmarks/training.py [--members 256] [--epochs 1] [--json build/bench/training.json]

`cnn_s` at batch size 10 on as many images as MNIST has (50,000 / 10,000 / 10,000, random pixels), with
everything that `zoo train` does: data order, steps, evaluation, checkpoints, metrics, optimizer state.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from engine import machine
from rich.console import Console

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.runs.cohort import Cohort
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.training import train_zoo

WRITING_TARGET = 0.05
MEMORY_TARGET = 3e9


class WritingClock:
    """Counts the seconds that `Cohort`'s writers take, whatever the thread."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def wrap(self, write: Any) -> Any:
        @functools.wraps(write)
        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return write(*arguments)
            finally:
                with self._lock:
                    self.seconds += time.perf_counter() - begun

        return timed


def mnist_sized() -> ImageData:
    spec = get_image_spec("mnist")
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.arange(count) % spec.classes)

    return ImageData(
        spec=spec, size=28, fingerprint="random", train=split(spec.train), val=split(spec.val), test=split(spec.test)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench/training.json"))
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target is missed")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    zoo = get_zoo("mnist_cnn_s")
    data = mnist_sized()
    writing = WritingClock()
    for name in ("write_epoch", "write_resume"):
        setattr(Cohort, name, writing.wrap(getattr(Cohort, name)))
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as folder:
        out = Path(folder) / "run"
        train_zoo(zoo, out, data, models=arguments.members, epochs=1, path="auto")
        first = writing.seconds
        begun = time.perf_counter()
        # The run grows by epochs: these are all training, without epoch 0 and its evaluation on the training images.
        run = train_zoo(zoo, out, data, models=arguments.members, epochs=1 + arguments.epochs)
        seconds = time.perf_counter() - begun
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    share = (writing.seconds - first) / seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    images = arguments.members * arguments.epochs * len(data.train.labels)
    results = {
        "members": arguments.members,
        "epochs": arguments.epochs,
        "engine_path": run.manifest.engine,
        "seconds": seconds,
        "training_samples_per_second": images / seconds,
        "models_per_hour_of_50_epochs": arguments.members * arguments.epochs / 50 / seconds * 3600,
        "writing_seconds": writing.seconds - first,
        "writing_share": share,
        "peak_memory_bytes": memory,
        "run_bytes": written,
    }
    console.print(machine())
    console.print(
        f"{arguments.members} members, {arguments.epochs} epochs of {len(data.train.labels):,} images on the "
        f"{run.manifest.engine} path: {seconds:.1f} s, {images / seconds:,.0f} training samples/s (evaluation and "
        f"writing included), {results['models_per_hour_of_50_epochs']:,.0f} models of 50 epochs an hour"
    )
    verdicts = {"writing_share": share <= WRITING_TARGET, "peak_memory": memory < MEMORY_TARGET}
    console.print(f"writing: {share:.2%} of the wall time (target: at most {WRITING_TARGET:.0%})")
    console.print(f"peak memory: {memory / 1e9:.2f} GB (target: under {MEMORY_TARGET / 1e9:g} GB)")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", encoding="utf-8")
    return int(arguments.strict and not all(verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
