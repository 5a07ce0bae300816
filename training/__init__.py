"""Training of zoos: cohorts of members as stacks, crash-safe, on one process or many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_datasets.training.train import train_zoo as train_zoo

__all__ = ["train_zoo"]


def __getattr__(name: str) -> Any:
    # The command line imports this package for its options; torch comes in with the first training.
    if name == "train_zoo":
        from zoo_datasets.training.train import train_zoo

        return train_zoo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
