"""Which architecture a state dict is of: by the kinds and shapes of its tensors, grouped by their modules.

Modules stand in any order where their names are those of the layout, or where their shapes leave one order only;
else in that of the file. Numbers in names say nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.structure import StoredTensor, Structure
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.errors import CheckpointError, LayoutError, SpecError
from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.layers.passes import EPSILON
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.networks.variational import LOG_ALPHA_PRUNED
from zoo_datasets.specs.spec import SparsifierName

# What the last part of a tensor's name says: the tensor of the layout that it belongs to, and what it is of it.
_ROLES: Mapping[str, tuple[str, str]] = {
    "log_sigma2": ("weight", "log_sigma2"),
    "log_sigma2_bias": ("bias", "log_sigma2"),
    **{
        f"{base}_{ending}": (base, role)
        for base in ("weight", "bias")
        for ending, role in (("orig", "tensor"), ("mask", "mask"), ("g", "magnitude"), ("v", "direction"))
    },
}
# `torch.nn.utils.parametrizations.weight_norm` keeps the magnitude first, and then the direction.
_PARAMETRISED = re.compile(r"(?:(?P<module>.+)\.)?parametrizations\.(?P<base>\w+)\.(?P<rest>.+)")
_ORIGINALS = {"original0": "magnitude", "original1": "direction"}
# Counters that tools keep beside weights: AveragedModel's, thop's, and those of batch norm.
_AVERAGED = "n_averaged"
_COUNTERS = frozenset({_AVERAGED, "total_ops", "total_params", IGNORED_SUFFIX})
# Parts that wrappers put into names: DataParallel, compile, FSDP, activation checkpoints.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPart:
    """One tensor of the layout in a file: itself, and what prunes or scales it.

    Attributes:
        kind: weight, bias, running_mean, …
        tensor: what has its shape; with a `magnitude` (weight norm) only its direction counts.
    """

    kind: str
    tensor: StoredTensor
    log_sigma2: StoredTensor | None = None
    mask: StoredTensor | None = None
    magnitude: StoredTensor | None = None


# The parts of a module by their kinds.
Module = Mapping[str, TensorPart]


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The architecture, layout and tensors recognised in a structure.

    Attributes:
        parts: the tensors in the order of the layout.
        sparsifier: set where the file holds what prunes its weights.
        notes: what was done to the file's tensors that a reader of the rows should know.
    """

    structure: Structure
    network: NetworkKind
    parts: tuple[TensorPart, ...]
    sparsifier: SparsifierName | None
    notes: tuple[Note, ...] = ()

    @property
    def layout(self) -> WeightLayout:
        """Of the weights."""
        return self.network.layout

    @property
    def converted(self) -> set[str]:
        """Types of elements that are not float32 and become it."""
        return {part.tensor.dtype for part in self.parts} - {"float32"}


def recognise(structure: Structure) -> Recognised:
    """The architecture whose layout has these tensors.

    Raises:
        CheckpointError: if none has; the message lists the tensors found.
    """
    modules = _modules(structure.tensors)
    if not modules:
        raise CheckpointError("it holds no weights")
    for architecture in ARCHITECTURES.values():
        for parts in _arrangements(architecture, modules):
            network = _network_of(architecture, parts)
            if network is not None:
                return Recognised(
                    structure=structure,
                    network=network,
                    parts=tuple(parts),
                    sparsifier=_sparsifier(parts),
                    notes=tuple(_notes(structure, parts)),
                )
    parts = _flat(modules.values())
    shown = ", ".join(f"{part.tensor.name[:40]} {list(part.tensor.shape)}" for part in parts[:3])
    raise CheckpointError(f"its {len(parts)} tensors ({shown}, …) match no architecture ({', '.join(ARCHITECTURES)})")


def fits(structure: Structure, layout: WeightLayout) -> str:
    """Why a structure does not match a layout: the first tensor that is missing, surplus or wrong."""
    modules = _modules(structure.tensors)
    return difference(layout, _by_name(layout, modules) or _flat(modules.values(), layout)) or "its tensors match"


