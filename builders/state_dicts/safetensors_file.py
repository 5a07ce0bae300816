"""Files of safetensors, described by their header alone.

A header is eight bytes of its length and JSON: each tensor's dtype, shape and place behind the header, and under
`__metadata__` texts. Tensors lie without gaps, so that no byte is without a meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES, MAX_DIMENSIONS
from zoo_datasets.builders.checkpoints.torch_file import MAX_TENSORS, Slices, StoredTensor, Structure
from zoo_datasets.builders.state_dicts.kinds import FileKind, common_prefix, prefix_note
from zoo_datasets.documents import MAX_COUNT, MAX_JSON, brief, parse_json
from zoo_datasets.errors import CheckpointError, DocumentError

_DTYPES: Final[Mapping[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_METADATA = "__metadata__"
_LENGTH = 8
_LONGEST_NAME = 1000


def describe_safetensors(data: Slices) -> FileKind:
    """The tensors of a file in the order in which they lie, and its metadata.

    Raises:
        CheckpointError: if it is not such a file, or its header does not fit its size.
    """
    total = len(data)
    length = int.from_bytes(data[0:_LENGTH], "little") if total >= _LENGTH else -1
    if not 2 <= length <= min(total - _LENGTH, MAX_JSON):
        problem = "it is empty" if not total else f"its {total:,} bytes begin with a header of {max(length, 0):,}"
        raise CheckpointError(f"{problem}; it is cut short or no file of safetensors")
    head = data[0 : _LENGTH + length]
    entries = _entries(head[_LENGTH:])
    metadata = entries.pop(_METADATA, {})
    if not entries:
        raise CheckpointError("it holds no tensors")
    if len(entries) > MAX_TENSORS:
        raise CheckpointError(f"it holds {len(entries):,} tensors, at most {MAX_TENSORS:,} expected")
    prefix = common_prefix(list(entries))
    tensors = sorted((_stored(name, entry, len(prefix), len(head)) for name, entry in entries.items()), key=_place)
    _check_places(tensors, len(head), total)
    return FileKind(
        structure=Structure(total, tuple(tensors), (0,), (head,)),
        columns=_columns(metadata, entries),
        remarks=prefix_note(prefix),
    )


def _entries(text: bytes) -> dict[str, Any]:
    try:
        entries = parse_json(text)
    except DocumentError as error:
        raise CheckpointError(f"its header could not be read: {error}") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"its header is a {type(entries).__name__}, expected names with their tensors")
    return entries


def _stored(name: str, entry: Any, prefix: int, begin: int) -> StoredTensor:
    match entry:
        case {"dtype": str() as code, "shape": list() as shape, "data_offsets": [int() as start, int() as stop]} if (
            code in _DTYPES
            and len(name) <= _LONGEST_NAME
            and len(shape) <= MAX_DIMENSIONS
            and all(type(length) is int and 0 <= length < MAX_COUNT for length in shape)
            and 0 <= start <= stop
        ):
            size = math.prod(shape)
            if size * ITEM_SIZES[_DTYPES[code]] != stop - start:
                raise CheckpointError(
                    f"its tensor {name[:80]!r} of {code} {shape} takes {size * ITEM_SIZES[_DTYPES[code]]:,} bytes, "
                    f"its header gives it {stop - start:,}"
                )
            return StoredTensor(name[prefix:], _DTYPES[code], tuple(shape), begin + start, size, None)
    raise CheckpointError(
        f"its tensor {name[:80]!r} is described by {brief(entry)[:200]}, expected dtype, shape and data_offsets, the "
        f"dtype one of {', '.join(_DTYPES)}"
    )


def _place(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.start, tensor.size


def _check_places(tensors: list[StoredTensor], begin: int, total: int) -> None:
    """Refuse tensors that overlap, or leave bytes that belong to none."""
    for tensor in tensors:
        if tensor.start != begin:
            raise CheckpointError(
                f"its tensor {tensor.name[:80]!r} begins at byte {tensor.start:,}, expected {begin:,}"
            )
        begin += tensor.size * ITEM_SIZES[tensor.dtype]
    if begin != total:
        raise CheckpointError(f"its tensors end at byte {begin:,} of {total:,}; it is cut short or damaged")


def _columns(metadata: Any, tensors: Mapping[str, Any]) -> dict[str, str]:
    """The metadata without what says nothing of the model: its writer's format, and names of shared tensors."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("its metadata are not texts under names")
    return {name: value for name, value in metadata.items() if name != "format" and value not in tensors}
