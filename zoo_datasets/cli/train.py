"""The `zoo train` command; `python -m zoo_datasets.training` is the same under accelerate or torchrun."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_datasets.cli.shell import AllowCode, allow, stoppable, zoos_and_files
from zoo_datasets.errors import RunError

if TYPE_CHECKING:
    from zoo_datasets.images.prepare import ImageData
    from zoo_datasets.runs.run import Run
    from zoo_datasets.specs.spec import ZooSpec
    from zoo_datasets.training.launch import Launch
    from zoo_datasets.training.population.opening import Opening

Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N images of this split.")]


@stoppable("every finished epoch is on disk; the same command goes on from there")
def train(
    zoo: Annotated[
        str,
        typer.Argument(
            help="A zoo of `zoo list`, or a .yaml file with the fields of one.", autocompletion=zoos_and_files
        ),
    ],
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
    path: Annotated[str, typer.Option(help="The engine path: auto, native (or native-avx2, …) or torch.")] = "auto",
    engine: Annotated[str, typer.Option(help="Where to train: local, or ray (RAY_ADDRESS, else here).")] = "local",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use, on ray in each task.", show_default="all")
    ] = None,
    allow_code: AllowCode = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing, write nothing.")] = False,
) -> None:
    """Train a zoo, many models at a time, into a run; the same command goes on where it was stopped."""
    from zoo_datasets.specs.members import Limits
    from zoo_datasets.training.engines.table import get_engine
    from zoo_datasets.training.population.opening import check_run

    allow(allow_code)
    defaults: list[str] = []
    spec, own_images = _spec(zoo, defaults.append)
    get_engine(engine)
    folder = out or Path("runs") / spec.name
    limits = Limits(train=limit_train, val=limit_val, test=limit_test)
    command = TrainingCommand(path, engine, threads)
    for text in defaults:
        command.say(text)
    fingerprint = _recorded_fingerprint(folder) if images is None else None
    data = command.images(spec, images or own_images, fingerprint, folder)
    check = partial(check_run, spec, folder, data, models=models, epochs=epochs, limits=limits)
    command.carry_out(check, data.limited(limits), dry_run)


class TrainingCommand:
    """What the commands that train share: the processes, the images, the training itself and what is said of it."""

    def __init__(self, path: str, engine: str, threads: int | None) -> None:
        from zoo_datasets.terminal import Terminal
        from zoo_datasets.training.engines.processes import Processes
        from zoo_datasets.training.engines.table import get_engine
        from zoo_datasets.training.launch import Launch

        self._processes = Processes()
        self._threads = threads
        self._launch = Launch(
            path=path,
            device=self._processes.device,
            threads=threads or (None if get_engine(engine).elsewhere else self._processes.threads),
            engine=engine,
            share=self._processes.share,
            first=self._processes.first,
        )
        self.console = Terminal(stderr=True, quiet=not self.leads)
        if not self.leads:
            warnings.simplefilter("ignore")  # the first process says it

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self._launch.share.index == 0

    def images(self, zoo: ZooSpec, folder: Path | None, fingerprint: str | None, owner: Path) -> ImageData:
        """As `recorded_images`; the first process prepares them, the others read what it prepared."""
        from zoo_datasets.cli.images import recorded_images
        from zoo_datasets.terminal import working

        load = partial(recorded_images, zoo, zoo.architecture, folder, fingerprint, owner)

        loaded: list[ImageData] = []
        with working(self.console, f"images: {folder or zoo.images}"):
            self._processes.first(lambda: loaded.append(load()))
            return loaded[0] if loaded else load()

    def carry_out(self, check: Callable[[Launch], Opening], data: ImageData, dry_run: bool) -> Run | None:
        """Train what `check` opens, or print the plan of it; `data` are the images after limits."""
        from zoo_datasets.cli.training_progress import TrainingProgress
        from zoo_datasets.text import counted
        from zoo_datasets.training.estimate.estimate import estimate_training, print_estimate
        from zoo_datasets.training.train import train_population

        if dry_run:
            if self.leads:
                print_estimate(estimate_training(check(self._launch), data, self._threads))
            return None
        begun = time.monotonic()
        with _sigterm_as_ctrl_c(), TrainingProgress(self.console) as progress:
            run = train_population(check, data, dataclasses.replace(self._launch, observer=progress))
        seconds = time.monotonic() - begun
        diverged = f", {progress.diverged} diverged" if progress.diverged else ""
        trained = progress.trained
        done = f"trained {counted(trained, 'state')} in {seconds:,.1f} s" if trained else "nothing was left to do"
        again = f" (from epoch 0 again: {'; '.join(progress.setbacks)})" if progress.setbacks else ""
        self.say(
            f"{done}{again}: {counted(run.models, 'model')} to epoch {run.epochs}, "
            f"{progress.quartiles()}{diverged}. Next: zoo build {run.path} --out model-zoos"
        )
        return run

    def say(self, text: str) -> None:
        """Print a line, whatever the width of the terminal."""
        from zoo_datasets.terminal import say

        say(self.console, text)


def _spec(zoo: str, tell: Callable[[str], None]) -> tuple[ZooSpec, Path | None]:
    """The zoo, and the folder of images of one's own that its file names; `tell` is called with its defaults."""
    from zoo_datasets.specs.zoos import get_zoo, read_zoo_file

    if not zoo.endswith((".yaml", ".yml")):
        return get_zoo(zoo), None
    file = read_zoo_file(Path(zoo), tell)
    return file.zoo, file.images


def _recorded_fingerprint(folder: Path) -> str | None:
    """That of the images which the run in a folder was begun with; None if there is no run, or a broken one."""
    from zoo_datasets.runs.run import Run

    try:
        return Run.open(folder).manifest.images.fingerprint if Run.exists(folder) else None
    except RunError:
        return None  # opening it for training says what is wrong


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Launchers and batch systems stop a process by SIGTERM: as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
