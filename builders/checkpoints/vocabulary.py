"""The names that pickles may use, and what is made of each: a function here, never what the file names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from zoo_datasets.builders.checkpoints.pickled import MAX_DIMENSIONS, SHOWN, Name, Storage, TensorStub
from zoo_datasets.errors import CheckpointError

_MAX_PATH = 4096
# The largest shape that an array without elements can have anywhere.
_MAX_EMPTY = (1 << 60) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The global names that a kind of file may use.

    Attributes:
        calls: for each callable name, the function that builds its result from the arguments.
        stand_in: whether objects of a class are kept as `StandIn`.
        values: names that may stand as values and are nothing more than names.
        remedy: what to do about a file that uses other names.
    """

    calls: Mapping[Name, Callable[[Sequence[Any]], Any]]
    stand_in: Callable[[Name], bool] = lambda name: False
    values: frozenset[Name] = frozenset()
    remedy: str = ""


def _ordered_dict(arguments: Sequence[Any]) -> dict[Any, Any]:
    # Copying what is given would let a short pickle that calls this over and over fill the memory.
    if arguments:
        raise CheckpointError("an ordered dictionary is made from other data; torch fills empty ones")
    return {}


def _tensor(arguments: Sequence[Any]) -> TensorStub:
    if not 6 <= len(arguments) <= 7:
        raise CheckpointError(f"a tensor is described by {len(arguments)} values, expected 6")
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, Storage):
        raise CheckpointError(f"a tensor is made of {kind_of(storage)}, expected a storage")
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride):
        raise CheckpointError("a tensor's shape and strides are not tuples of one length")
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"a tensor has {len(shape)} dimensions, at most {MAX_DIMENSIONS} expected")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
        raise CheckpointError("a tensor's offset, shape or strides are not whole numbers from 0 on")
    if math.prod(shape) > storage.count:
        raise CheckpointError(
            f"a tensor claims {math.prod(shape):,} elements of a storage of {storage.count:,} (data/{storage.key})"
        )
    if offset > storage.count:
        raise CheckpointError(
            f"a tensor begins at element {offset:,} of a storage of {storage.count:,} (data/{storage.key})"
        )
    if not math.prod(shape) and math.prod(max(length, 1) for length in shape) > _MAX_EMPTY:
        raise CheckpointError(f"a tensor has no elements and claims a shape of more than {_MAX_EMPTY:,}")
    if math.prod(shape):
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        if last >= storage.count:
            raise CheckpointError(
                f"a tensor reaches to element {last:,} of a storage of {storage.count:,} (data/{storage.key})"
            )
    _check_distinct(shape, stride)
    # Along an axis of one element no step is ever made, whatever the file claims.
    steps = tuple(step if length > 1 else 1 for length, step in zip(shape, stride, strict=True))
    return TensorStub(storage, offset, shape, steps, _is_negative(arguments[6:]))


def _is_negative(metadata: Sequence[Any]) -> bool:
    """Whether the bits that torch keeps of a tensor beside its elements say that it is negated."""
    bits = metadata[0] if metadata else None
    if bits is None:
        return False
    if not isinstance(bits, dict) or not all(type(bit) is bool for bit in bits.values()):
        raise CheckpointError("a tensor's bits (negative, conjugate) are not a dictionary of true and false")
    if unknown := [name for name, bit in bits.items() if bit and name != "neg"]:
        raise CheckpointError(
            f"a tensor has the bit {str(unknown[0])[:SHOWN]!r}; save tensors with their bits resolved: "
            "tensor.resolve_conj().resolve_neg()"
        )
    return bits.get("neg") is True


