"""Lists of layers as JSON values, there and back: how a network travels with its weights.

    [{"conv": {"name": "conv1", "in_channels": 1, "out_channels": 8, "kernel": 5}}, "activate", "flatten", …]

A layer is the name of its kind, `batch_norm` for `BatchNorm`, and the fields of its class, nested where they are layers
themselves. Fields that have their default are left out, and a layer without any other is its name alone, so that a
further field of a kind changes no document that there is.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from zoo_datasets.documents import brief, problems_of
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.networks import layers as package
from zoo_datasets.networks.layers.base import INPUTS, Layer
from zoo_datasets.networks.layers.chain import build_layout, flat_layers
from zoo_datasets.networks.layers.passes import ModuleBuild
from zoo_datasets.networks.layout import MAX_SIZE

MAX_LAYERS = 4096  # of a list, those within others included
MAX_NESTING = 16
# Of a network's own module, where layers may not stand.
_TAKEN = re.compile(r"_chain|activation|dropout\d+")
_BARE = nn.Module()
_PART = re.compile(r"[A-Za-z0-9_]+")
_NAME_LENGTH = 200

Nested = Callable[[Any, str], tuple[Layer, ...]]


@dataclass(frozen=True, slots=True)
class LayerField:
    """A field of a kind of layer.

    Attributes:
        nested: whether it holds layers.
        inputs: whether it is what the layer before gives.
    """

    name: str
    hint: Any
    nested: bool
    inputs: bool
    required: bool

    def checked(self, value: Any, where: str) -> Any:
        """A JSON value as the field's, lists as tuples.

        Raises:
            SpecError: naming the place, what was expected and what is there.
        """
        try:
            return _adapter(self.hint).validate_python(_tupled(value), strict=True)
        except ValidationError as error:
            raise SpecError(problems_of(error, f"{where}.{self.name}")) from None


@dataclass(slots=True)
class LayerCount:
    """How many layers of a document were read, and how deep they lie: what a few bytes may not claim."""

    layers: int = 0

    def entries(self, value: Any, where: str, depth: int) -> Sequence[Any]:
        """The entries of a list of layers, which are counted.

        Raises:
            SpecError: where it is no list, or there are too many, or these lie too deep.
        """
        if not isinstance(value, (list, tuple)):
            raise SpecError(f"{where}: expected a list of layers, found {brief(value)}")
        self.layers += len(value)
        if self.layers > MAX_LAYERS or depth > MAX_NESTING:
            raise SpecError(f"{where}: at most {MAX_LAYERS:,} layers, nested at most {MAX_NESTING} deep, expected")
        return value


def kind_name(kind: type[Layer]) -> str:
    """What documents call a kind: `batch_norm` for `BatchNorm`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def kind_named(name: Any, where: str) -> type[Layer]:
    """The kind that documents call so.

    Raises:
        SpecError: where there is none; names those that are near.
    """
    kinds = {kind_name(kind): kind for kind in package.KINDS}
    if isinstance(name, str) and name in kinds:
        return kinds[name]
    near = difflib.get_close_matches(str(name)[:_NAME_LENGTH], kinds, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(kinds)}"
    raise SpecError(f"{where}: there is no kind of layer named {brief(name)}; {hint}")


def fields_of(kind: type[Layer]) -> Mapping[str, LayerField]:
    """The fields of a kind by name, in their order."""
    key: Any = kind
    return _fields_of(key)


