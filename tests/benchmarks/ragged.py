"""How fast batches of networks of 20 shapes come as tokens, beside those of one shape: `make bench`.

    python tests/benchmarks/ragged.py [--rounds 7] [--json build/bench/ragged.json]

The sides take turns: tokens of networks of one shape, cut by `to_tokens` as one matrix; and as many bytes of weights of
networks of 20 shapes, cut row by row. Both sum what they get. Medians of the rounds, bytes of weights a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import datasets
import torch
from engine import machine
from rich.console import Console

import zoo_datasets as zd
from zoo_datasets.networks.layout import WeightLayout

ROWS, SHAPES, SIZE, BATCH = 20_000, 20, 32, 256
AT_LEAST = 0.5


def layout_of(width: int) -> WeightLayout:
    """A network 16-width-width-10."""
    shapes = {"fc1": (width, 16), "fc2": (width, width), "fc3": (10, width)}
    tensors = [(f"{name}.{part}", shape if part == "weight" else shape[:1], "parameter")
               for name, shape in shapes.items() for part in ("weight", "bias")]  # fmt: skip
    return WeightLayout.of(tensors)  # type: ignore[arg-type]


def write(repo: Path, name: str, widths: list[int]) -> None:
    """ROWS rows of random weights, as many of each width."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, width in enumerate(widths):
        layout = layout_of(width)
        weights = torch.randn(ROWS // len(widths), layout.size, generator=generator)
        rows += [
            (layout.unflatten(row), {"model_id": f"m{number:02}-{index}", "group": "all in one split"})
            for index, row in enumerate(weights)
        ]
    zd.write_rows(repo, name, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/bench/ragged.json"))
    parser.add_argument("--strict", action="store_true", help="exit 1 if the target is missed")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    datasets.disable_progress_bars()
    times: dict[str, list[float]] = {"one shape": [], f"{SHAPES} shapes": []}
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as folder:
        write(Path(folder), "one", [40])
        write(Path(folder), "many", list(range(30, 30 + SHAPES)))
        zoos = {}
        for name, config in zip(times, ("one", "many"), strict=True):
            zoos[name] = next(iter(zd.load_zoo(folder, config).values()))  # type: ignore[union-attr]
        sizes = {
            name: 4 * sum(len(row) for batch in zd.batches(zoo, ragged="list") for row in batch["weights"])
            for name, zoo in zoos.items()
        }
        for turn in range(arguments.rounds + 1):  # the first warms up
            for name, zoo in zoos.items():
                begun = time.perf_counter()
                for batch in zd.batches(
                    zoo, BATCH, ["weights", "layout"], shuffle=True, ragged="tokens", token_size=SIZE
                ):
                    batch["tokens"].sum()
                if turn:
                    times[name].append(time.perf_counter() - begun)
    rates = {name: sizes[name] / statistics.median(taken) / 1e9 for name, taken in times.items()}
    ratio = rates[f"{SHAPES} shapes"] / rates["one shape"]
    console.print(machine())
    console.print(", ".join(f"{name}: {rate:.2f} GB/s" for name, rate in rates.items()))
    console.print(f"ratio {ratio:.2f} (target: at least {AT_LEAST})")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine(), "rates": rates, "ratio": ratio}, indent=2) + "\n")
    return int(arguments.strict and ratio < AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
