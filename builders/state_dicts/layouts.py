"""From what files hold to layouts of rows: one for each set of tensors, in the order of the first file that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from zoo_datasets.builders.checkpoints.pickled import ITEM_SIZES
from zoo_datasets.builders.checkpoints.torch_file import StoredTensor
from zoo_datasets.builders.state_dicts.kinds import FileKind, Signature
from zoo_datasets.errors import CheckpointError, LayoutError
from zoo_datasets.networks.layout import BUFFERS, FLAT_DTYPES, MAX_SIZE, TensorKind, WeightLayout
from zoo_datasets.networks.records import NetworkRecord

MOST_RAW_BYTES = 1_000_000  # of a row
_CAST = "float32"


@dataclass(frozen=True, slots=True)
class Move:
    """A tensor of a file, and where it goes: to an element of the flat vector, or to a byte of the raw tensors."""

    tensor: StoredTensor
    start: int


@dataclass(frozen=True, slots=True)
class Moves:
    """What of a file goes where."""

    flat: tuple[Move, ...]
    raw: tuple[Move, ...]


@dataclass(eq=False)
class Filling:
    """A layout, and how files of its kinds fill its rows.

    Attributes:
        first: a name of a file that has it, for messages.
        cast: names of tensors that are converted to float32.
    """

    layout: WeightLayout
    first: str
    cast: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._moves: dict[FileKind, Moves] = {}

    @cached_property
    def record(self) -> NetworkRecord:
        """What is known of the network."""
        return NetworkRecord(self.layout)

    def moves(self, kind: FileKind) -> Moves:
        """What a file of a kind holds of the layout's tensors, in the order of the layout."""
        moves = self._moves.get(kind)
        if moves is None:
            here = [
                (Move(kind.tensors[kind.ties.get(spec.name, spec.name)], spec.offset), spec.raw)
                for spec in self.layout.tensors
                if spec.tied is None and kind.ties.get(spec.name, spec.name) in kind.tensors
            ]
            moves = self._moves[kind] = Moves(
                tuple(_joined([move for move, raw in here if not raw])), tuple(move for move, raw in here if raw)
            )
        return moves


def _joined(moves: Sequence[Move]) -> list[Move]:
    """The same moves, those of tensors that follow each other both in the file and in the row as one."""
    joined: list[Move] = []
    for move in moves:
        last = joined[-1] if joined else None
        if last is not None and _follows(last, move):
            size = last.tensor.size + move.tensor.size
            joined[-1] = Move(replace(last.tensor, shape=(size,), size=size), last.start)
        else:
            joined.append(move)
    return joined


def _follows(last: Move, move: Move) -> bool:
    one, other = last.tensor, move.tensor
    return (
        one.stride is other.stride is None
        and (one.dtype, one.negative) == (other.dtype, other.negative)
        and one.start + one.size * ITEM_SIZES[one.dtype] == other.start
        and last.start + one.size == move.start
    )


Kinds = tuple[FileKind, ...]


def signature_of(kinds: Kinds) -> Signature:
    """Name, shape and dtype of each tensor of a state.

    Raises:
        CheckpointError: if two files of a sharded state hold tensors of one name.
    """
    if len(kinds) == 1:
        return kinds[0].signature
    joined = [entry for kind in kinds for entry in kind.signature]
    if len({name for name, _, _ in joined}) != len(joined):
        raise CheckpointError("two of its files hold tensors of one name")
    return frozenset(joined)


def filling_of(alike: Sequence[Kinds], first: str, cast: bool) -> Filling:
    """The layout of states that have the same tensors, in the order of the first of them.

    Tensors are tied where they are in all of the states.

    Raises:
        CheckpointError: if no row can hold them.
    """
    stored = {name: kind.tensors[kind.ties.get(name, name)] for kind in alike[0] for name in kind.names}
    ties = dict(_ties(alike[0]))
    for kinds in alike[1:]:
        theirs = _ties(kinds)
        ties = {name: other for name, other in ties.items() if theirs.get(name) == other}
    to_cast = _to_cast([tensor for name, tensor in stored.items() if name not in ties], cast)
    dtypes = {name: _CAST if (stored_as := tensor.dtype) in to_cast else stored_as for name, tensor in stored.items()}
    entries: list[tuple[str, tuple[int, ...], str, TensorKind, str | None]] = [
        (
            name,
            tensor.shape,
            dtypes[name],
            "buffer" if name.rpartition(".")[2] in BUFFERS else "parameter",
            ties.get(name),
        )
        for name, tensor in stored.items()
    ]
    try:
        layout = WeightLayout.of_dtypes(entries)
    except LayoutError as error:
        raise CheckpointError(str(error)) from error
    _check(layout, cast)
    return Filling(layout, first, frozenset(name for name, tensor in stored.items() if tensor.dtype != dtypes[name]))


def _ties(kinds: Kinds) -> Mapping[str, str]:
    return {name: other for kind in kinds for name, other in kind.ties.items()}


def _to_cast(tensors: Sequence[StoredTensor], cast: bool) -> set[str]:
    """The dtypes that become float32: float64, and whole numbers and truth values where these are too many bytes."""
    if not cast:
        return set()
    casts = {dtype for tensor in tensors if (dtype := tensor.dtype).startswith("float") and dtype not in FLAT_DTYPES}
    rest = [tensor for tensor in tensors if tensor.dtype not in (*FLAT_DTYPES, *casts)]
    if sum(tensor.size * ITEM_SIZES[tensor.dtype] for tensor in rest) > MOST_RAW_BYTES:
        casts |= {tensor.dtype for tensor in rest if not tensor.dtype.startswith("complex")}
    return casts


def _check(layout: WeightLayout, cast: bool) -> None:
    if layout.raw_bytes > MOST_RAW_BYTES:
        dtypes = ", ".join(sorted({spec.dtype for spec in layout.tensors if spec.raw}))
        remedy = "" if cast else "; --cast float32 makes float32 of them"
        raise CheckpointError(
            f"its tensors of {dtypes} have {layout.raw_bytes:,} bytes, at most {MOST_RAW_BYTES:,} of what float32 "
            f"cannot hold fit into a row{remedy}"
        )
    if not layout.size + layout.raw_bytes:
        raise CheckpointError("none of its tensors has an element")
    if layout.size >= MAX_SIZE:
        raise CheckpointError(f"it has {layout.size:,} weights, less than {MAX_SIZE:,} expected")
