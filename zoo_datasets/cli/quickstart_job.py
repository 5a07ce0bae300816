"""The main job from end to end on the embedded digits: train, make sparse, build, load, restore, recompute."""

from __future__ import annotations

import shutil
import statistics
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import torch
from rich.console import Console
from torch.nn import functional

from zoo_datasets.builders import build_repository
from zoo_datasets.cli.training_progress import TrainingProgress
from zoo_datasets.images.prepare import ImageData, load_images
from zoo_datasets.loading.modules import to_module
from zoo_datasets.runs.manifest import Growth
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.zoos import get_zoo, twin_of
from zoo_datasets.storage.folders import check_repository_folder
from zoo_datasets.terminal import say
from zoo_datasets.training.launch import Launch
from zoo_datasets.training.population.opening import open_run
from zoo_datasets.training.population.parents import open_parents
from zoo_datasets.training.population.twins import twins_of_parents
from zoo_datasets.training.train import train_population, train_zoo

ZOO = "digits_cnn_s"
MODELS = 32
EPOCHS = 10
BATCH = 64
AMOUNT = 0.5
TWIN_EPOCHS = 3


def _size(run: Path, epochs: int) -> Growth:
    """What to train: the quickstart's size, or what the run has grown to since."""
    on_disk = Run.open(run).manifest.growth[-1] if Run.exists(run) else Growth(models=0, epochs=0)
    return Growth(models=max(MODELS, on_disk.models), epochs=max(epochs, on_disk.epochs))


def _twins(run: Path, runs: Path, data: ImageData, console: Console) -> Path:
    """Prune half of the weights of every model, train what is left for some epochs, and say what became of it."""
    parents = open_parents(run, epoch=EPOCHS)
    out = runs / twin_of(parents.zoo, "magnitude", amount=AMOUNT).name
    epochs = _size(out, TWIN_EPOCHS).epochs
    population = twins_of_parents(parents, "magnitude", amount=AMOUNT, epochs=epochs)
    say(console, f"the smallest {AMOUNT:.0%} of the weights are held at zero, the others trained {epochs} epochs")
    with TrainingProgress(console) as progress:
        twins = train_population(partial(open_run, population, out, data), data, Launch(observer=progress))
    metrics = pa.concat_tables([cohort.metrics() for cohort in twins.cohorts()])
    before = statistics.median(parents.figures[member.model_id]["test_acc"] for member in parents.members)
    pruned, tuned = (
        metrics.filter(pa.compute.equal(metrics["epoch"], epoch)).to_pydict() for epoch in (0, twins.epochs)
    )
    say(
        console,
        f"sparsity {statistics.median(tuned['sparsity']):.2f}; median test accuracy {before:.4f} dense, "
        f"{statistics.median(pruned['test_acc']):.4f} pruned, {statistics.median(tuned['test_acc']):.4f} fine-tuned",
    )
    return out


def quickstart(folder: Path, console: Console) -> float:
    """Train a small population, make a dataset of it, read it, and bring its best model back.

    Gives the difference between the recorded test accuracy of that model and the recomputed one.
    """
    zoo = get_zoo(ZOO)
    run, repo = folder / "runs" / ZOO, folder / "model-zoos"
    check_repository_folder(repo)

    console.rule("1. train a population")
    say(console, f"{MODELS} small networks on scikit-learn's handwritten digits, in one process, as stacks")
    data = load_images(zoo.images, zoo.architecture)
    with TrainingProgress(console) as progress:
        size = _size(run, EPOCHS)
        train_zoo(zoo, run, data, models=size.models, epochs=size.epochs, observer=progress)
    if progress.trained:
        say(console, f"trained {progress.trained} states; {progress.quartiles()} (quartiles)")
    else:
        say(console, "this run was complete already; nothing to train")

    console.rule("2. make sparse twins")
    twins = _twins(run, folder / "runs", data, console)

    console.rule("3. build the datasets")
    for source in (run, twins):
        result = build_repository(source, repo)
        splits = ", ".join(f"{split} {rows}" for split, rows in result.splits.items())
        say(console, f"{result.config}: {result.rows} rows in {repo}: {splits}")

    console.rule("4. load it with plain `datasets`")
    say(console, f'load_dataset("{repo}", "{ZOO}")')
    loaded = datasets.load_dataset(str(repo), ZOO)
    rows = loaded["train"].with_format("torch", columns=["weights", "test_acc"])
    batches, values = 0, 0
    for batch in rows.iter(batch_size=BATCH):
        batches += 1
        values += batch["weights"].numel()
    say(
        console,
        f"read {batches} batches of weights, float32 [{BATCH}, {batch['weights'].shape[1]}]: {values:,} numbers",
    )

    console.rule("5. a row is a model")
    row = max((row for split in loaded.values() for row in split), key=lambda row: (row["val_acc"], -row["val_loss"]))
    module = to_module(row)
    with torch.no_grad():
        logits = module(data.normalise(data.test.images))
    accuracy = (logits.argmax(dim=1) == data.test.labels).double().mean().item()
    loss = functional.cross_entropy(logits, data.test.labels).item()
    say(console, f"best model by validation: {row['model_id']} at epoch {row['epoch']}, seed {row['seed']}")
    say(console, f"recorded test accuracy {row['test_acc']:.4f}, recomputed {accuracy:.4f}")
    say(console, f"recorded test loss     {row['test_loss']:.4f}, recomputed {loss:.4f}")

    console.rule("what next")
    hints = {
        "zoo list": "all zoos and their twins",
        f"zoo verify {repo} {ZOO}": "recompute what the dataset claims",
        f"zoo train {ZOO} --models 100 --epochs {EPOCHS} --out {run}": "let this very run grow; then build again",
        "zoo train mnist_cnn_s --models 16 --epochs 3": "the paper's MNIST zoo, images from the Hub or --images PATH",
    }
    if not shutil.which("zoo"):
        hints = {"source .venv/bin/activate": "makes the `zoo` command available"} | hints
    for command, purpose in hints.items():
        say(console, command)
        say(console, f"    {purpose}")
    difference: float = abs(accuracy - row["test_acc"])
    return difference
