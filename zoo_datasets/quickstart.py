"""The main job from end to end on the embedded digits: train, build, load, restore, recompute."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import torch
from rich.console import Console
from torch.nn import functional

from zoo_datasets.builders import build_repository
from zoo_datasets.images import load_images
from zoo_datasets.loading import to_module
from zoo_datasets.runs import Growth, Run
from zoo_datasets.training.progress import TrainingProgress
from zoo_datasets.training.trainer import train_zoo
from zoo_datasets.zoos import get_zoo

ZOO = "digits_cnn_s"
MODELS = 32
EPOCHS = 10
BATCH = 64


def _size(run: Path) -> Growth:
    """What to train: the quickstart's size, or what the run has grown to since."""
    there = Run.open(run).manifest.growth[-1] if Run.exists(run) else Growth(models=0, epochs=0)
    return Growth(models=max(MODELS, there.models), epochs=max(EPOCHS, there.epochs))


def quickstart(folder: Path, console: Console) -> float:
    """Train a small population, make a dataset of it, read it, and bring its best model back.

    Gives the difference between the recorded test accuracy of that model and the recomputed one.
    """
    zoo = get_zoo(ZOO)
    run, repo = folder / "runs" / ZOO, folder / "model-zoos"

    console.rule("1. train a population")
    console.print(f"{MODELS} small networks on scikit-learn's handwritten digits, in one process, as stacks")
    data = load_images(zoo.images, zoo.architecture)
    with TrainingProgress(console) as progress:
        size = _size(run)
        train_zoo(zoo, run, data, models=size.models, epochs=size.epochs, observer=progress)
    if progress.trained:
        console.print(f"trained {progress.trained} states; {progress.quartiles()} (quartiles)")
    else:
        console.print("this run was complete already; nothing to train")

    console.rule("2. build the dataset")
    result = build_repository(run, repo)
    console.print(f"{result.rows} rows in {repo}: {', '.join(f'{s} {n}' for s, n in result.splits.items())}")

    console.rule("3. load it with plain `datasets`")
    console.print(f'load_dataset("{repo}", "{ZOO}")', highlight=False)
    loaded = datasets.load_dataset(str(repo), ZOO)
    rows = loaded["train"].with_format("torch", columns=["weights", "test_acc"])
    batches, values = 0, 0
    for batch in rows.iter(batch_size=BATCH):
        batches += 1
        values += batch["weights"].numel()
    console.print(
        f"read {batches} batches of weights, float32 [{BATCH}, {batch['weights'].shape[1]}]: {values:,} numbers"
    )

    console.rule("4. a row is a model")
    row = max((row for split in loaded.values() for row in split), key=lambda row: row["test_acc"])
    module = to_module(row)
    with torch.no_grad():
        logits = module(data.normalise(data.test.images))
    accuracy = (logits.argmax(dim=1) == data.test.labels).double().mean().item()
    loss = functional.cross_entropy(logits, data.test.labels).item()
    console.print(f"best model: {row['model_id']} at epoch {row['epoch']}, seed {row['seed']}")
    console.print(f"recorded test accuracy {row['test_acc']:.4f}, recomputed {accuracy:.4f}")
    console.print(f"recorded test loss     {row['test_loss']:.4f}, recomputed {loss:.4f}")

    console.rule("what next")
    activate = "" if shutil.which("zoo") else "source .venv/bin/activate\n    makes the `zoo` command available\n"
    console.print(
        f"{activate}"
        "zoo list\n    all zoos and their twins\n"
        f"zoo verify {repo} {ZOO}\n    recompute what the dataset claims\n"
        f"zoo train {ZOO} --models 100 --epochs {EPOCHS} --out {run}\n    let this very run grow; then build again\n"
        "zoo train mnist_cnn_s --models 16 --epochs 3\n    the paper's MNIST zoo, images from the Hub or --images PATH",
        highlight=False,
        soft_wrap=True,
    )
    difference: float = abs(accuracy - row["test_acc"])
    return difference
