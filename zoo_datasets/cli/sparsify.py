"""The `zoo sparsify` command."""

from __future__ import annotations

import enum
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_datasets.cli.shell import AllowCode, allow, stoppable
from zoo_datasets.cli.train import TrainingCommand
from zoo_datasets.specs.zoos import TWIN_EPOCHS

if TYPE_CHECKING:
    from zoo_datasets.runs.run import Run
    from zoo_datasets.training.population.parents import Parents


class ScopeOption(enum.StrEnum):
    """What the amount of pruning is a share of."""

    whole = "global"
    layer = "layer"


@stoppable("every finished epoch is on disk; the same command goes on from there")
def sparsify(
    source: Annotated[Path, typer.Argument(help="A run of dense models, or a dataset repository.")],
    name: Annotated[str | None, typer.Option(help="The config of the repository.", show_default="its only one")] = None,
    method: Annotated[str, typer.Option(help=f"{' or '.join(TWIN_EPOCHS)}.")] = "variational_dropout",
    amount: Annotated[float | None, typer.Option(help="magnitude: the share of weights to prune, as 0.5.")] = None,
    scope: Annotated[
        ScopeOption | None, typer.Option(help="magnitude: a share of all weights, or of each layer's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="The last epoch.")] = None,
    out: Annotated[Path | None, typer.Option(help="The twins' run.", show_default="runs/<zoo>_sparse …")] = None,
    images: Annotated[
        Path | None, typer.Option(help="A local folder with the images instead of the Hub.", show_default="the Hub")
    ] = None,
    from_epoch: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The parents' epoch.", show_default="their last")
    ] = None,
    models: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N parents.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="""Only parents as 'test_acc > 0.9 and lr < 0.01'.""")
    ] = None,
    path: Annotated[str, typer.Option(help="The engine path: auto, native (or native-avx2, …) or torch.")] = "auto",
    engine: Annotated[str, typer.Option(help="Where to train: local, or ray (RAY_ADDRESS, else here).")] = "local",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use, on ray in each task.", show_default="all")
    ] = None,
    allow_code: AllowCode = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing, write nothing.")] = False,
) -> None:
    """Make the sparsified twin of every model of a zoo, many at a time; the same command goes on where it stopped."""
    from zoo_datasets.repository.where import parse_where
    from zoo_datasets.runs.cohort import UNCHECKED
    from zoo_datasets.text import counted
    from zoo_datasets.training.engines.table import get_engine
    from zoo_datasets.training.population.opening import open_run
    from zoo_datasets.training.population.parents import open_parents
    from zoo_datasets.training.population.twins import twins_of_parents

    allow(allow_code)
    get_engine(engine)
    condition = None if where is None else parse_where(where)
    parents = open_parents(source, name, epoch=from_epoch, models=models, where=condition)
    population = twins_of_parents(
        parents, method, epochs=epochs, amount=amount, scope=None if scope is None else scope.value
    )
    folder = out or Path("runs") / population.zoo.name
    command = TrainingCommand(path, engine, threads)
    data = command.images(parents.zoo, images, parents.fingerprint, source)

    for reason, count in Counter(parents.left_out.values()).items():
        command.say(f"warning: no twins of {counted(count, 'model')} of {parents.zoo.name}: {reason}")
    if not parents.checked:
        command.say(f"note: {source}: {UNCHECKED}")
    run = command.carry_out(partial(open_run, population, folder, data), data.limited(parents.limits), dry_run)
    if run is not None and command.leads:
        _tell(command, run, parents)


def _tell(command: TrainingCommand, run: Run, parents: Parents) -> None:
    """What became of sparsity and accuracy, and whether epoch 0 is what the parents were."""
    import pyarrow as pa

    from zoo_datasets.training.population.twins import difference_from_parents
    from zoo_datasets.training.sparsifiers import SPARSIFIERS

    metrics = pa.concat_tables([cohort.metrics() for cohort in run.cohorts()])
    first, last = (metrics.filter(pa.compute.equal(metrics["epoch"], epoch)) for epoch in (0, run.epochs))
    command.say(
        f"sparsity {_median(first['sparsity']):.3f} → {_median(last['sparsity']):.3f}, "
        f"test accuracy {_median(first['test_acc']):.4f} → {_median(last['test_acc']):.4f} (medians)"
    )
    zoo = run.manifest.zoo
    if zoo.sparsifier is not None and SPARSIFIERS[zoo.sparsifier].variational:
        difference = difference_from_parents(run, parents)
        command.say(
            f"{'epoch 0' if difference.small else 'warning: epoch 0'} differs from the parents by at most "
            f"{difference.loss:.2g} in loss and {difference.accuracy:.2g} in relative accuracy"
        )


def _median(column: object) -> float:
    import numpy as np

    return float(np.nanmedian(np.asarray(column, dtype=float)))
