"""The files of `zoo benchmark --out` as the Markdown tables of docs/benchmarks.md.

python tests/benchmarks/tables.py mnist_cnn_s.json …
"""

from __future__ import annotations

import sys
from pathlib import Path

from zoo_datasets.evaluation.benchmark.record import Record, read_record

SCORES = (("r2", "R²"), ("kendall", "Kendall's τ"), ("accuracy", "accuracy"))


def tables(record: Record) -> str:
    """A table for each score: targets down, features and probes across."""
    columns = list(dict.fromkeys((r.feature, r.probe == "boosting") for r in record.results))
    text = ""
    for score, title in SCORES:
        found = {(r.target, r.feature, r.probe == "boosting"): r for r in record.results if score in r.scores}
        if not found:
            continue
        shown = [column for column in columns if any(key[1:] == column for key in found)]
        heads = [f"{feature}, {'boosting' if boosted else 'linear'}" for feature, boosted in shown]
        text += f"\n| {title} | baseline | {' | '.join(heads)} |\n|---|---|{'---|' * len(shown)}\n"
        for target in dict.fromkeys(key[0] for key in found):
            cells = [found.get((target, *column)) for column in shown]
            first = next(cell for cell in cells if cell)
            name = f"log10 {target}" if first.scale == "log10" else target
            baseline = 0.0 if score == "kendall" else first.baseline
            told = [str(cell.scores[score]) if cell else "" for cell in cells]
            text += f"| {name} | {baseline:.3f} | {' | '.join(told)} |\n"
    return text


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(f"\n{path}\n{tables(read_record(Path(path)))}")