@functools.cache
def _fields_of(kind: Any) -> Mapping[str, LayerField]:
    hints = get_type_hints(kind, include_extras=True)
    missing = dataclasses.MISSING
    return {
        field.name: LayerField(
            name=field.name,
            hint=hints[field.name],
            nested=hints[field.name] == tuple[Layer, ...],
            inputs=INPUTS in getattr(hints[field.name], "__metadata__", ()),
            required=field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(kind)
    }


def layers_to_json(layers: Sequence[Layer]) -> list[Any]:
    """A list of layers as JSON values; `layers_from_json` is the inverse.

    Raises:
        SpecError: where a layer is of no kind of `KINDS`.
    """
    return [_entry_of(layer) for layer in layers]


def layers_from_json(value: Any) -> tuple[Layer, ...]:
    """The layers that `layers_to_json` gave.

    Raises:
        SpecError: naming the layer, where it is of an unknown kind, a field is missing, unknown or of a wrong value, a
            module cannot be named so, or there are more than `MAX_LAYERS` layers or 2³¹ weights.
    """
    layers = _read_list(value, "layers", LayerCount(), 1)
    check_network(layers)
    return layers


def read_entry(entry: Any, where: str) -> tuple[type[Layer], Any]:
    """The kind of an entry of a list, and what it says of it: its fields, None where nothing.

    Raises:
        SpecError: where it is no entry, or of an unknown kind.
    """
    if isinstance(entry, str):
        return kind_named(entry, where), None
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SpecError(f"{where}: expected the name of a kind of layer, or one with its fields, found {brief(entry)}")
    ((name, value),) = entry.items()
    return kind_named(name, where), value


def check_network(layers: Sequence[Layer]) -> None:
    """See that layers make a network: names of modules that can be, none twice, 1 to 2³¹ weights.

    Raises:
        SpecError: naming the tensor or the module.
    """
    try:
        size = build_layout(layers).size
    except LayoutError as error:
        raise SpecError(str(error)) from None
    if not 0 < size < MAX_SIZE:
        raise SpecError(f"layers of {size:,} weights: expected 1 to {MAX_SIZE - 1:,}")
    for layer in flat_layers(layers):
        if isinstance(name := getattr(layer, "name", "layer"), str):
            check_name(name)
    modules = ModuleBuild(nn.Module(), 0.0)
    try:
        with torch.device("meta"):  # no memory, whatever the sizes
            for layer in flat_layers(layers):
                layer.build(modules)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise SpecError(f"layers: no module can be made of them: {brief(str(error))}") from None
    _check_remembered(layers)
    if len(layers) > 1 and any(isinstance(layer, package.Module) for layer in flat_layers(layers)):
        raise SpecError("layers: a module of code is a network by itself; expected no other layers beside it")


def _check_remembered(layers: Sequence[Layer]) -> None:
    """See that what is added was remembered before, and nothing twice under one key.

    Raises:
        SpecError: naming the key.
    """
    keys: set[str] = set()
    for layer in flat_layers(layers):
        if isinstance(layer, package.Remember):
            if layer.key in keys:
                raise SpecError(f"layers: {brief(layer.key)} is remembered twice; expected a key of its own for each")
            keys.add(layer.key)
        elif isinstance(layer, package.AddRemembered) and layer.key not in keys:
            raise SpecError(f"layers: {brief(layer.key)} is added, but not remembered before")


def check_name(name: str) -> None:
    """See that a module can be called so.

    Raises:
        SpecError: where it cannot.
    """
    parts = name.split(".")
    taken = _TAKEN.fullmatch(parts[0]) or any(hasattr(_BARE, part) for part in parts)
    if taken or len(name) > _NAME_LENGTH or not all(map(_PART.fullmatch, parts)):
        why = "a name that modules use themselves" if taken else "no name of a module"
        raise SpecError(f"layer {brief(name)}: {why}; expected letters, digits and _, as conv1 or layer1.conv1")


def _entry_of(layer: Layer) -> Any:
    name = kind_name(kind_named(kind_name(type(layer)), "layers"))
    given = {}
    for field in dataclasses.fields(layer):  # type: ignore[arg-type]
        value = getattr(layer, field.name)
        if value != field.default:
            given[field.name] = layers_to_json(value) if fields_of(type(layer))[field.name].nested else _plain(value)
    return {name: given} if given else name


def _read_list(value: Any, where: str, count: LayerCount, depth: int) -> tuple[Layer, ...]:
    entries = count.entries(value, where, depth)
    return tuple(_read(entry, f"{where}[{number}]", count, depth) for number, entry in enumerate(entries))


def _read(entry: Any, where: str, count: LayerCount, depth: int) -> Layer:
    kind, given = read_entry(entry, where)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise SpecError(f"{where} ({kind_name(kind)}): expected its fields, found {brief(given)}")
    return layer_of(kind, given, where, lambda value, field: _read_list(value, f"{where}.{field}", count, depth + 1))


def layer_of(kind: type[Layer], given: Mapping[str, Any], where: str, nested: Nested) -> Layer:
    """A layer of a kind with its fields as JSON values; `nested` makes layers of those that hold some, by their names.

    Raises:
        SpecError: where a field is missing, unknown or of a wrong value.
    """
    fields = fields_of(kind)
    where = f"{where} ({kind_name(kind)})"
    unknown = [name for name in given if name not in fields]
    missing = [field.name for field in fields.values() if field.required and field.name not in given]
    if unknown or missing:
        problem = f"has no field {brief(unknown[0])}" if unknown else f"lacks {missing[0]}"
        raise SpecError(f"{where} {problem}; its fields are {', '.join(fields) or 'none'}")
    values = {
        name: nested(value, name) if fields[name].nested else fields[name].checked(value, where)
        for name, value in given.items()
    }
    return kind(**values)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
