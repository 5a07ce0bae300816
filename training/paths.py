"""The engine paths: which code steps a block of members, chosen automatically or by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from zoo_datasets.architectures import Layer
from zoo_datasets.errors import RunError, UnknownNameError
from zoo_datasets.images import ImageData
from zoo_datasets.stacked import BlockRecipe, TorchBlock, lanes_of


@dataclass(frozen=True, slots=True)
class EnginePath:
    """One way to compute: results are bit-identical within a path, equal up to rounding between them.

    Attributes:
        name: as the run records it.
        lanes: layers to the members in a block.
        make_block: the block of a recipe.
    """

    name: str
    lanes: Callable[[Sequence[Layer]], int]
    make_block: Callable[[BlockRecipe, ImageData], Any]


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A path in the table: why it cannot be used for these layers on this device (None: it can), and the path."""

    obstacle: Callable[[Sequence[Layer], str], str | None]
    make: Callable[[str], EnginePath]


def _torch_path(device: str) -> EnginePath:
    name = "torch" if device == "cpu" else f"torch-{device.split(':')[0]}"
    return EnginePath(name, lanes_of, partial(TorchBlock, device=device))


# In the order in which `auto` tries them.
PATHS: dict[str, PathEntry] = {
    "torch": PathEntry(lambda layers, device: None, _torch_path),
}


def choose_path(asked: str, recorded: str | None, layers: Sequence[Layer], device: str = "cpu") -> EnginePath:
    """The path to use: the one asked for; with `auto` the run's own, or the fastest one for a new run.

    Args:
        asked: `auto` or a name of `PATHS`.
        recorded: the path that an existing run was trained on, None for a new run.

    Raises:
        UnknownNameError: where there is no such path.
        RunError: where the path cannot be used here.
    """
    if asked != "auto" and asked not in PATHS:
        raise UnknownNameError("engine path", asked, [*PATHS, "auto"])
    if asked != "auto":
        obstacle = PATHS[asked].obstacle(layers, device)
        if obstacle:
            raise RunError(f"the {asked} path cannot be used here: {obstacle}; pass --path auto")
        return PATHS[asked].make(device)
    usable = [entry.make(device) for entry in PATHS.values() if entry.obstacle(layers, device) is None]
    if recorded is None:
        return usable[0]
    last = recorded.split("+")[-1]
    for path in usable:
        if path.name == last:
            return path
    raise RunError(
        f"the run was trained on the {last} path, which is not to be had here; on {usable[0].name} it would go on "
        f"with other rounding. Pass --path {usable[0].name.split('-')[0]} if that is what you want"
    )
