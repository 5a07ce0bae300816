"""Networks of a user's own: an outline of layers, as a YAML file has it, completed for images.

    - conv: {out: 16, kernel: 3, stride: 2}
    - activate
    - residual: [{conv: {out: 16, kernel: 3, padding: 1}}, activate]
    - global_average_pool
    - linear: classes

It is a list as `zoo_datasets.networks.layers.documents` describes, in which less needs to be said: what a layer reads
is what the layer before it gives, names count up (`conv1`, `conv2`, `fc1`), `out` is short for `out_channels`, a lone
value is that of the first field that is open, and `classes` is the number of classes.

Where a zoo has several widths or depths, `width` stands for that of the network, as in `out: width` or
`out: 2 * width`, and `repeat: {times: depth, layers: [...]}` for its layers that many times.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo_datasets.documents import brief
from zoo_datasets.errors import LayerError, SpecError
from zoo_datasets.networks.layers import Layer, Module
from zoo_datasets.networks.layers.documents import (
    LayerCount,
    check_name,
    check_network,
    fields_of,
    kind_name,
    layer_of,
    read_entry,
)
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass
from zoo_datasets.networks.probing import probed
from zoo_datasets.specs.bounds import is_factory

CLASSES = "classes"
REPEAT = "repeat"
_MODULE = "module"
_WIDTH = re.compile(r"(?:([1-9]\d{0,3}) ?\* ?)?width")
_TIMES = 99  # that layers may be repeated
_BATCH = 2


def complete(outline: Sequence[Any], in_channels: int, classes: int, size: int) -> tuple[Layer, ...]:
    """The layers of an outline for images of so many channels, classes, and pixels a side.

    Raises:
        SpecError: naming the layer that is of an unknown kind, whose fields are wrong, or that what comes before it
            does not fit; where the last one does not give a number for each class, or there are too many weights.
    """
    if (code := _code_of(outline)) is not None:
        module = dataclasses.replace(code, in_channels=in_channels, classes=classes, image_size=size)
        layers: tuple[Layer, ...] = (probed(module),)
        check_network(layers)
        return layers
    completion = _Completion(classes, outline)
    with torch.device("meta"):  # shapes alone: no memory, no arithmetic
        layers, out = completion.chain(outline, torch.empty(_BATCH, in_channels, size, size), "layers")
    if out is None or out.shape != (_BATCH, classes):
        shape = None if out is None else list(out.shape[1:])
        raise SpecError(f"layers: the last one gives {shape}, expected [{classes}], a number for each class")
    check_network(layers)
    return layers


def sized(outline: Sequence[Any], width: int | None, depth: int | None) -> list[Any]:
    """An outline for a network of a width and a depth, without `repeat`; None: the outline has no such size.

    Raises:
        SpecError: where a repetition is none, or there are too many layers.
    """
    return _sized_list(outline, width, depth, "layers", LayerCount(), 1)


def _sized_list(
    outline: Any, width: int | None, depth: int | None, where: str, count: LayerCount, nesting: int
) -> list[Any]:
    layers: list[Any] = []
    for number, entry in enumerate(count.entries(outline, where, nesting)):
        place = f"{where}[{number}]"
        if isinstance(entry, Mapping) and set(entry) == {REPEAT}:
            times, inside = _repetition(entry[REPEAT], depth, place)
            for _ in range(times):
                layers += _sized_list(inside, width, depth, f"{place}.{REPEAT}", count, nesting + 1)
        else:
            layers.append(_with_sizes(entry, width, depth, place, count, nesting))
    return layers


def _repetition(value: Any, depth: int | None, where: str) -> tuple[int, Any]:
    known = isinstance(value, Mapping) and set(value) == {"times", "layers"}
    times = value["times"] if known else None
    times = depth if times == "depth" else times
    if type(times) is not int or not 1 <= times <= _TIMES:
        raise SpecError(
            f"{where}: expected {{repeat: {{times: depth, layers: [...]}}}}, depth being an axis of the zoo or 1 to "
            f"{_TIMES}, found {brief(value)}"
        )
    return times, value["layers"]


def _with_sizes(value: Any, width: int | None, depth: int | None, where: str, count: LayerCount, nesting: int) -> Any:
    """A value of an entry, in which `width` and `depth` are told."""
    if isinstance(value, str) and width is not None and (match := _WIDTH.fullmatch(value)):
        return int(match[1] or 1) * width
    if value == "depth" and depth is not None:
        return depth
    if isinstance(value, Mapping):
        return {
            key: item if key == "name" else _with_sizes(item, width, depth, f"{where}.{key}", count, nesting)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return _sized_list(value, width, depth, where, count, nesting + 1)
    return value


def sizes_used(outline: Any) -> set[str]:
    """Which of `width` and `depth` an outline stands on."""
    if isinstance(outline, str):
        return {"width"} if _WIDTH.fullmatch(outline) else {"depth"} & {outline}
    inside: Sequence[Any] = ()
    if isinstance(outline, Mapping):
        inside = list(outline.values())
    elif isinstance(outline, (list, tuple)):
        inside = outline
    return set[str]().union(*map(sizes_used, inside))


def check_outline(outline: Sequence[Any]) -> None:
    """See that an outline is one, as far as can be said before the images are known.

    Raises:
        SpecError: naming the layer that is of an unknown kind, or whose fields are wrong.
    """
    if _code_of(outline) is None:
        _Completion(1, outline).chain(outline, None, "layers")


def is_code(outline: Any) -> bool:
    """Whether an outline is of a network that code of a user's own makes."""
    return isinstance(outline, (list, tuple)) and len(outline) == 1 and _names_code(outline[0])


