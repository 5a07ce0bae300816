"""What files of training loops name besides tensors, each kept as data or as an inert stand-in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from zoo_datasets.builders.checkpoints.pickles import DATASET, ITEM_SIZES, Name, NumpyType, StandIn, Vocabulary
from zoo_datasets.errors import CheckpointError

_LONGEST_DEVICE = 60
_SCALAR_BYTES = 16


def _default_dict(arguments: Sequence[Any]) -> dict[Any, Any]:
    if len(arguments) > 1 or not all(value is None or isinstance(value, Name) for value in arguments):
        raise CheckpointError("a dictionary with a default is made from other data than the default's class")
    return {}


def _same(arguments: Sequence[Any]) -> Any:
    """The content of a shape or a set: not copied, see `_ordered_dict`."""
    return arguments[0] if arguments else ()


def _device(arguments: Sequence[Any]) -> str:
    if not 1 <= len(arguments) <= 2 or not isinstance(arguments[0], str) or len(arguments[0]) > _LONGEST_DEVICE:
        raise CheckpointError("a device is not described by its name")
    return ":".join(map(str, arguments)) if all(isinstance(part, (str, int)) for part in arguments) else arguments[0]


def _encoded(arguments: Sequence[Any]) -> bytes:
    """The bytes of a numpy scalar, which pickles of protocol 2 write as text; of longer ones, as of arrays, none."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
        raise CheckpointError("bytes are written in another way than as text in latin1")
    text = arguments[0]
    return text.encode("latin1", "replace") if len(text) <= _SCALAR_BYTES else b""


def _numpy_type(arguments: Sequence[Any]) -> NumpyType:
    if not arguments or not isinstance(arguments[0], str) or not re.fullmatch(r"[biufc]\d{1,2}", arguments[0]):
        raise CheckpointError("a numpy type is not described by a short code for numbers")
    return NumpyType(arguments[0])


def _numpy_scalar(arguments: Sequence[Any]) -> Any:
    if len(arguments) != 2 or not isinstance(arguments[0], NumpyType) or not isinstance(arguments[1], bytes):
        raise CheckpointError("a numpy scalar is not described by its type and bytes")
    try:
        (value,) = np.frombuffer(arguments[1], np.dtype(f"<{arguments[0].code}")).tolist()
    except (ValueError, TypeError) as error:
        raise CheckpointError("the bytes of a numpy scalar are not those of one number") from error
    return value


def _numpy_names(name: str) -> list[Name]:
    """A function of numpy under the names that its versions have for it."""
    return [Name(f"numpy.{core}.multiarray", name) for core in ("core", "_core")]


_BUILTINS = ("builtins", "__builtin__")
_OMEGACONF = {
    "dictconfig": ("DictConfig",),
    "listconfig": ("ListConfig",),
    "base": ("ContainerMetadata", "Metadata"),
    "nodes": tuple(f"{kind}Node" for kind in ("Any", "Integer", "String", "Boolean", "Float", "Path", "Enum")),
}
_SETTINGS = frozenset({
    Name("argparse", "Namespace"), Name("types", "SimpleNamespace"), Name("torch.torch_version", "TorchVersion"),
    *(Name(f"{package}.utilities.parsing", "AttributeDict") for package in ("pytorch_lightning", "lightning.pytorch")),
    Name("lightning.fabric.utilities.data", "AttributeDict"),
    Name("lightning_fabric.utilities.data", "AttributeDict"),
    *(Name(f"omegaconf.{module}", name) for module, names in _OMEGACONF.items() for name in names),
})  # fmt: skip
# What stands beside a state dict in a training loop's file: numbers, settings, the optimizer's state. All of it inert.
WRAPPED: Final = Vocabulary(
    calls={
        **DATASET.calls,
        Name("collections", "defaultdict"): _default_dict,
        Name("collections", "Counter"): _same,
        Name("torch", "Size"): _same,
        Name("torch", "device"): _device,
        Name("_codecs", "encode"): _encoded,
        Name("numpy", "dtype"): _numpy_type,
        **dict.fromkeys(_numpy_names("scalar"), _numpy_scalar),
        **dict.fromkeys(_numpy_names("_reconstruct"), lambda arguments: StandIn(Name("numpy", "ndarray"))),
        **{Name(module, kind): _same for module in _BUILTINS for kind in ("set", "frozenset")},
        Name("types", "SimpleNamespace"): lambda arguments: StandIn(Name("types", "SimpleNamespace")),
    },
    stand_in=_SETTINGS.__contains__,
    values=frozenset(
        {
            Name("numpy", "ndarray"), Name("typing", "Any"), Name("typing", "List"), Name("typing", "Dict"),
            *(Name("torch", dtype) for dtype in ITEM_SIZES),
            *(Name(module, kind) for module in _BUILTINS for kind in ("dict", "list", "int", "float", "str", "bool")),
        }
    ),
)  # fmt: skip
