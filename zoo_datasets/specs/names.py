"""Names that fields of a zoo may have: the keys of the tables that carry them out.

The tables lie above the specs and import torch, so they are looked up when a name is checked, not before; a further
activation, initialisation, optimizer, augmentation or schedule is an entry of its table alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from typing import Final

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.specs.spec import ZooSpec

# Field of a zoo to what its names are of, and the module and name of their table.
TABLES: Final[dict[str, tuple[str, str, str]]] = {
    "activation": ("activation", "zoo_datasets.networks.layers", "ACTIVATIONS"),
    "init": ("initialisation", "zoo_datasets.stacked.initialise", "INITS"),
    "optimizer": ("optimizer", "zoo_datasets.stacked.optimizers", "OPTIMIZERS"),
    "augmentation": ("augmentation", "zoo_datasets.stacked.augmentation", "AUGMENTATIONS"),
    "scheduler": ("scheduler", "zoo_datasets.training.steps.schedules", "SCHEDULES"),
}


def names_of(field: str) -> Collection[str]:
    """The names that a field of `TABLES` may have, in the order of the table."""
    _, module, table = TABLES[field]
    return [name for name in getattr(importlib.import_module(module), table) if name is not None]


def unknown_names(zoo: ZooSpec) -> Iterator[tuple[str, str]]:
    """Each name of a zoo that stands in no table: the field, as `activation.0` or `scheduler`, and the name."""
    for field in TABLES:
        value = getattr(zoo, field)
        if value is None or value == ():
            continue
        valid = names_of(field)
        names = [(field, value)] if isinstance(value, str) else [(f"{field}.{n}", name) for n, name in enumerate(value)]
        yield from ((place, name) for place, name in names if name not in valid)


def check_own(zoo: ZooSpec) -> None:
    """See that images and an architecture of one's own have names of their own, and that this is an outline of layers;
    and that standard deviations of a grid are for initialisations that take one.

    Raises:
        SpecError: naming the field, or the layer.
    """
    if zoo.init_std and zoo.random_points is None:
        takes_std = importlib.import_module("zoo_datasets.stacked.initialise").takes_std
        others = [init for init in zoo.init if not takes_std(init)]
        if others:
            raise SpecError(f"init_std: {', '.join(others)} takes none; leave it out, or leave out {', '.join(others)}")
    if zoo.pixels is not None:
        table = importlib.import_module("zoo_datasets.images.table").IMAGES
        if zoo.images in {spec.name for spec in table}:
            raise SpecError(f"images: {zoo.images} is a name of the table; give images of your own another one")
    is_architecture = importlib.import_module("zoo_datasets.networks.architectures").is_architecture
    outlines = importlib.import_module("zoo_datasets.networks.outlines")
    _check_variants(zoo)
    codes = [outlines.is_code(zoo.outline_of(network)) for network in zoo.networks()]
    if "module" in zoo.init and not all(codes):
        raise SpecError("init: module is for architectures of your own code, all of the zoo; choose another one")
    for network in zoo.networks():
        name, outline = zoo.architecture_of(network), zoo.outline_of(network)
        if outline is None:
            if zoo.is_sized:  # else it is looked up where it is used
                importlib.import_module("zoo_datasets.networks.architectures").get_architecture(name)
            continue
        if outlines.is_code(outline):
            _check_code(zoo)
        if is_architecture(name):
            raise SpecError(f"architecture: {name} is a name of the table; give these layers another one")
        outlines.check_outline(outlines.sized(outline, network.width, network.depth))


def _check_code(zoo: ZooSpec) -> None:
    """See that nothing is asked of networks of a user's own code that they decide themselves."""
    own = {"activation": ("none",), "init": ("module",), "dropout": (0.0,), "init_std": (), "b_init": ()}
    for field, value in own.items():
        if getattr(zoo, field) != value:
            expected = f"expected {field}: {value[0]}" if value else "leave it out"
            raise SpecError(f"{field}: a network of code of your own decides it by itself; {expected}")


def _check_variants(zoo: ZooSpec) -> None:
    """See that the layers of several architectures are a list of names and layers, and that sizes are used."""
    outlines = importlib.import_module("zoo_datasets.networks.outlines")
    if zoo.variant:
        entries = zoo.layers or ()
        named = all(isinstance(one, dict) and one.keys() == {"name", "layers"} for one in entries)
        if not named or not {one["name"] for one in entries} <= set(zoo.variant):
            raise SpecError("layers: of several architectures, expected a list of {name, layers} of these names")
        if zoo.architecture != zoo.variant[0]:
            raise SpecError(f"architecture: expected the first of several, {zoo.variant[0]}, found {zoo.architecture}")
    for axis in ("width", "depth"):
        if not getattr(zoo, axis):
            continue
        for network in zoo.networks():
            outline = zoo.outline_of(network)
            if outline is not None and axis not in outlines.sizes_used(outline):
                raise SpecError(f"{axis}: the layers of {network.variant or zoo.architecture} do not use it")


def check_names(zoo: ZooSpec) -> None:
    """Raise UnknownNameError, with the names that are near, where one of the zoo's names stands in no table."""
    for place, name in unknown_names(zoo):
        field = place.split(".")[0]
        raise UnknownNameError(TABLES[field][0], name, names_of(field))