def difference(layout: WeightLayout, parts: Sequence[TensorPart]) -> str | None:
    """The first tensor that is missing, surplus or wrong; None if all match."""
    for spec, part in itertools.zip_longest(layout.tensors, parts):
        if part is None:
            return f"tensor {spec.name!r} {list(spec.shape)} is missing"
        tensor = part.tensor
        if spec is None:
            return f"tensor {tensor.name[:80]!r} {list(tensor.shape)} is surplus"
        if tensor.shape != spec.shape or part.kind != spec.name.rpartition(".")[2]:
            actual = f"tensor {tensor.name[:80]!r} {list(tensor.shape)}"
            return f"{actual} stands where {spec.name!r} {list(spec.shape)} belongs"
    return None


Empty = Callable[[tuple[int, int], type[np.float32]], NDArray[np.float32]]


def acting_weights(
    recognised: Recognised, files: NDArray[np.uint8], empty: Empty = np.empty
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """The weights that act, float32 [K, D], of files uint8 [K, length]; for twins by variational dropout also log σ²
    and the weights before pruning, in the same order.

    By variational dropout a weight is zero where log α = log σ² − 2·log(|w| + 1e-15) ≥ 3 (Molchanov et al. 2017);
    biases of convolutions likewise, those of linear layers are never pruned and have log σ² = −∞. Where log σ² is
    NaN, so is the weight. `empty` makes the array that the weights are written to.
    """
    structure = recognised.structure
    weights = empty((len(files), recognised.layout.size), np.float32)
    noise = means = None
    if any(part.log_sigma2 is not None for part in recognised.parts):
        noise, means = np.full_like(weights, -np.inf), np.empty_like(weights)
    for spec, part in zip(recognised.layout.tensors, recognised.parts, strict=True):
        here = slice(spec.offset, spec.offset + spec.size)
        values = structure.gather(files, part.tensor)
        if part.magnitude is not None:
            values = _scaled(values, structure.gather(files, part.magnitude), part)
        if part.mask is not None:
            mask = structure.gather(files, part.mask)
            values = np.where(mask == 0, np.float32(0), values * mask)
        if means is not None:
            means[:, here] = values
        if part.log_sigma2 is not None and noise is not None and not _unused(part, spec.name, recognised):
            log_sigma2 = structure.gather(files, part.log_sigma2)
            noise[:, here] = log_sigma2
            values = _pruned(values, log_sigma2)
        weights[:, here] = values
    return weights, noise, means


def _pruned(values: NDArray[np.float32], log_sigma2: NDArray[np.float32]) -> NDArray[np.float32]:
    # The original also clamps log α, to ±8 or ±10: no value crosses the threshold by that.
    with np.errstate(all="ignore"):
        log_alpha = log_sigma2 - 2 * np.log(np.abs(values) + np.float32(EPSILON))
    acting = np.where(log_alpha >= LOG_ALPHA_PRUNED, np.float32(0), values)
    return np.where(np.isnan(log_sigma2), np.float32(np.nan), acting)


def _unused(part: TensorPart, name: str, recognised: Recognised) -> bool:
    """A linear layer's log_sigma2_bias was never used: uninitialised memory."""
    weight = name.rsplit(".", 1)[0] + ".weight"
    (shape,) = [spec.shape for spec in recognised.layout.tensors if spec.name == weight]
    return name.endswith(".bias") and len(shape) == 2


def _scaled(directions: NDArray[np.float32], magnitudes: NDArray[np.float32], part: TensorPart) -> NDArray[np.float32]:
    """The weights that weight norm makes of directions [K, size] and magnitudes, by torch's own function."""
    shape = part.tensor.shape
    assert part.magnitude is not None
    own = part.magnitude.shape
    # Along one axis each slice has a magnitude of its own, or the whole tensor has one.
    axis = next((axis for axis, length in enumerate(own) if length != 1), shape.index(1) if own and 1 in shape else -1)
    scaled = [
        torch._weight_norm(direction.reshape(shape), magnitude.reshape(own), axis).numpy().reshape(-1)
        for direction, magnitude in zip(map(torch.tensor, directions), map(torch.tensor, magnitudes), strict=True)
    ]
    return np.stack(scaled)


def _modules(tensors: Sequence[StoredTensor]) -> dict[str, Module]:
    """The tensors by module, in the order in which these first appear, and by kind.

    Raises:
        CheckpointError: if a tensor is one of several for the same place, or of none.
    """
    roles: dict[str, dict[str, dict[str, StoredTensor]]] = {}
    for tensor in tensors:
        module, kind, role = _place(tensor.name)
        if kind in _COUNTERS:
            continue
        other = roles.setdefault(module, {}).setdefault(kind, {}).setdefault(role, tensor)
        if other is not tensor:
            raise CheckpointError(f"tensors {other.name[:80]!r} and {tensor.name[:80]!r} are both the {kind}")
    return {module: {kind: _part(kind, own) for kind, own in kinds.items()} for module, kinds in roles.items() if kinds}


def _place(name: str) -> tuple[str, str, str]:
    """The module of a tensor, the kind of tensor that it belongs to there, and its role in that."""
    module, _, last = name.rpartition(".")
    if match := _PARAMETRISED.fullmatch(name):
        if match["rest"] not in _ORIGINALS:
            remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {match['base'][:40]!r})"
            raise CheckpointError(
                f"tensor {name[:80]!r} is of a parametrization, and only torch's weight_norm is known; "
                f"bake it in before saving: {remedy}"
            )
        return match["module"] or "", match["base"], _ORIGINALS[match["rest"]]
    if last in ("weight_u", "bias_u"):
        raise CheckpointError(
            f"tensor {name[:80]!r} is of spectral norm; bake it in before saving: "
            "torch.nn.utils.remove_spectral_norm(module)"
        )
    return module, *_ROLES.get(last, (last, "tensor"))


