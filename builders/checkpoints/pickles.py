"""A pickle reader that can build plain data and tensor stubs and nothing else.

It interprets the opcodes itself and never imports, calls or instantiates what a file names: a name is looked
up in the small table of a `Vocabulary`, and whatever is not there refuses the file. Work and memory are
linear in the length of the pickle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from zoo_datasets.builders.checkpoints.pickled import STORAGES, Name, NumpyType, Plain, StandIn, Storage
from zoo_datasets.builders.checkpoints.vocabulary import (
    CONVERT,
    CONVERT_OTHERS,
    DICTIONARIES,
    PLAIN,
    TENSOR_TYPES,
    Vocabulary,
    kind_of,
)
from zoo_datasets.errors import CheckpointError

_MAX_INT_BYTES = 16


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


_SET = Name("builtins", "set")
_CLASSES = {Name("torch", name): dtype for name, dtype in STORAGES.items()}


def _key(value: Any) -> str | float | None:
    # Tuples that contain each other would take exponential time to hash.
    if value is None or type(value) in (str, int, float, bool):
        return value  # type: ignore[no-any-return]
    raise CheckpointError(f"a dictionary has {kind_of(value)} for a key, expected a string or a number")


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
            raise CheckpointError(f"its pickle appends to {kind_of(target)}, expected a list")
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
            raise CheckpointError(f"its pickle sets items of {kind_of(target)}, expected pairs for a dictionary")
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
        kinds = (self._vocabulary.calls, self._vocabulary.values, _CLASSES, TENSOR_TYPES, PLAIN)
        return any(name in kind for kind in kinds) or self._vocabulary.stand_in(name)

    def _remedy(self, name: str) -> str:
        tensors = name.startswith("_rebuild_") or name.endswith("Storage")
        remedy = CONVERT.get(name, CONVERT_OTHERS) if tensors else self._vocabulary.remedy
        return f"; {remedy}" if remedy else ""

    def call(self) -> None:
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise CheckpointError(f"its pickle calls {kind_of(called)}, which is nothing to build data with")
        if called in self._vocabulary.calls:
            self._stack.append(self._vocabulary.calls[called](arguments))
        elif called in PLAIN:
            self._stack.append(Plain(called))
        else:
            raise CheckpointError(f"its pickle calls {called}, which is nothing to build data with")

    def new_object(self) -> None:
        arguments, class_name = self._pop(), self._pop()
        plain = isinstance(arguments, tuple) and all(isinstance(part, str) for part in arguments[:1])
        if isinstance(class_name, Name) and self._vocabulary.stand_in(class_name) and plain and not arguments[1:]:
            self._stack.append(StandIn(class_name))
            return
        if isinstance(class_name, Name) and (class_name in DICTIONARIES or class_name in PLAIN):
            self._stack.append({} if class_name in DICTIONARIES else Plain(class_name))
            return
        raise CheckpointError(
            f"its pickle makes an object of {kind_of(class_name)}, which is nothing to build data with"
        )

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, NumpyType):
            if not isinstance(state, tuple) or ">" in state[:2]:
                raise CheckpointError("a numpy type is not of little-endian numbers")
        elif isinstance(target, StandIn):
            if not isinstance(state, dict):
                raise CheckpointError(f"the state of a {target.name} is {kind_of(state)}, expected its attributes")
            target.attributes = state  # not copied: see `_ordered_dict`
        elif not isinstance(target, (dict, Plain)):  # an ordered dictionary's attributes (`_metadata`) are dropped
            raise CheckpointError(f"its pickle gives a state to {kind_of(target)}, expected an ordered dictionary")

    def empty_set(self) -> None:
        self._stack.append(Plain(_SET))

    def frozen_set(self) -> None:
        self._pop_to_mark()
        self.empty_set()

    def add_items(self) -> None:
        self._pop_to_mark()
        if not isinstance(target := self._top(), Plain):
            raise CheckpointError(f"its pickle adds items to {kind_of(target)}, expected a set")

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
