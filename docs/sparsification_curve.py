"""Sparsity and accuracy over the epochs of variational dropout, beside the paper's figure: a table and a plot.

    python docs/sparsification_curve.py runs/mnist_cnn_s runs/mnist_cnn_s_sparse --out docs

Reads two runs, the dense models and their twins, and writes `sparsification_curve.svg` and `sparsification_curve.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from zoo_datasets.runs import Run

# Read off the figure of Schürholt et al. (2022) on the sparsified MNIST zoo: medians, by sparsification epoch.
PAPER_SPARSITY = {0: 0.00, 1: 0.00, 2: 0.26, 3: 0.43, 4: 0.51, 10: 0.67, 25: 0.785}
PAPER_ACCURACY = {0: 0.911, 25: 0.875}
ROWS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 25)


def quartiles(run: Run, column: str, models: set[str]) -> dict[int, np.ndarray[Any, Any]]:
    """First quartile, median and third of a column over the models, by epoch."""
    tables = [cohort.metrics() for cohort in run.cohorts()]
    rows = pa.concat_tables(tables).to_pylist()
    values: dict[int, list[float]] = {}
    for row in rows:
        if row["model_id"] in models:
            values.setdefault(row["epoch"], []).append(row[column])
    return {epoch: np.percentile(group, (25, 50, 75)) for epoch, group in sorted(values.items())}


def plot(dense: dict[int, Any], accuracy: dict[int, Any], sparsity: dict[int, Any], models: int) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, curve, paper, title in (
        (panels[0], sparsity, PAPER_SPARSITY, "sparsity"),
        (panels[1], accuracy, PAPER_ACCURACY, "test accuracy"),
    ):
        epochs, low, middle, high = list(curve), *np.array(list(curve.values())).T
        axes.fill_between(epochs, low, high, alpha=0.25, linewidth=0, color="tab:blue", label="quartiles")
        axes.plot(epochs, middle, color="tab:blue", label=f"median of {models} models")
        axes.plot(list(paper), list(paper.values()), "o", color="tab:orange", label="the paper's figure")
        axes.set(xlabel="sparsification epoch", title=title)
        axes.grid(alpha=0.3)
    panels[1].axhline(dense[max(dense)][1], color="gray", linewidth=1, linestyle="--", label="dense, median")
    for axes in panels:
        axes.legend(frameon=False, fontsize="small")
    return figure


def table(dense: dict[int, Any], accuracy: dict[int, Any], sparsity: dict[int, Any]) -> str:
    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    lines = [
        "| sparsification epoch | sparsity (quartiles) | the paper's | test accuracy (quartiles) | the paper's |",
        "|---:|---:|---:|---:|---:|",
    ]
    for epoch in ROWS:
        if epoch in accuracy:
            (s1, s2, s3), (a1, a2, a3) = sparsity[epoch], accuracy[epoch]
            cells = (f"{s2:.3f} ({s1:.3f}–{s3:.3f})", cell(PAPER_SPARSITY.get(epoch)))
            cells += (f"{a2:.4f} ({a1:.4f}–{a3:.4f})", cell(PAPER_ACCURACY.get(epoch)))
            lines.append(f"| {epoch} | {' | '.join(cells)} |")
    low, middle, high = dense[max(dense)]
    return (
        f"Dense, epoch {max(dense)}: median test accuracy {middle:.4f} (quartiles {low:.4f}–{high:.4f}); the paper's "
        f"figure begins at {PAPER_ACCURACY[0]:.3f}.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("twins", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    dense, twins = Run.open(arguments.dense), Run.open(arguments.twins)
    parents = {member.parent_id for member in twins.members}
    ids = {member.model_id for member in twins.members}
    before = quartiles(dense, "test_acc", {parent for parent in parents if parent is not None})
    accuracy, sparsity = quartiles(twins, "test_acc", ids), quartiles(twins, "sparsity", ids)
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot(before, accuracy, sparsity, len(ids)).savefig(arguments.out / "sparsification_curve.svg")
    (arguments.out / "sparsification_curve.md").write_text(table(before, accuracy, sparsity))


if __name__ == "__main__":
    main()
