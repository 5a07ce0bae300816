"""The `zoo train` command; `python -m zoo_datasets.training` is the same under accelerate or torchrun."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N images of this split.")]


def train(
    zoo: Annotated[str, typer.Argument(help="A zoo of `zoo list`, or a .yaml file with the fields of one.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="runs/<zoo>")] = None,
    models: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The first N members; a larger N later adds members.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="The last epoch.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="A local folder with the images instead of the Hub.", show_default="the Hub")
    ] = None,
    limit_train: Limit = None,
    limit_val: Limit = None,
    limit_test: Limit = None,
    path: Annotated[str, typer.Option(help="The engine path: auto, or the name of one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use.", show_default="all")] = None,
) -> None:
    """Train a zoo, many models at a time, into a run; the same command goes on where it was stopped."""
    from accelerate import PartialState
    from rich.console import Console

    from zoo_datasets.images import load_images
    from zoo_datasets.specs import Limits
    from zoo_datasets.training.progress import TrainingProgress
    from zoo_datasets.training.trainer import Share, train_zoo
    from zoo_datasets.zoos import get_zoo, read_zoo

    spec = read_zoo(Path(zoo)) if zoo.endswith((".yaml", ".yml")) else get_zoo(zoo)
    folder = out or Path("runs") / spec.name
    state = PartialState()
    console = Console(stderr=True, quiet=not state.is_main_process)
    # The first process prepares the images, the others find them.
    with state.main_process_first(), console.status(f"images: {images or spec.images}"):
        data = load_images(spec.images, spec.architecture, images)
    begun = time.monotonic()
    try:
        with TrainingProgress(console) as progress:
            run = train_zoo(
                spec,
                folder,
                data,
                models=models,
                epochs=epochs,
                limits=Limits(train=limit_train, val=limit_val, test=limit_test),
                path=path,
                device=str(state.device) if state.device.type == "cuda" else "cpu",
                threads=threads,
                share=Share(index=state.process_index, count=state.num_processes),
                observer=progress,
                barrier=state.wait_for_everyone if state.num_processes > 1 else None,
            )
    except KeyboardInterrupt:
        console.print(f"stopped; every finished epoch is in {folder}. The same command goes on from there.")
        raise typer.Exit(130) from None
    seconds = time.monotonic() - begun
    diverged = f", {progress.diverged} diverged" if progress.diverged else ""
    console.print(
        f"trained {progress.trained:,} states in {seconds:,.1f} s: {run.models:,} models to epoch {run.epochs}, "
        f"{progress.quartiles() or 'nothing was left to do'}{diverged}. Next: zoo build {folder} --out model-zoos",
        highlight=False,
    )
