"""Building a Small CNN Zoo from one array of flat weights, against `pq.write_table` with the settings of the shards.

    python tests/benchmarks/populations.py                    27,000 rows of 4,970 weights, 0.5 GB
    python tests/benchmarks/populations.py --rows 270000      as many as the published zoos have, 5.4 GB

Both ways run as a process of their own, in turn, on the same rows: the yardstick on one thread, `zoo build` on one that
writes and, where there is a core for them, one that reads ahead and one that hashes. The yardstick only writes: it is
handed each block of rows in memory, as `zoo build` writes them, and its reading is not counted. `zoo build` reads the
array and the table, turns weights into torch's order, hashes, lists, syncs and writes the card. Rows a CPU second are
what a core does, also on a machine that has other work. The peak is that of the whole process (VmHWM), all libraries
included; nothing of the array is mapped into memory, its rows are read where they lie, so that no clean pages of a file
are in it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from zoo_datasets.storage.cores import cores

STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
WEIGHTS = 4970
BLOCK = 5_000  # rows in memory


def make(folder: Path, rows: int) -> None:
    """A zoo of random weights, about as large as trained ones."""
    from small_cnn_files import _csv, layout, metrics

    folder.mkdir(parents=True)
    (folder / "layout.csv").write_text(layout())
    generator = np.random.default_rng(0)
    text = _csv(metrics(rows // len(STEPS), STEPS, generator=generator))
    (folder / "metrics.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
    array = np.lib.format.open_memmap(folder / "weights.npy", "w+", np.float32, (rows, WEIGHTS))
    for start in range(0, rows, BLOCK):
        array[start : start + BLOCK] = 0.1 * generator.standard_normal((min(BLOCK, rows - start), WEIGHTS), np.float32)
    array.flush()


def written(folder: Path, repo: Path, out: Path) -> tuple[float, float]:
    """Seconds and CPU seconds of `pq.write_table` alone, of the rows of a repository's shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from zoo_datasets.builders.shards import writer

    seconds = cpu = 0.0
    for number, shard in enumerate(sorted(repo.glob("small_cnn_zoo_mnist/*.parquet"))):
        with pq.ParquetFile(shard) as file, contextlib.ExitStack() as stack:
            schema = file.schema_arrow
            wide = ["weights.list.element"]
            paths = [*(name for name in schema.names if name != "weights"), *wide]
            target = stack.enter_context(
                pq.ParquetWriter(
                    out / f"{number}.parquet", schema,
                    compression={path: "zstd" if path in wide else "snappy" for path in paths},
                    compression_level=dict.fromkeys(wide, 1), use_dictionary=writer._repeated(schema),
                    column_encoding=dict.fromkeys(wide, "BYTE_STREAM_SPLIT"),
                    write_statistics=writer._with_statistics(schema),
                )
            )  # fmt: skip
            for group in range(file.metadata.num_row_groups):
                table = pa.Table.from_batches([file.read_row_group(group, use_threads=False).to_batches()[0]])
                begun = time.perf_counter(), _cpu()
                target.write_table(table)
                seconds, cpu = seconds + time.perf_counter() - begun[0], cpu + _cpu() - begun[1]
    return seconds, cpu


def built(folder: Path, out: Path) -> tuple[float, float]:
    """Seconds and CPU seconds of `zoo build`."""
    import torch

    from zoo_datasets.builders import build_repository

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tiny:
        make(Path(tiny) / "mnist", 9)
        build_repository(Path(tiny) / "mnist", Path(tiny) / "out")  # what is loaded once is not what is measured
    begun = time.perf_counter(), _cpu()
    build_repository(folder, out)
    return time.perf_counter() - begun[0], _cpu() - begun[1]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    """The peak memory of this process in MB: that of `getrusage` may be its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _run(*arguments: object) -> tuple[float, float, float]:
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu, peak


def main() -> None:
    """Build, write and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=27_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary one by default")
    parser.add_argument("--way", nargs="+")
    options = parser.parse_args()
    if options.way:
        way, *paths = options.way
        seconds, cpu = (built if way == "built" else written)(*map(Path, paths))
        print(json.dumps([seconds, cpu, _peak()]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder / "mnist", options.rows)
        best: dict[str, list[float]] = {}
        for turn in range(options.turns):
            repo, plain = folder / f"out{turn}", folder / f"plain{turn}"
            plain.mkdir()
            runs = {
                "zoo build": _run("--way", "built", folder / "mnist", repo),
                "pq.write_table": _run("--way", "written", folder / "mnist", repo, plain),
            }
            for title, run in runs.items():
                best[title] = [min(pair) for pair in zip(best.get(title, run), run, strict=True)]
            subprocess.run(["rm", "-r", str(repo), str(plain)], check=True)
        print(f"{options.rows:,} rows of {WEIGHTS:,} weights, best of {options.turns}")
        for title, (seconds, cpu, peak) in best.items():
            rates = f"{options.rows / seconds:8,.0f} rows a second, {options.rows / cpu:8,.0f} a CPU second"
            print(f"{title:15} {seconds:7.2f} s, CPU {cpu:7.2f} s: {rates}; peak {peak:6.0f} MB")
        shares = [best["pq.write_table"][which] / best["zoo build"][which] for which in (0, 1)]
        print(
            f"zoo build goes at {shares[0]:.2f} of the rate of pq.write_table by the clock, {shares[1]:.2f} by CPU "
            f"seconds, on {cores()} cores"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
