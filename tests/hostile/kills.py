"""SIGKILL at random moments of a run, its sparse twins and their builds; each killed job, run again, must end the same.

    python tests/hostile/kills.py --kills 100 --seed 0

Each job is killed up to five times and then left to finish. Its files are compared byte by byte with those of a job
that nothing disturbed. Not a test that pytest collects: 100 kills take some minutes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.progress import track

_LIMITS = ("--limit-train", "200", "--limit-val", "50", "--limit-test", "50")
_KILLS_OF_A_JOB = 5
_PROGRAM = (sys.executable, "-m", "zoo_datasets.cli")


def command(job: str, inputs: Path, out: Path) -> list[str]:
    """The command of a job; it reads finished runs in `inputs` and writes to `out`."""
    arguments = {
        "train": ("train", "digits_cnn_s", "--models", "12", "--epochs", "3", *_LIMITS, "--out", str(out)),
        "sparsify": ("sparsify", str(inputs / "train"), "--epochs", "2", "--out", str(out)),
        "build": ("build", str(inputs / "train"), "--out", str(out)),
        "build twins": ("build", str(inputs / "sparsify"), "--out", str(out)),
    }
    return [*_PROGRAM, *arguments[job]]


JOBS = ("train", "sparsify", "build", "build twins")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but locks, by its path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def killed(arguments: list[str], seconds: float) -> bool:
    """Start a command and kill it after some seconds; whether it was still running then.

    Raises:
        SystemExit: if it failed by itself.
    """
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} exited with {process.returncode}: {errors}")
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name) / "undisturbed"
        took: dict[str, float] = {}
        for job in JOBS:
            began = time.monotonic()
            subprocess.run(command(job, inputs, inputs / job), check=True, capture_output=True)
            took[job] = time.monotonic() - began
        expected = {job: contents(inputs / job) for job in JOBS}
        kills, finished, differing = Counter[str](), Counter[str](), []
        bar = iter(track(range(options.kills), description="kills"))
        while kills.total() < options.kills:
            job = JOBS[finished.total() % len(JOBS)]
            out = Path(name) / "killed"
            arguments = command(job, inputs, out)
            for _ in range(_KILLS_OF_A_JOB):
                if not killed(arguments, draw.uniform(0, took[job])):
                    break
                kills[job] += 1
                next(bar, None)
            subprocess.run(arguments, check=True, capture_output=True)
            finished[job] += 1
            if contents(out) != expected[job]:
                differing.append(job)
            shutil.rmtree(out)
    for job in JOBS:
        print(f"{job}: {kills[job]} kills of {finished[job]} jobs, {differing.count(job)} ended with other bytes")
    print(f"{kills.total()} kills, {finished.total()} jobs, {len(differing)} ended with other bytes")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