def _names_code(entry: Any) -> bool:
    return isinstance(entry, Mapping) and set(entry) == {_MODULE}


def _code_of(outline: Any) -> Module | None:
    """The layer of a network that code makes, as far as it is known without it; None of other outlines.

    Raises:
        SpecError: where the function's name is none, or an argument can be none.
    """
    if not is_code(outline):
        if isinstance(outline, (list, tuple)) and any(map(_names_code, outline)):
            raise SpecError("layers: a module of code is a network by itself; expected no other layers beside it")
        return None
    where, value = "layers[0]", outline[0][_MODULE]
    given = dict(value) if isinstance(value, Mapping) else {"factory": value}
    if unknown := sorted(map(str, given.keys() - {"factory", "arguments"})):
        raise SpecError(f"{where} (module): has no field {brief(unknown[0])}; its fields are factory, arguments")
    if not is_factory(given.get("factory")):
        found = brief(given.get("factory"))
        raise SpecError(f"{where} (module): expected a function as my_package.models:make_model, found {found}")
    arguments = given.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise SpecError(f"{where} (module): arguments: expected a mapping of names, found {brief(arguments)}")
    document = {
        "factory": given["factory"], "in_channels": 1, "classes": 1, "image_size": 1, "parts": [],
        "arguments": [[name, value] for name, value in arguments.items()],
    }  # fmt: skip
    layer = layer_of(Module, document, where, lambda inner, name: ())
    assert isinstance(layer, Module)
    return layer


class _Completion:
    """An outline while its layers are made, in forward order."""

    def __init__(self, classes: int, outline: Any) -> None:
        self._classes = classes
        self._count = LayerCount()
        self._given = frozenset(_names_in(outline))
        self._numbers: Counter[str] = Counter()
        self._modules = ModuleBuild(nn.Module(), 0.0)
        self._remembered: dict[str, Tensor] = {}

    def chain(
        self, outline: Any, x: Tensor | None, where: str, depth: int = 1
    ) -> tuple[tuple[Layer, ...], Tensor | None]:
        """The layers of a list, and what they make of x; None where shapes are not followed."""
        layers = []
        for number, entry in enumerate(self._count.entries(outline, where, depth)):
            place = f"{where}[{number}]"
            layers.append(self._layer(entry, x, place, depth))
            x = None if x is None else self._after(layers[-1], x, place)
        return tuple(layers), x

    def _layer(self, entry: Any, x: Tensor | None, where: str, depth: int) -> Layer:
        kind, value = read_entry(entry, where)
        given = self._spelled(kind, value, where)
        for field in fields_of(kind).values():
            if field.inputs:
                given.setdefault(field.name, 1 if x is None else x.shape[1])
        if "name" in fields_of(kind) and "name" not in given:
            given["name"] = self._next_name(kind)
        layer = layer_of(kind, given, where, lambda inner, name: self.chain(inner, x, f"{where}.{name}", depth + 1)[0])
        if "name" in given:
            check_name(given["name"])
        return layer

    def _spelled(self, kind: type[Layer], value: Any, where: str) -> dict[str, Any]:
        """What an entry says of a layer, by the full names of its fields."""
        fields = fields_of(kind)
        if value is None:
            return {}
        if not isinstance(value, dict):
            open_fields = [field.name for field in fields.values() if field.name != "name" and not field.inputs]
            if not open_fields:
                raise SpecError(f"{where} ({kind_name(kind)}): it has no fields, found {brief(value)}")
            value = {open_fields[0]: value}
        spelled: dict[str, Any] = {}
        for key, item in value.items():
            longer = [name for name in fields if name.startswith(f"{key}_")]
            name = longer[0] if key not in fields and len(longer) == 1 else key
            if name in spelled:
                raise SpecError(f"{where} ({kind_name(kind)}): {name} is given twice")
            spelled[name] = self._classes if item == CLASSES and name != "name" else item
        return spelled

    def _next_name(self, kind: type[Layer]) -> str:
        stem = kind.stem or kind_name(kind)
        for number in itertools.count(self._numbers[stem] + 1):
            if f"{stem}{number}" not in self._given:
                self._numbers[stem] = number
                break
        return f"{stem}{self._numbers[stem]}"

    def _after(self, layer: Layer, x: Tensor, where: str) -> Tensor:
        """What a layer makes of x, in shapes."""
        try:
            if layer.sublayers() is None:
                layer.build(self._modules)
            modules = self._modules.root.eval()
            identities = itertools.repeat(nn.Identity())
            return layer.forward(x, ModulePass(modules.get_submodule, torch.tanh, identities, self._remembered))
        except (LayerError, RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            what = "images" if x.ndim == 4 else "vectors"
            raise SpecError(
                f"{where} ({kind_name(type(layer))}) does not fit the {what} {list(x.shape[1:])} that reach it: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None


def _names_in(outline: Any) -> Iterator[str]:
    """All names that an outline gives to layers."""
    inside: Sequence[Any] = ()
    if isinstance(outline, Mapping):
        inside = list(outline.values())
        if isinstance(outline.get("name"), str):
            yield outline["name"]
    elif isinstance(outline, (list, tuple)):
        inside = outline
    for value in inside:
        yield from _names_in(value)
