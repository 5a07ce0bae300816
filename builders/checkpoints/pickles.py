"""A pickle reader that can build plain data and tensor stubs and nothing else.

It interprets the opcodes itself and never imports, calls or instantiates what a file names: a name is looked
up in the small table of a `Vocabulary`, and whatever is not there refuses the file. Work and memory are
linear in the length of the pickle.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from zoo_datasets.errors import CheckpointError

# torch's storage classes, and the element types they stand for.
STORAGES: Final[Mapping[str, str]] = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
ITEM_SIZES: Final[Mapping[str, int]] = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16, "uint16": 2, "uint32": 4, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip

MAX_DIMENSIONS = 8
_MAX_INT_BYTES = 16
_MAX_PATH = 4096
# The largest shape that an array without elements can have anywhere.
_MAX_EMPTY = (1 << 60) - 1
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a file names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:_SHOWN]


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage that a file claims to hold: `count` elements of `dtype` in the member data/`key`."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorStub:
    """A tensor as a file describes it: a strided view of a storage, inside its bounds, no element twice."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other in row-major order."""
        expected = 1
        for length, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if length != 1 and step != expected:
                return False
            expected *= length
        return True


@dataclass(slots=True)
class StandIn:
    """An object of an unavailable class: its name and its attributes."""

    name: Name
    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NumpyType:
    """The element type of a numpy scalar, as `f8`."""

    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The global names that a kind of file may use.

    Attributes:
        calls: for each callable name, the function that builds its result from the arguments.
        stand_in: whether objects of a class are kept as `StandIn`.
        values: names that may stand as values and are nothing more than names.
    """

    calls: Mapping[Name, Callable[[Sequence[Any]], Any]]
    stand_in: Callable[[Name], bool] = lambda name: False
    values: frozenset[Name] = frozenset()


def load_pickle(data: bytes, vocabulary: Vocabulary) -> Any:
    """What a pickle holds: dict, list, tuple, str, bytes, int, float, bool, None, `TensorStub` and `StandIn`.

    Ordered dictionaries come as dict, in their order. Keys of dictionaries are str or int.

    Raises:
        CheckpointError: if the pickle is broken or holds anything else.
    """
    try:
        return _Machine(data, vocabulary).run()
    except (IndexError, struct.error) as error:
        raise CheckpointError("its pickle is cut short or broken") from error


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
        raise CheckpointError(f"a tensor is made of {_kind(storage)}, expected a storage")
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
    return TensorStub(storage, offset, shape, steps)


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
        raise CheckpointError(f"a parameter is made of {_kind(tensor)}, expected a tensor")
    return tensor


def _path(arguments: Sequence[Any]) -> str:
    if len(arguments) > _MAX_PATH or not all(isinstance(part, str) for part in arguments):
        raise CheckpointError("a path is made of something else than strings")
    # Paths made of paths would double their length at every call.
    if sum(map(len, arguments)) > _MAX_PATH:
        raise CheckpointError(f"a path is longer than {_MAX_PATH:,} characters")
    return str(PurePosixPath(*arguments))


_CHECKPOINT_CALLS: dict[Name, Callable[[Sequence[Any]], Any]] = {
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
}

CHECKPOINT: Final = Vocabulary(calls=_CHECKPOINT_CALLS)
DATASET: Final = Vocabulary(
    calls=_CHECKPOINT_CALLS
    | {Name("pathlib", name): _path for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    # The authors moved their class from package to package; a stand-in is inert, whatever its name.
    stand_in=lambda name: name.module.split(".")[-1].startswith("dataset") and name.name.startswith("ModelDataset"),
)

_CLASSES = {Name("torch", name): dtype for name, dtype in STORAGES.items()}


def _key(value: Any) -> str | int:
    # Tuples that contain each other would take exponential time to hash.
    if type(value) is str or type(value) is int:
        return value
    raise CheckpointError(f"a dictionary has {_kind(value)} for a key, expected a string or a whole number")


def _kind(value: Any) -> str:
    return str(value) if isinstance(value, Name) else f"a {type(value).__name__}"


_MARK: Final = object()


class _Machine:
    """One run over one pickle."""

    def __init__(self, data: bytes, vocabulary: Vocabulary) -> None:
        self._data = data
        self._position = 0
        self._vocabulary = vocabulary
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        data = self._data
        while True:
            code = data[self._position]
            self._position += 1
            if code == 0x2E:  # STOP
                if len(self._stack) != 1 or self._marks:
                    raise CheckpointError("its pickle ends with another number of values than one")
                return self._stack[0]
            handler = _HANDLERS.get(code)
            if handler is None:
                raise CheckpointError(f"its pickle uses opcode 0x{code:02x}, which no checkpoint needs")
            handler(self)

    def _take(self, count: int) -> bytes:
        start = self._position
        end = start + count
        if end > len(self._data):
            raise CheckpointError("its pickle is cut short or broken")
        self._position = end
        return self._data[start:end]

    def _unsigned(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise CheckpointError("its pickle takes values that are not there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise CheckpointError("its pickle takes values that are not there")
        return self._stack[-1]

    def _text(self, count: int) -> None:
        try:
            self._stack.append(self._take(count).decode())
        except UnicodeDecodeError as error:
            raise CheckpointError("a string in its pickle is not UTF-8") from error

    # Opcodes, in the order of pickle's documentation.

    def proto(self) -> None:
        if (version := self._unsigned(1)) > 5:
            raise CheckpointError(f"its pickle is of protocol {version}, at most 5 expected")

    def frame(self) -> None:
        self._unsigned(8)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def pop(self) -> None:
        self._pop()

    def pop_mark(self) -> None:
        self._pop_to_mark()

    def duplicate(self) -> None:
        self._stack.append(self._top())

    def signed(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def long(self) -> None:
        if (count := self._unsigned(1)) > _MAX_INT_BYTES:
            raise CheckpointError(f"a whole number in its pickle has {count} bytes, at most {_MAX_INT_BYTES} expected")
        self._stack.append(int.from_bytes(self._take(count), "little", signed=True))

    def number(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def list_of(self) -> None:
        self._stack.append(self._pop_to_mark())

    def tuple_of(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def tuple_last(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def dict_of(self) -> None:
        values = self._pop_to_mark()
        self._stack.append({})
        self._set(values)

    def append(self) -> None:
        value = self._pop()
        self._extend([value])

    def appends(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise CheckpointError(f"its pickle appends to {_kind(target)}, expected a list")
        target.extend(values)

    def set_item(self) -> None:
        value = self._pop()
        self._set([self._pop(), value])

    def set_items(self) -> None:
        self._set(self._pop_to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, StandIn):  # of a class that is a dictionary
            target = target.attributes
        if not isinstance(target, dict) or len(values) % 2:
            raise CheckpointError(f"its pickle sets items of {_kind(target)}, expected pairs for a dictionary")
        for index in range(0, len(values), 2):
            target[_key(values[index])] = values[index + 1]

    def name(self) -> None:
        parts = []
        for _ in range(2):
            end = self._data.find(b"\n", self._position)
            if end < 0:
                raise CheckpointError("its pickle is cut short or broken")
            parts.append(self._take(end - self._position).decode("utf-8", "replace"))
            self._position += 1
        self._named(parts[0], parts[1])

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise CheckpointError("its pickle names something by no string")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        global_name = Name(module, name)
        vocabulary = self._vocabulary
        known = global_name in vocabulary.calls or global_name in _CLASSES or global_name in vocabulary.values
        if not known and not vocabulary.stand_in(global_name):
            raise CheckpointError(
                f"its pickle names {global_name}, which is not needed for tensors; nothing of it was run"
            )
        self._stack.append(global_name)

    def call(self) -> None:
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple) or called not in self._vocabulary.calls:
            raise CheckpointError(f"its pickle calls {_kind(called)}, which is nothing to build data with")
        self._stack.append(self._vocabulary.calls[called](arguments))

    def new_object(self) -> None:
        arguments, class_name = self._pop(), self._pop()
        plain = isinstance(arguments, tuple) and all(isinstance(part, str) for part in arguments[:1])
        if not isinstance(class_name, Name) or not self._vocabulary.stand_in(class_name) or not plain or arguments[1:]:
            raise CheckpointError(
                f"its pickle makes an object of {_kind(class_name)}, which is nothing to build data with"
            )
        self._stack.append(StandIn(class_name))

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, NumpyType):
            if not isinstance(state, tuple) or ">" in state[:2]:
                raise CheckpointError("a numpy type is not of little-endian numbers")
        elif isinstance(target, StandIn):
            if target.name in self._vocabulary.values:  # of which no attributes are needed
                return
            if not isinstance(state, dict):
                raise CheckpointError(f"the state of a {target.name} is {_kind(state)}, expected its attributes")
            target.attributes = state  # not copied: see `_ordered_dict`
        elif not isinstance(target, dict):  # an ordered dictionary's attributes (`_metadata`) are dropped
            raise CheckpointError(f"its pickle gives a state to {_kind(target)}, expected an ordered dictionary")

    def persistent(self) -> None:
        value = self._pop()
        if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
            raise CheckpointError("its pickle refers to something else than a storage")
        _, kind, key, _, count = value[:5]
        dtype = _CLASSES.get(kind) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise CheckpointError("a storage is not described by its type, key, device and number of elements")
        self._stack.append(Storage(key, dtype, count))

    def put(self, count: int) -> None:
        self._memo[self._unsigned(count)] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, count: int) -> None:
        index = self._unsigned(count)
        if index not in self._memo:
            raise CheckpointError("its pickle recalls a value that it never kept")
        self._stack.append(self._memo[index])


def _push(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(value)


_HANDLERS: Final[Mapping[int, Callable[[_Machine], None]]] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop,
    ord("1"): _Machine.pop_mark,
    ord("2"): _Machine.duplicate,
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("J"): _Machine.signed,
    ord("K"): lambda machine: machine._stack.append(machine._unsigned(1)),
    ord("M"): lambda machine: machine._stack.append(machine._unsigned(2)),
    0x8A: _Machine.long,
    ord("G"): _Machine.number,
    ord("X"): lambda machine: machine._text(machine._unsigned(4)),
    0x8C: lambda machine: machine._text(machine._unsigned(1)),
    0x8D: lambda machine: machine._text(machine._unsigned(8)),
    ord("B"): lambda machine: machine._stack.append(machine._take(machine._unsigned(4))),
    ord("C"): lambda machine: machine._stack.append(machine._take(machine._unsigned(1))),
    0x8E: lambda machine: machine._stack.append(machine._take(machine._unsigned(8))),
    ord(")"): _push(()),
    ord("t"): _Machine.tuple_of,
    0x85: lambda machine: machine.tuple_last(1),
    0x86: lambda machine: machine.tuple_last(2),
    0x87: lambda machine: machine.tuple_last(3),
    ord("]"): lambda machine: machine._stack.append([]),
    ord("l"): _Machine.list_of,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("}"): lambda machine: machine._stack.append({}),
    ord("d"): _Machine.dict_of,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("c"): _Machine.name,
    0x93: _Machine.stack_name,
    ord("R"): _Machine.call,
    0x81: _Machine.new_object,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
    ord("q"): lambda machine: machine.put(1),
    ord("r"): lambda machine: machine.put(4),
    0x94: _Machine.memoize,
    ord("h"): lambda machine: machine.get(1),
    ord("j"): lambda machine: machine.get(4),
}
