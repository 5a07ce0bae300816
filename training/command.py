"""The `zoo train` command; `python -m zoo_datasets.training` is the same under accelerate or torchrun."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_datasets.command_line import stoppable

if TYPE_CHECKING:
    from zoo_datasets.specs import ZooSpec

Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N images of this split.")]


@stoppable("every finished epoch is on disk; the same command goes on from there")
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
    engine: Annotated[str, typer.Option(help="Where to train: local, or ray (RAY_ADDRESS, else here).")] = "local",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use, on ray in each task.", show_default="all")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing, write nothing.")] = False,
) -> None:
    """Train a zoo, many models at a time, into a run; the same command goes on where it was stopped."""
    from rich.console import Console

    from zoo_datasets.images import load_images
    from zoo_datasets.specs import Limits
    from zoo_datasets.training.engines import get_engine
    from zoo_datasets.training.opening import check_run
    from zoo_datasets.training.plan import make_plan, print_plan
    from zoo_datasets.training.processes import Processes
    from zoo_datasets.training.progress import TrainingProgress
    from zoo_datasets.training.trainer import train_zoo

    spec = _spec(zoo)
    get_engine(engine)
    folder = out or Path("runs") / spec.name
    limits = Limits(train=limit_train, val=limit_val, test=limit_test)
    processes = Processes()
    console = Console(stderr=True, quiet=processes.share.index > 0)
    loaded = []
    # The first process prepares the images, the others find them.
    with console.status(f"images: {images or spec.images}"):
        processes.first(lambda: loaded.append(load_images(spec.images, spec.architecture, images)))
        data = loaded[0] if loaded else load_images(spec.images, spec.architecture, images)
    if dry_run:
        if processes.share.index == 0:
            opening = check_run(
                spec, folder, data, models=models, epochs=epochs, limits=limits, path=path, device=processes.device
            )
            print_plan(make_plan(opening, data.limited(limits), threads))
        return
    begun = time.monotonic()
    with _sigterm_as_ctrl_c(), TrainingProgress(console) as progress:
        run = train_zoo(
            spec,
            folder,
            data,
            models=models,
            epochs=epochs,
            limits=limits,
            path=path,
            device=processes.device,
            threads=threads or (processes.threads if engine == "local" else None),
            engine=engine,
            share=processes.share,
            observer=progress,
            first=processes.first,
        )
    seconds = time.monotonic() - begun
    diverged = f", {progress.diverged} diverged" if progress.diverged else ""
    done = f"trained {progress.trained:,} states in {seconds:,.1f} s" if progress.trained else "nothing was left to do"
    console.print(
        f"{done}: {run.models:,} models to epoch {run.epochs}, "
        f"{progress.quartiles()}{diverged}. Next: zoo build {folder} --out model-zoos",
        highlight=False,
        soft_wrap=True,
    )


def _spec(zoo: str) -> ZooSpec:
    from zoo_datasets.zoos import get_zoo, read_zoo

    return read_zoo(Path(zoo)) if zoo.endswith((".yaml", ".yml")) else get_zoo(zoo)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Launchers and batch systems stop a process by SIGTERM: as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
