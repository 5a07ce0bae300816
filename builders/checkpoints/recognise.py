"""Which architecture a state dict is of, by order, kind and shape of its tensors, never by their names' numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import StoredTensor, Structure
from zoo_datasets.errors import CheckpointError, LayoutError, SpecError
from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.layers.passes import EPSILON
from zoo_datasets.networks.layout import IGNORED_SUFFIX, WeightLayout
from zoo_datasets.networks.variational import LOG_ALPHA_PRUNED
from zoo_datasets.specs.spec import SparsifierName

# Parts beside weights and biases, and the part that each belongs to.
_BESIDE = {"log_sigma2": "weight", "log_sigma2_bias": "bias", "weight_mask": "weight", "bias_mask": "bias"}
_RENAMED = {"weight_orig": "weight", "bias_orig": "bias"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPart:
    """One tensor of the layout in a file: itself, and what prunes it."""

    tensor: StoredTensor
    log_sigma2: StoredTensor | None = None
    mask: StoredTensor | None = None


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The architecture, layout and tensors recognised in a structure.

    Attributes:
        parts: the tensors in the order of the layout.
        sparsifier: set where the file holds what prunes its weights.
    """

    structure: Structure
    network: NetworkKind
    parts: tuple[TensorPart, ...]
    sparsifier: SparsifierName | None

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
    parts = _parts(structure.tensors)
    if not parts:
        raise CheckpointError("it holds no weights")
    for architecture in ARCHITECTURES.values():
        network = _network_of(architecture, parts)
        if network is not None:
            return Recognised(structure=structure, network=network, parts=tuple(parts), sparsifier=_sparsifier(parts))
    shown = ", ".join(f"{part.tensor.name[:40]} {list(part.tensor.shape)}" for part in parts[:3])
    raise CheckpointError(f"its {len(parts)} tensors ({shown}, …) match no architecture ({', '.join(ARCHITECTURES)})")


def fits(structure: Structure, layout: WeightLayout) -> str:
    """Why a structure does not match a layout: the first tensor that is missing, surplus or wrong."""
    return difference(layout, _parts(structure.tensors)) or "its tensors match"


def difference(layout: WeightLayout, parts: Sequence[TensorPart]) -> str | None:
    """The first tensor that is missing, surplus or wrong; None if all match."""
    for spec, part in itertools.zip_longest(layout.tensors, parts):
        if part is None:
            return f"tensor {spec.name!r} {list(spec.shape)} is missing"
        tensor = part.tensor
        if spec is None:
            return f"tensor {tensor.name[:80]!r} {list(tensor.shape)} is surplus"
        if tensor.shape != spec.shape or _kind(tensor.name) != spec.name.rsplit(".", 1)[-1]:
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
        if part.mask is not None:
            values = np.where(structure.gather(files, part.mask) == 0, np.float32(0), values)
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


def _parts(tensors: Sequence[StoredTensor]) -> list[TensorPart]:
    """Weights, biases and statistics in their order, each with what prunes it."""
    beside: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    main: list[StoredTensor] = []
    for tensor in tensors:
        prefix, _, last = tensor.name.rpartition(".")
        if last == IGNORED_SUFFIX:
            continue
        if last in _BESIDE:
            beside.setdefault((prefix, _BESIDE[last]), {})["mask" if "mask" in last else "log_sigma2"] = tensor
        else:
            main.append(tensor)
    parts = []
    for tensor in main:
        extra = beside.pop((tensor.name.rpartition(".")[0], _kind(tensor.name)), {})
        for other in extra.values():
            if other.shape != tensor.shape:
                raise CheckpointError(
                    f"tensor {other.name[:80]!r} {list(other.shape)} does not have the shape of {tensor.name[:80]!r}"
                )
        parts.append(TensorPart(tensor=tensor, log_sigma2=extra.get("log_sigma2"), mask=extra.get("mask")))
    if beside:
        surplus = next(iter(next(iter(beside.values())).values()))
        raise CheckpointError(f"tensor {surplus.name[:80]!r} belongs to no weight or bias of the file")
    return parts


def _kind(name: str) -> str:
    last = name.rpartition(".")[2]
    return _RENAMED.get(last, last)


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