def _part(kind: str, roles: Mapping[str, StoredTensor]) -> TensorPart:
    """One tensor of the layout from those that make it up."""
    direction, magnitude = roles.get("direction"), roles.get("magnitude")
    tensor = roles.get("tensor", direction)
    if tensor is None or (direction is None) != (magnitude is None) or ("tensor" in roles and direction is not None):
        surplus = direction or magnitude or next(iter(roles.values()))
        raise CheckpointError(f"tensor {surplus.name[:80]!r} belongs to no weight or bias of the file")
    if magnitude is not None and not _scales(magnitude.shape, tensor.shape):
        raise CheckpointError(
            f"tensor {magnitude.name[:80]!r} {list(magnitude.shape)} scales no axis of {tensor.name[:80]!r} "
            f"{list(tensor.shape)}"
        )
    for role in ("log_sigma2", "mask"):
        if (other := roles.get(role)) is not None and other.shape != tensor.shape:
            raise CheckpointError(
                f"tensor {other.name[:80]!r} {list(other.shape)} does not have the shape of {tensor.name[:80]!r}"
            )
    return TensorPart(
        kind=kind, tensor=tensor, log_sigma2=roles.get("log_sigma2"), mask=roles.get("mask"), magnitude=magnitude
    )


def _scales(magnitude: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a weight's magnitude has one value for each slice along an axis, or one in all."""
    own = [(one, length) for one, length in zip(magnitude, shape, strict=False) if one != 1]
    return not magnitude or (len(magnitude) == len(shape) and len(own) <= 1 and all(a == b for a, b in own))


def _flat(modules: Iterable[Module], layout: WeightLayout | None = None) -> list[TensorPart]:
    """The parts of modules, those of each in the order that their kinds have in a layout."""
    kinds = [] if layout is None else list(dict.fromkeys(spec.name.rpartition(".")[2] for spec in layout.tensors))
    order = {kind: number for number, kind in enumerate(kinds)}
    return [
        part
        for module in modules
        for part in sorted(module.values(), key=lambda part: order.get(part.kind, len(order)))
    ]


def _arrangements(architecture: Architecture, modules: Mapping[str, Module]) -> Iterator[Sequence[TensorPart]]:
    """The orders of the tensors in which they may be an architecture's, the likeliest first."""
    network = _network(architecture, 1, 1)
    if network is None:
        return
    named = _by_name(network.layout, modules)
    yield named or _flat(modules.values(), network.layout)
    if named is None and (shaped := _by_shape(architecture, modules)) is not None:
        yield shaped


def _by_name(layout: WeightLayout, modules: Mapping[str, Module]) -> list[TensorPart] | None:
    """The parts in the order of a layout that has modules of the same names, whatever stands before all of them."""
    names = list(dict.fromkeys(spec.name.rpartition(".")[0] for spec in layout.tensors))
    paths = {
        tuple(part for part in name.split(".") if part not in _WRAPPERS): module for name, module in modules.items()
    }
    if not len(names) == len(paths) == len(modules):
        return None
    common = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    for length in range(len(list(common)) + 1):
        own = {".".join(path[length:]): module for path, module in paths.items()}
        if own.keys() == set(names):
            return _flat((own[name] for name in names), layout)
    return None


def _by_shape(architecture: Architecture, modules: Mapping[str, Module]) -> list[TensorPart] | None:
    """The parts in the order of an architecture, where the shapes of each of its modules are those of one module of
    the file; None where they are not, or of several."""
    networks = [_network(architecture, *numbers) for numbers in ((1, 1), (2, 1), (1, 2))]
    layouts = [network.layout for network in networks if network is not None]
    if len(layouts) != len(networks) or len({len(layout.tensors) for layout in layouts}) != 1:
        return None
    expected: dict[str, dict[str, list[int | None]]] = {}
    for specs in zip(*(layout.tensors for layout in layouts), strict=True):
        # Sizes that grow with the channels or the classes are open.
        sizes = [
            lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*(s.shape for s in specs), strict=True)
        ]
        module, _, kind = specs[0].name.rpartition(".")
        expected.setdefault(module, {})[kind] = sizes
    in_order = []
    for kinds in expected.values():
        alike = [name for name, module in modules.items() if _is_like(module, kinds)]
        if len(alike) != 1:
            return None
        in_order += alike
    if sorted(in_order) != sorted(modules):
        return None
    return _flat((modules[name] for name in in_order), layouts[0])


