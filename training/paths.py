"""The engine paths: which code steps a block of members, chosen automatically or by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from zoo_datasets.architectures import Layer
from zoo_datasets.errors import RunError, UnknownNameError
from zoo_datasets.images import ImageData
from zoo_datasets.stacked import Block, BlockRecipe, NativeBlock, TorchBlock, lanes_of, native


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What decides whether a path can be used: the networks, their images [C, H, W], where they compute."""

    layers: tuple[Layer, ...]
    in_shape: tuple[int, int, int]
    augmentation: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class EnginePath:
    """One way to compute: results are bit-identical within a path, equal up to rounding between them.

    Attributes:
        name: as the run records it.
        lanes: members in a block.
        make_block: the block of a recipe.
    """

    name: str
    lanes: int
    make_block: Callable[[BlockRecipe, ImageData], Block]


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A path in the table: why it cannot be used for a workload (None: it can), and the path itself."""

    obstacle: Callable[[Workload], str | None]
    make: Callable[[Workload], EnginePath]


def _native_obstacle(work: Workload) -> str | None:
    if work.device != "cpu":
        return f"the native kernels run on the CPU, not on {work.device}"
    if work.augmentation:
        return f"the native kernels know no augmentation, but the zoo has {', '.join(work.augmentation)}"
    return native.available(work.layers, work.in_shape)


def _native_path(work: Workload) -> EnginePath:
    # Other vector instructions round otherwise: a path of its own.
    return EnginePath(f"native-{native.instructions()}", native.lanes(), NativeBlock)


def _torch_path(work: Workload) -> EnginePath:
    name = "torch" if work.device == "cpu" else f"torch-{work.device.split(':')[0]}"
    return EnginePath(name, lanes_of(work.layers), partial(TorchBlock, device=work.device))


# In the order in which `auto` tries them.
PATHS: dict[str, PathEntry] = {
    "native": PathEntry(_native_obstacle, _native_path),
    "torch": PathEntry(lambda work: None, _torch_path),
}


def choose_path(asked: str, recorded: str | None, work: Workload) -> EnginePath:
    """The path to use: the one asked for; with `auto` the run's own, or the fastest one for a new run.

    Args:
        asked: `auto` or a name of `PATHS`.
        recorded: the paths that an existing run was trained on, joined by `+`; None for a new run.

    Raises:
        UnknownNameError: where there is no such path.
        RunError: where the path cannot be used here.
    """
    if asked != "auto":
        if asked not in PATHS:
            raise UnknownNameError("engine path", asked, [*PATHS, "auto"])
        obstacle = PATHS[asked].obstacle(work)
        if obstacle:
            raise RunError(f"the {asked} path cannot be used here: {obstacle}; pass --path auto")
        return PATHS[asked].make(work)
    if recorded is None:
        return next(entry.make(work) for entry in PATHS.values() if entry.obstacle(work) is None)
    last = recorded.split("+")[-1]
    entry = PATHS.get(last.split("-")[0])
    obstacle = f"this version knows no {last} path" if entry is None else entry.obstacle(work)
    if entry is not None and obstacle is None:
        path = entry.make(work)
        if path.name == last:
            return path
        obstacle = f"here it would be {path.name}"
    others = [name for name, other in PATHS.items() if other.obstacle(work) is None and other.make(work).name != last]
    raise RunError(
        f"the run was trained on the {last} path, which is not to be had ({obstacle}); on another it would go on "
        f"with other rounding. Pass --path {' or --path '.join(others)} if that is what you want"
    )
