"""The files of `zoo benchmark --out`, of probes or of models, as the Markdown tables of docs/benchmarks.md.

python tests/benchmarks/tables.py mnist_cnn_s.json …
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def model_tables(record: Mapping[str, Any]) -> str:
    """A table of models, the scores of each target across; and one of the best of each target less the others."""
    results = record["results"]
    targets = list(dict.fromkeys(result["target"] for result in results))
    shown = [(target, score) for target in targets for score in _scores_of(results, target)]
    heads = [f"{target}, {dict(SCORES)[score]}" for target, score in shown]
    text = f"\n| model | {' | '.join(heads)} | parameters | steps | seconds | MB |\n|---|{'---|' * (len(shown) + 4)}\n"
    cells = {(result["model"], result["target"]): result for result in results}
    for model in dict.fromkeys(result["model"] for result in results):
        mine = [cells[model, target] for target in targets if (model, target) in cells]
        told = [
            _score(cells[model, target]["scores"][score]) if (model, target) in cells else "" for target, score in shown
        ]
        sums = [
            f"{sum(result[name] for result in mine) / len(mine):,.0f}" for name in ("parameters", "steps", "seconds")
        ]
        memory = max(result["memory"] for result in mine) / 1e6
        text += f"| {model} | {' | '.join([*told, *sums])} | {memory:,.0f} |\n"
    bases = [f"{result['baseline']:.3f}" if score != "kendall" else "0" for result, score in _first(results, shown)]
    text += f"| (mean or most frequent class) | {' | '.join(bases)} | | | | |\n"
    ceilings = {result["target"]: result["ceiling"] for result in results if result["ceiling"] is not None}
    text += "".join(
        f"\nτ of {target} without ties in predictions is at most {at:.3f}." for target, at in ceilings.items()
    )
    text += "\n\n| target | best | less | difference |\n|---|---|---|---|\n"
    for one in record["comparisons"]:
        label = f"{one['target']}, {dict(SCORES)[one['metric']]}"
        text += f"| {label} | {one['best']} | {one['other']} | {_score(one['difference'])} |\n"
    return text


def _scores_of(results: list[dict[str, Any]], target: str) -> list[str]:
    first = next(result for result in results if result["target"] == target)
    return [name for name, _ in SCORES if name in first["scores"]]


def _first(results: list[dict[str, Any]], shown: list[tuple[str, str]]) -> list[tuple[dict[str, Any], str]]:
    return [(next(result for result in results if result["target"] == target), score) for target, score in shown]


def _score(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        value = json.loads(path.read_text())
        text = model_tables(value) if value.get("kind") == "models" else tables(read_record(path))
        print(f"\n{path}\n{text}")
