"""What files of training loops hold besides tensors and is more than plain data: numbers of numpy, and settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from zoo_datasets.builders.checkpoints.pickled import Name, NumpyType, Plain
from zoo_datasets.builders.checkpoints.vocabulary import CHECKPOINT, Vocabulary
from zoo_datasets.errors import CheckpointError

_SCALAR_BYTES = 16
_NUMBER = re.compile(r"[biuf]\d{1,2}")
_DTYPE = Name("numpy", "dtype")


def _encoded(arguments: Sequence[Any]) -> bytes:
    """The bytes of a numpy scalar, which pickles of protocol 2 write as text; of longer ones, as of arrays, none."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
        raise CheckpointError("bytes are written in another way than as text in latin1")
    text = arguments[0]
    return text.encode("latin1", "replace") if len(text) <= _SCALAR_BYTES else b""


def _numpy_type(arguments: Sequence[Any]) -> NumpyType | Plain:
    code = arguments[0] if arguments else None
    return NumpyType(code) if isinstance(code, str) and _NUMBER.fullmatch(code) else Plain(_DTYPE)


def _numpy_scalar(arguments: Sequence[Any]) -> Any:
    """The number of a numpy scalar; of what is no number, nothing is kept."""
    match arguments:
        case [NumpyType(code), bytes() as data] if 0 < len(data) <= _SCALAR_BYTES:
            try:
                (value,) = np.frombuffer(data, np.dtype(f"<{code}")).tolist()
            except (ValueError, TypeError) as error:
                raise CheckpointError("the bytes of a numpy scalar are not those of one number") from error
            return value
    return Plain(_DTYPE)


_OMEGACONF = {
    "dictconfig": ("DictConfig",),
    "listconfig": ("ListConfig",),
    "base": ("ContainerMetadata", "Metadata"),
    "nodes": tuple(f"{kind}Node" for kind in ("Any", "Integer", "String", "Boolean", "Float", "Path", "Enum")),
}
_SETTINGS = frozenset(
    {
        Name("torch.torch_version", "TorchVersion"),
        *(Name(f"omegaconf.{module}", name) for module, names in _OMEGACONF.items() for name in names),
    }
)
WRAPPED: Final = Vocabulary(
    calls={
        **CHECKPOINT.calls,
        Name("_codecs", "encode"): _encoded,
        _DTYPE: _numpy_type,
        **{Name(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
    },
    stand_in=_SETTINGS.__contains__,
    values=frozenset(Name("typing", name) for name in ("Any", "List", "Dict", "Optional", "Union")),
    remedy=CHECKPOINT.remedy,
)