def _check_distinct(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Refuse a view that shows one element twice: each axis must step over all that the finer ones span."""
    span = 1
    for step, length in sorted((s, n) for s, n in zip(stride, shape, strict=True) if n > 1):
        if step < span:
            raise CheckpointError(f"a tensor of shape {list(shape)} and strides {list(stride)} overlaps itself")
        span = step * (length - 1) + span


def _parameter(arguments: Sequence[Any]) -> TensorStub:
    tensor = arguments[0] if arguments else None
    if not isinstance(tensor, TensorStub):
        raise CheckpointError(f"a parameter is made of {kind_of(tensor)}, expected a tensor")
    return tensor


def _path(arguments: Sequence[Any]) -> str:
    if len(arguments) > _MAX_PATH or not all(isinstance(part, str) for part in arguments):
        raise CheckpointError("a path is made of something else than strings")
    # Paths made of paths would double their length at every call.
    if sum(map(len, arguments)) > _MAX_PATH:
        raise CheckpointError(f"a path is longer than {_MAX_PATH:,} characters")
    return str(PurePosixPath(*arguments))


def _typed(arguments: Sequence[Any]) -> Any:
    """A tensor of a subclass, or with attributes, which are dropped."""
    match arguments:
        case [Name() as function, Name() as kind, tuple() as described, *_] if function in _TENSOR_CALLS:
            if kind in TENSOR_TYPES:
                return _TENSOR_CALLS[function](described)
            raise CheckpointError(f"a tensor is of the class {kind}, expected torch.Tensor or a parameter")
    raise CheckpointError("a tensor with attributes is not described by a function, its class and arguments")


def _first_dictionary(arguments: Sequence[Any]) -> Any:
    """A dictionary of a class of its own: the one that it is made from (not copied: see `_ordered_dict`), or none."""
    return next((argument for argument in arguments if isinstance(argument, dict)), None) or {}


_TENSOR_CALLS: Final[Mapping[Name, Callable[[Sequence[Any]], Any]]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
TENSOR_TYPES: Final = frozenset(
    {Name("torch", "Tensor"), *(Name("torch.nn.parameter", name) for name in ("Parameter", "Buffer"))}
)
# Plain data that training code saves beside tensors, by module; nothing of it is made.
_PLAIN_NAMES: Final[Mapping[str, str]] = {
    "_codecs": "encode",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    # Pickles of protocol 2 call int and str by the names of Python 2.
    **dict.fromkeys(("builtins", "__builtin__"), "bool bytearray bytes complex dict float frozenset int list long "
                                                 "range set slice str tuple unicode"),
    "collections": "deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "numpy": "dtype ndarray",
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct scalar"),
    **dict.fromkeys(("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer"),
    "torch": "Size device bfloat16 bool float16 float32 float64 int8 int16 int32 int64 uint8",
}  # fmt: skip
PLAIN: Final = frozenset(Name(module, name) for module, names in _PLAIN_NAMES.items() for name in names.split())
DICTIONARIES: Final = frozenset(
    {
        Name("collections", "Counter"),
        Name("collections", "defaultdict"),
        *(
            Name(module, "AttributeDict")
            for module in (
                "lightning.fabric.utilities.data",
                "lightning_fabric.utilities.data",
                "pytorch_lightning.utilities.parsing",
            )
        ),
    }
)
_PATHS: Final[Mapping[Name, Callable[[Sequence[Any]], Any]]] = {
    Name(module, name): _path
    for module in ("pathlib", "pathlib._local")  # the latter by Python 3.13
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
}
_CHECKPOINT_CALLS: Final[Mapping[Name, Callable[[Sequence[Any]], Any]]] = {
    Name("collections", "OrderedDict"): _ordered_dict,
    **_TENSOR_CALLS,
    Name("torch._tensor", "_rebuild_from_type_v2"): _typed,
    **dict.fromkeys(DICTIONARIES, _first_dictionary),
    **_PATHS,
}
_ALONE = "save the state dict alone: torch.save(model.state_dict(), path)"
# What to do about tensors that are no rows of plain numbers.
CONVERT: Final[Mapping[str, str]] = {
    "_rebuild_sparse_tensor": "save tensor.to_dense()",
    "_rebuild_qtensor": "save tensor.dequantize()",
    "ComplexFloatStorage": "weights are real numbers: save their real part as float32",
    "ComplexDoubleStorage": "weights are real numbers: save their real part as float32",
}
CONVERT_OTHERS = "save plain tensors: tensor.detach().float().cpu().contiguous()"
CHECKPOINT: Final = Vocabulary(calls=_CHECKPOINT_CALLS, remedy=_ALONE)
DATASET: Final = Vocabulary(
    calls=_CHECKPOINT_CALLS,
    # The authors moved their class from package to package; a stand-in is inert, whatever its name.
    stand_in=lambda name: name.module.split(".")[-1].startswith("dataset") and name.name.startswith("ModelDataset"),
)


def kind_of(value: Any) -> str:
    """What to call a value in a message."""
    return str(value) if isinstance(value, Name) else f"a {type(value).__name__}"
