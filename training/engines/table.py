"""The engines: where the cohorts of a run are trained. Whatever the engine, the run folder is the only state."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from zoo_datasets.errors import RunError, UnknownNameError
from zoo_datasets.training.engines.work import Train, Work
from zoo_datasets.training.launch import EpochReport

_INSTALL = "pip install 'zoo-datasets"


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine.

    Attributes:
        elsewhere: whether other processes than this one do the training.
        extra: the extra of this package that it needs, named as the module in it.
    """

    train: Train
    elsewhere: bool = False
    extra: str | None = None


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: names close matches.
        RunError: if what it needs is not installed.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    engine = ENGINES[name]
    if engine.extra is not None and importlib.util.find_spec(engine.extra) is None:
        raise RunError(f"the {name} engine needs {engine.extra}, which is not installed; {_INSTALL}[{engine.extra}]'")
    return engine


def _local(work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None:
    from zoo_datasets.training.engines.local import train_here

    train_here(work, report, tick)


def _ray(work: Work, report: Callable[[EpochReport], None], tick: Callable[[], None]) -> None:
    from zoo_datasets.training.engines.ray import train_on_ray

    train_on_ray(work, tick)


ENGINES: dict[str, Engine] = {
    "local": Engine(_local),
    "ray": Engine(_ray, elsewhere=True, extra="ray"),
}