def _is_like(module: Module, kinds: Mapping[str, Sequence[int | None]]) -> bool:
    return module.keys() == kinds.keys() and all(
        len(module[kind].tensor.shape) == len(sizes)
        and all(size in (None, length) for size, length in zip(sizes, module[kind].tensor.shape, strict=True))
        for kind, sizes in kinds.items()
    )


def _notes(structure: Structure, parts: Sequence[TensorPart]) -> Iterator[Note]:
    """What was done to a file's tensors."""
    if structure.wrapping:
        yield Note("import-wrapped-checkpoint", structure.wrapping)
    if any(part.magnitude is not None for part in parts):
        yield Note("import-weight-norm", "weights under weight norm were folded: magnitude times direction")
    counters = {tensor.name.rpartition(".")[2] for tensor in structure.tensors} & _COUNTERS - {IGNORED_SUFFIX}
    if _AVERAGED in counters:
        yield Note("import-averaged-weights", f"weights are averages over training: {_AVERAGED} stands beside them")
    if others := sorted(counters - {_AVERAGED}):
        yield Note("import-counters", f"{', '.join(others)} stand beside the weights and were not read")


def _sparsifier(parts: Sequence[TensorPart]) -> SparsifierName | None:
    if any(part.log_sigma2 is not None for part in parts):
        return "variational_dropout"
    return "magnitude" if any(part.mask is not None for part in parts) else None


def _network_of(architecture: Architecture, parts: Sequence[TensorPart]) -> NetworkKind | None:
    """The architecture's network with these tensors; None if they do not match.

    Its layouts for few channels and classes tell which sizes of tensors grow with them, and by how much.
    """
    shapes = [part.tensor.shape for part in parts]
    in_channels = _solved(shapes, _network(architecture, 1, 1), _network(architecture, 2, 1))
    classes = _solved(shapes, _network(architecture, 1, 1), _network(architecture, 1, 2))
    if in_channels is None or classes is None:
        return None
    network = _network(architecture, in_channels, classes)
    return None if network is None or difference(network.layout, parts) is not None else network


def _solved(shapes: Sequence[tuple[int, ...]], one: NetworkKind | None, two: NetworkKind | None) -> int | None:
    """The number with which an architecture has these shapes, from its networks with one and with two: the first size
    in which these differ grows evenly. 1 where they are equal; None if there is no such number."""
    if one is None or two is None or not len(shapes) == len(one.layout.tensors) == len(two.layout.tensors):
        return None
    for shape, first, second in zip(shapes, one.layout.tensors, two.layout.tensors, strict=True):
        for size, at_one, at_two in zip(shape, first.shape, second.shape, strict=False):
            if at_one != at_two:
                steps, rest = divmod(size - at_one, at_two - at_one)
                return None if rest else 1 + steps
    return 1


@lru_cache(maxsize=256)
def _network(architecture: Architecture, in_channels: int, classes: int) -> NetworkKind | None:
    """The network of an entry of the table; None where it has no layout."""
    network = NetworkKind(architecture.name, in_channels, classes)
    try:
        return network if network.layout.tensors else None
    except (LayoutError, SpecError):
        return None
