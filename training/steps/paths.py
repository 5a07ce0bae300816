"""The engine paths: which code steps a block of members, chosen automatically or by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial

from zoo_datasets.errors import RunError, UnknownNameError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.native.compiler import SWITCH, instruction_sets
from zoo_datasets.networks.layers import Layer
from zoo_datasets.stacked import BlockRecipe, MemberBlock, NativeBlock, TorchBlock, lanes_of
from zoo_datasets.stacked.field import FieldBlock
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.native.field import NativeFieldBlock, points_shape
from zoo_datasets.stacked.network import subsamples


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What decides whether a path can be used: all that a block's computation depends on, and where it happens.

    A schedule does not: it comes to a block as the numbers of each step.

    Attributes:
        layers: of the network, or the first one of several; `others` are those of the further ones.
        in_shape: of the images, [C, H, W].
        activations, optimizers: those of all members of the zoo, trained now or later.
        augmentation: of the training images.
        field: whether members are fields, each fitted to a signal of its own.
    """

    layers: tuple[Layer, ...]
    in_shape: tuple[int, int, int]
    others: tuple[tuple[Layer, ...], ...] = ()
    activations: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    augmentation: tuple[str, ...] = ()
    device: str = "cpu"
    field: bool = False

    @property
    def networks(self) -> tuple[tuple[Layer, ...], ...]:
        """The layers of all networks."""
        return (self.layers, *self.others)


@dataclass(frozen=True, slots=True)
class EnginePath:
    """One way to compute: results are bit-identical within a path, equal up to rounding between them.

    Attributes:
        name: as the run records it.
        lanes_of: members in a block of some layers.
        make_block: the block of a recipe.
    """

    name: str
    lanes_of: Callable[[Sequence[Layer]], int]
    make_block: Callable[[BlockRecipe, ImageData], MemberBlock]


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A path in the table: why it cannot be used for a workload (None: it can), and the path itself."""

    obstacle: Callable[[Workload], str | None]
    make: Callable[[Workload], EnginePath]


def _kernels_lack(work: Workload) -> str | None:
    """Why the native kernels support no such workload on any machine; None if they do."""
    if work.device != "cpu":
        return f"the native kernels run on the CPU, not on {work.device}"
    unknown = native.unknown_settings(work.activations, work.optimizers, work.augmentation)
    reasons = (native.supports(layers, _shape_of(work, layers), field=work.field) for layers in work.networks)
    return unknown or next((reason for reason in reasons if reason is not None), None)


def _shape_of(work: Workload, layers: Sequence[Layer]) -> tuple[int, int, int]:
    return points_shape(layers, work.in_shape[-1]) if work.field else work.in_shape


def _native_obstacle(work: Workload) -> str | None:
    reasons = (native.available(layers, _shape_of(work, layers), field=work.field) for layers in work.networks)
    return _kernels_lack(work) or next((reason for reason in reasons if reason is not None), None)


def _native_path(work: Workload) -> EnginePath:
    # Other vector instructions round otherwise: a path of its own.
    return EnginePath(
        native.path_name(), lambda layers: native.lanes(), NativeFieldBlock if work.field else NativeBlock
    )


def _torch_path(work: Workload) -> EnginePath:
    name = "torch" if work.device == "cpu" else f"torch-{work.device.split(':')[0]}"
    if work.device == "cpu" and any(map(subsamples, work.networks)):
        name = "torch-subsampled"
    return EnginePath(name, lanes_of, partial(FieldBlock if work.field else TorchBlock, device=work.device))


# In the order in which `auto` tries them.
PATHS: dict[str, PathEntry] = {
    "native": PathEntry(_native_obstacle, _native_path),
    "torch": PathEntry(lambda work: None, _torch_path),
}


def choose_path(asked: str, recorded: str | None, work: Workload) -> EnginePath:
    """The path to use: the one asked for; with `auto` the run's own, or the fastest one for a new run.

    Args:
        asked: `auto`, a name of `PATHS`, or the full name of a path as runs record it (`native-avx2`).
        recorded: the paths that an existing run was trained on, joined by `+`; None for a new run.

    Warns:
        UserWarning: a new run could be trained by the native kernels if this machine had a compiler.

    Raises:
        UnknownNameError: if there is no such path.
        RunError: if the path cannot be used here.
    """
    if asked != "auto":
        path = _path_named(asked, work, PATHS)
        if isinstance(path, str):
            raise RunError(f"the {asked} path cannot be used here: {path}; pass --path auto")
        return path
    if recorded is None:
        _warn_of_the_plain_path(work)
        return next(entry.make(work) for entry in PATHS.values() if entry.obstacle(work) is None)
    last = recorded.split("+")[-1]
    try:
        path = _path_named(last, work)
    except UnknownNameError:
        path = "this version has no such path"
    if not isinstance(path, str):
        return path
    others = [name for name, other in PATHS.items() if other.obstacle(work) is None and other.make(work).name != last]
    raise RunError(
        f"the run was trained on the {last} path, which is not available ({path}); on another one it would go on "
        f"with other rounding. Pass --path {' or --path '.join(others)} if that is what you want"
    )


def _path_named(name: str, work: Workload, short: Container[str] = ()) -> EnginePath | str:
    """The path of a full name, or of one of the short ones; or why it cannot be used for a workload.

    Raises:
        UnknownNameError: there is no such path.
    """
    kind = name.split("-")[0]
    if kind not in PATHS:
        raise UnknownNameError("engine path", name, [*PATHS, "auto"])
    obstacle = PATHS[kind].obstacle(work)
    if obstacle is not None:
        return obstacle
    path = PATHS[kind].make(work)
    if name == path.name or name in short:
        return path
    switch = next((one for one in instruction_sets() if native.path_name(one) == name), None)
    remedy = f", but {SWITCH}={switch} makes it {name}" if switch else ""
    return f"here it would be {path.name}{remedy}"


def _warn_of_the_plain_path(work: Workload) -> None:
    reason = native.available() if _kernels_lack(work) is None else None
    if reason is not None:
        warnings.warn(
            "training takes the plain torch path, which is about 7 to 28 times as slow as the native kernels on the "
            f"CNNs of the zoos: {reason}",
            UserWarning,
            stacklevel=2,
        )
