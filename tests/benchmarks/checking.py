"""What checks of damaged bytes cost: each job with its checks and without, in turns; medians of the rounds.

    python tests/benchmarks/checking.py [--rounds 7] [--json build/bench/checking.json]

- training: 32 members of `cnn_s` for an epoch on 10,000 images, with the checksums of their files; small, so that the
  share of writing is larger than in practice.
- building: a run of `digits_cnn_s` into shards; each of its files is compared with its checksum.
- loading: `load_zoo` of these shards into an empty cache, of files that were not hashed before (`first`), and of those
  whose digests are remembered (`again`).
- streaming: `load_zoo(streaming=True)` over all rows, with `check=True` and without; what is read is remembered too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import datasets
import torch
from engine import machine
from rich.console import Console
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.storage import checksums
from zoo_datasets.training import train_zoo

MODELS, EPOCHS = 200, 50


def images(count: int) -> ImageData:
    """Random pixels in the form of MNIST."""
    spec = get_image_spec("mnist")
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        pixels = torch.randint(0, 256, (size, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.arange(size) % spec.classes)

    return ImageData(spec=spec, size=28, fingerprint="random", train=split(count), val=split(1000), test=split(1000))


def no_checksum(data: object, value: int = 0) -> int:
    """In the place of `crc32`; a mock would keep the data."""
    return 0


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Inside, the checksum of every file is 0, which costs nothing."""
    with mock.patch.object(checksums, "crc32", no_checksum):
        yield


class Jobs:
    """The jobs, each from the folder of a round to its seconds."""

    def __init__(self, folder: Path) -> None:
        self.data = images(10_000)
        zoo = get_zoo("digits_cnn_s")
        self.run = make_run(folder / "run", [(MODELS, EPOCHS)], zoo=zoo, cohort_size=MODELS).path
        with unchecked():
            self.unchecked_run = make_run(folder / "unchecked", [(MODELS, EPOCHS)], zoo=zoo, cohort_size=MODELS).path
        self.repo = folder / "repo"
        build_repository(self.run, self.repo)

    def train(self, folder: Path, checked: bool) -> float:
        with contextlib.nullcontext() if checked else unchecked():
            return seconds(
                lambda: train_zoo(get_zoo("mnist_cnn_s"), folder / "trained", self.data, models=32, epochs=1)
            )

    def build(self, folder: Path, checked: bool) -> float:
        with contextlib.nullcontext() if checked else unchecked():
            run = self.run if checked else self.unchecked_run
            return seconds(lambda: build_repository(run, folder / "repo"))

    def load(self, folder: Path, checked: bool, again: bool = False) -> float:
        with in_caches(folder):
            if again:
                load_zoo(self.repo, "digits_cnn_s", check=True, columns=["epoch"])
            return seconds(lambda: load_zoo(self.repo, "digits_cnn_s", check=checked))

    def stream(self, folder: Path, checked: bool) -> float:
        def read() -> None:
            for split in load_zoo(self.repo, "digits_cnn_s", streaming=True, check=checked).values():
                for _ in split.with_format("arrow").iter(1000):
                    pass

        with in_caches(folder):
            return seconds(read)


@contextlib.contextmanager
def in_caches(folder: Path) -> Iterator[None]:
    """Inside, prepared rows and remembered digests lie in a folder."""
    with (
        mock.patch.dict(os.environ, {"ZOO_CACHE": str(folder / "digests")}),
        mock.patch.object(datasets.config, "HF_DATASETS_CACHE", folder / "prepared"),
    ):
        yield


def seconds(job: Callable[[], object]) -> float:
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/bench/checking.json"))
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    datasets.disable_progress_bars()
    times: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as name:
        jobs = Jobs(Path(name))
        table: dict[str, Callable[[Path, bool], float]] = {
            "training": jobs.train,
            "building": jobs.build,
            "loading, first": jobs.load,
            "loading, again": lambda folder, checked: jobs.load(folder, checked, again=True),
            "streaming": jobs.stream,
        }
        for index in range(arguments.rounds + 1):  # the first warms up
            for title, job in table.items():
                for checked in (index % 2 == 0, index % 2 == 1):
                    with tempfile.TemporaryDirectory(dir=name) as folder:
                        took = job(Path(folder), checked)
                    if index:
                        times.setdefault(title, ([], []))[checked].append(took)
    console.print(machine())
    results = {}
    for title, (without, with_checks) in times.items():
        ratios = sorted(one / other for one, other in zip(with_checks, without, strict=True))
        results[title] = {"unchecked": statistics.median(without), "checked": statistics.median(with_checks),
                          "ratio": statistics.median(ratios), "ratios": ratios}  # fmt: skip
        console.print(
            f"{title}: {statistics.median(with_checks):.3f} s with checks, {statistics.median(without):.3f} s without; "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
