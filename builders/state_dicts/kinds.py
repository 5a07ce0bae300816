"""What a file of tensors describes, apart from the tensors' values: equal for all files of one kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zoo_datasets.builders.checkpoints.structure import StoredTensor, Structure
from zoo_datasets.builders.shards.notes import Note

MAX_STATE = 1 << 34  # bytes of a file, of which layouts take up to 2³¹ weights
# Of a training loop's wrappers, in the names of all tensors of a file.
_PREFIXES = ("module.", "_orig_mod.")

Signature = frozenset[tuple[str, tuple[int, ...], str]]


@dataclass(frozen=True, kw_only=True, eq=False)
class FileKind:
    """What files of one kind have in common.

    Attributes:
        structure: where their tensors lie, in the file or in what is unpacked of it.
        columns: what they say besides tensors, under the names that they give it.
        ties: by the name of a tensor that is stored under an earlier name too, that name.
        order: names of all tensors, tied ones included; empty where it is that of the structure.
        remarks: on what was taken and what was not.
        whole: whether the structure is that of the file itself, not of what is unpacked of it.
    """

    structure: Structure
    columns: Mapping[str, Any] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    remarks: tuple[Note, ...] = ()
    whole: bool = True

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The stored tensors by name."""
        return {tensor.name: tensor for tensor in self.structure.tensors}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all tensors, tied ones included, in the order of the file."""
        return self.order or tuple(self.tensors)

    @cached_property
    def signature(self) -> Signature:
        """Name, shape and dtype of each tensor, tied ones included."""
        stored = {name: self.tensors[self.ties.get(name, name)] for name in self.names}
        return frozenset((name, tensor.shape, tensor.dtype) for name, tensor in stored.items())


def common_prefix(names: Sequence[str]) -> str:
    """What wrappers of a training loop put in front of all names, as `module.`; empty where they did not."""
    prefix = ""
    while match := next((p for p in _PREFIXES if all(name.startswith(prefix + p) for name in names)), None):
        prefix += match
    return prefix


def prefix_note(prefix: str) -> tuple[Note, ...]:
    """The remark that a prefix was left out of the names."""
    text = f"the names of the tensors are taken without {prefix!r}, which a wrapper put in front of them"
    return (Note("state-prefix", text),) if prefix else ()
