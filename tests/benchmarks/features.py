"""s(W) of 50,000 rows of `cnn_s`, beside numpy's percentile; and with --zoo the whole benchmark of a zoo's size.

    python tests/benchmarks/features.py [--rows 50000] [--zoo]

The rows lie in a mapped Arrow file, as those of a loaded zoo do. numpy's way is timed on every tenth row. `--zoo`
makes 1,000 models × 51 epochs whose weights depend on their hyperparameters, epoch and accuracy, benchmarks weights
and statistics with the defaults, and prints time and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.evaluation.features import FEATURES
from zoo_datasets.evaluation.features.statistics import PERCENTILES
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.repository.row import NAMES, arrow_schema, split_of

LAYOUT = layout_of("cnn_s", 1, 10)
CHOICES = {
    "activation": ["tanh", "relu", "gelu", "sigmoid"],
    "init": ["uniform", "normal", "kaiming_uniform", "kaiming_normal"],
    "optimizer": ["adam", "sgd"],
    "dropout": [0.0, 0.5],
    "lr": [1e-3, 1e-4],
    "weight_decay": [1e-3, 1e-4],
}


def plain(weights: np.ndarray) -> np.ndarray:
    """What anybody would write first."""
    parts = []
    for where in LAYOUT.slices().values():
        part = weights[:, where]
        parts += [part.mean(1), part.var(1), *np.percentile(part, PERCENTILES, axis=1)]
    return np.stack(parts, axis=1)


def make_zoo(folder: Path, models: int, epochs: int) -> None:
    """A repository's shards and a card that lists them, of made-up weights."""
    draw = np.random.default_rng(0)
    schema = arrow_schema(LAYOUT)
    directions = draw.standard_normal((3 + sum(map(len, CHOICES.values())), LAYOUT.size)).astype(np.float32)
    tables: dict[str, list[pa.Table]] = {}
    for model in range(models):
        model_id = f"{model:016x}"
        picked = {name: int(draw.integers(len(values))) for name, values in CHOICES.items()}
        hot = np.concatenate([np.eye(len(CHOICES[name]))[index] for name, index in picked.items()])
        at = np.arange(epochs)
        accuracy = 0.1 + 0.8 * (1 - np.exp(-at / draw.uniform(5, 20)))
        gap = draw.normal(0.02, 0.01) * at / epochs
        signal = np.concatenate(
            [np.stack([accuracy, at / epochs, 20 * gap], axis=1), np.repeat(hot[None], epochs, axis=0)], axis=1
        )
        weights = 0.02 * signal.astype(np.float32) @ directions
        weights += 0.1 * draw.standard_normal(LAYOUT.size, np.float32)
        weights += 0.01 * draw.standard_normal(weights.shape, np.float32)
        constant = {"zoo": "made_up", "model_id": model_id, "seed": model, "images": "mnist", "architecture": "cnn_s"}
        constant |= {"in_channels": 1, "classes": 10, "batch_size": 10, "momentum": None}
        constant |= {name: CHOICES[name][index] for name, index in picked.items()}
        columns = {name: [constant.get(name)] * epochs for name in NAMES[:-1]}
        columns |= {"epoch": at.tolist(), "test_acc": accuracy, "ggap": gap, "train_acc": accuracy + gap}
        arrays = [pa.array(columns[name], schema.field(name).type) for name in NAMES[:-1]]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(weights.reshape(-1)), type=schema.field(-1).type))
        tables.setdefault(split_of(model_id), []).append(pa.Table.from_arrays(arrays, schema=schema))
    lines = ["---", "configs:", "- config_name: made_up", "  data_files:"]
    for split, parts in tables.items():
        pq.write_table(pa.concat_tables(parts), folder / f"{split}.parquet", compression="none", use_dictionary=False)
        lines += [f"  - split: {split}", f"    path: {split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def measure_statistics(rows: int) -> None:
    """s(W) in both ways, side by side."""
    from datasets import Dataset

    from zoo_datasets.evaluation.benchmark.samples import SampleRows, features_of

    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        schema = pa.schema([LAYOUT_FIELD])
        file = Path(folder) / "rows.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for start in range(0, rows, 1000):
                block = draw.standard_normal((min(1000, rows - start), LAYOUT.size), np.float32)
                column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=LAYOUT_FIELD.type)
                writer.write_batch(pa.record_batch([column], schema=schema))
        data = Dataset.from_file(str(file))
        zoo = SampleRows("made_up", "train", data, np.arange(rows))
        zoo.reader._layout = LAYOUT
        transform = FEATURES["statistics"].fit(lambda: zoo.sample(1), LAYOUT)
        few = zoo.sample(rows // 10)
        times: dict[str, list[float]] = {"ours": [], "numpy": []}
        for _ in range(3):
            begun = time.perf_counter()
            made = features_of(zoo, transform)
            times["ours"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            expected = plain(few)
            times["numpy"].append((time.perf_counter() - begun) * 10)
        chosen = np.sort(np.random.default_rng(0).permutation(rows)[: rows // 10])
        difference = float(np.abs(made[chosen] - expected).max())
    ours, other = min(times["ours"]), min(times["numpy"])
    print(f"s(W) of {rows:,} rows: {ours:.2f} s, numpy one thread {other:.1f} s: {other / ours:.1f} times")
    print(f"largest difference {difference:.1e}")


LAYOUT_FIELD = arrow_schema(LAYOUT).field("weights")


def measure_benchmark(models: int, epochs: int) -> None:
    """The whole benchmark of a made-up zoo."""
    import datasets

    from zoo_datasets.evaluation.benchmark.record import run_benchmark
    from zoo_datasets.evaluation.benchmark.run import Settings

    with tempfile.TemporaryDirectory() as folder:
        make_zoo(Path(folder), models, epochs)
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        datasets.disable_progress_bars()
        begun = last = time.perf_counter()

        def told(done: int, total: int) -> None:
            nonlocal last
            now = time.perf_counter()
            print(f"  {done}/{total} {now - last:.1f} s", flush=True)
            last = now

        record = run_benchmark(folder, Settings(train="made_up", tests=("made_up",)), progress=told)
        seconds = time.perf_counter() - begun
    for result in record.results:
        found = ", ".join(f"{name} {score}" for name, score in result.scores.items())
        print(f"  {result.feature} {result.probe} {result.target}: {found} {dict(result.chosen)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"benchmark of {models:,} models × {epochs} epochs: {seconds:.0f} s, peak {peak:.1f} GiB with mapped files")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--zoo", action="store_true", help="measure the whole benchmark too: some minutes")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=51)
    options = parser.parse_args()
    measure_statistics(options.rows)
    if options.zoo:
        measure_benchmark(options.models, options.epochs)


if __name__ == "__main__":
    main()
