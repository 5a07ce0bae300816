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
    """A tensor as a file describes it: a strided view of a storage, inside its bounds, no element twice.

    Attributes:
        negative: whether its elements have the other sign than the storage's (torch's negative bit).
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False

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


@dataclass(frozen=True, slots=True)
class Plain:
    """Data of a plain type that holds no tensor: a NumPy scalar, a date, a set. What it holds is not kept."""

    name: Name


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


def load_pickle(data: bytes, vocabulary: Vocabulary) -> Any:
    """What a pickle holds: dict, list, tuple, str, bytes, int, float, bool, None, `TensorStub`, `StandIn` and `Plain`.

    Ordered dictionaries come as dict, in their order. Keys of dictionaries are str, int, float, bool or None.

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
            f"a tensor has the bit {str(unknown[0])[:_SHOWN]!r}; save tensors with their bits resolved: "
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
        raise CheckpointError(f"a parameter is made of {_kind(tensor)}, expected a tensor")
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
            if kind in _TENSOR_TYPES:
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
_TENSOR_TYPES: Final = frozenset(
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
_PLAIN: Final = frozenset(Name(module, name) for module, names in _PLAIN_NAMES.items() for name in names.split())
_DICTIONARIES: Final = frozenset(
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
    **dict.fromkeys(_DICTIONARIES, _first_dictionary),
    **_PATHS,
}

_ALONE = "save the state dict alone: torch.save(model.state_dict(), path)"
# What to do about tensors that are no rows of plain numbers.
_CONVERT: Final[Mapping[str, str]] = {
    "_rebuild_sparse_tensor": "save tensor.to_dense()",
    "_rebuild_qtensor": "save tensor.dequantize()",
    "ComplexFloatStorage": "weights are real numbers: save their real part as float32",
    "ComplexDoubleStorage": "weights are real numbers: save their real part as float32",
}
_CONVERT_OTHERS = "save plain tensors: tensor.detach().float().cpu().contiguous()"

CHECKPOINT: Final = Vocabulary(calls=_CHECKPOINT_CALLS, remedy=_ALONE)
DATASET: Final = Vocabulary(
    calls=_CHECKPOINT_CALLS,
    # The authors moved their class from package to package; a stand-in is inert, whatever its name.
    stand_in=lambda name: name.module.split(".")[-1].startswith("dataset") and name.name.startswith("ModelDataset"),
)

_SET = Name("builtins", "set")
_CLASSES = {Name("torch", name): dtype for name, dtype in STORAGES.items()}


def _key(value: Any) -> str | float | None:
    # Tuples that contain each other would take exponential time to hash.
    if value is None or type(value) in (str, int, float, bool):
        return value  # type: ignore[no-any-return]
    raise CheckpointError(f"a dictionary has {_kind(value)} for a key, expected a string or a number")


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
        if count == 1:  # most of all
            self._position += 1
            return self._data[self._position - 1]
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
        if isinstance(target, Plain):
            return
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
        if isinstance(target, Plain):
            return
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
        if not self._is_known(global_name):
            problem = f"its pickle names {global_name}, which is not needed for tensors; nothing of it was run"
            raise CheckpointError(f"{problem}{self._remedy(name)}")
        self._stack.append(global_name)

    def _is_known(self, name: Name) -> bool:
        kinds = (self._vocabulary.calls, self._vocabulary.values, _CLASSES, _TENSOR_TYPES, _PLAIN)
        return any(name in kind for kind in kinds) or self._vocabulary.stand_in(name)

    def _remedy(self, name: str) -> str:
        tensors = name.startswith("_rebuild_") or name.endswith("Storage")
        remedy = _CONVERT.get(name, _CONVERT_OTHERS) if tensors else self._vocabulary.remedy
        return f"; {remedy}" if remedy else ""

    def call(self) -> None:
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise CheckpointError(f"its pickle calls {_kind(called)}, which is nothing to build data with")
        if called in self._vocabulary.calls:
            self._stack.append(self._vocabulary.calls[called](arguments))
        elif called in _PLAIN:
            self._stack.append(Plain(called))
        else:
            raise CheckpointError(f"its pickle calls {called}, which is nothing to build data with")

    def new_object(self) -> None:
        arguments, class_name = self._pop(), self._pop()
        plain = isinstance(arguments, tuple) and all(isinstance(part, str) for part in arguments[:1])
        if isinstance(class_name, Name) and self._vocabulary.stand_in(class_name) and plain and not arguments[1:]:
            self._stack.append(StandIn(class_name))
            return
        if isinstance(class_name, Name) and (class_name in _DICTIONARIES or class_name in _PLAIN):
            self._stack.append({} if class_name in _DICTIONARIES else Plain(class_name))
            return
        raise CheckpointError(f"its pickle makes an object of {_kind(class_name)}, which is nothing to build data with")

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, NumpyType):
            if not isinstance(state, tuple) or ">" in state[:2]:
                raise CheckpointError("a numpy type is not of little-endian numbers")
        elif isinstance(target, StandIn):
            if not isinstance(state, dict):
                raise CheckpointError(f"the state of a {target.name} is {_kind(state)}, expected its attributes")
            target.attributes = state  # not copied: see `_ordered_dict`
        elif not isinstance(target, (dict, Plain)):  # an ordered dictionary's attributes (`_metadata`) are dropped
            raise CheckpointError(f"its pickle gives a state to {_kind(target)}, expected an ordered dictionary")

    def empty_set(self) -> None:
        self._stack.append(Plain(_SET))

    def frozen_set(self) -> None:
        self._pop_to_mark()
        self.empty_set()

    def add_items(self) -> None:
        self._pop_to_mark()
        if not isinstance(target := self._top(), Plain):
            raise CheckpointError(f"its pickle adds items to {_kind(target)}, expected a set")

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
    0x96: lambda machine: machine._stack.append(machine._take(machine._unsigned(8))),
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
    0x8F: _Machine.empty_set,
    0x90: _Machine.add_items,
    0x91: _Machine.frozen_set,
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
