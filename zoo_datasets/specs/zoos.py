"""The table of zoos: the 27 published ones, EuroSAT, our own, and the twins derived from them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from zoo_datasets.documents import MAX_YAML, StrPath, brief, parse_yaml, read_text
from zoo_datasets.errors import DocumentError, SpecError, UnknownNameError
from zoo_datasets.specs.axes import FURTHER_AXES, GRID_FIELDS, Drawn
from zoo_datasets.specs.bounds import is_factory
from zoo_datasets.specs.images import Pixels
from zoo_datasets.specs.names import check_own, names_of, unknown_names
from zoo_datasets.specs.spec import OWN_ARCHITECTURE, Scope, SparsifierName, ZooSpec

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TWIN_EPOCHS = {"variational_dropout": 25, "magnitude": 15}
_PROBLEMS = 5  # of a spec that a message names
# What a zoo of one's own may leave out; a run and a repository record the values, as if they had been given.
DEFAULTS: Final[Mapping[str, Any]] = {
    "activation": "tanh", "init": "kaiming_uniform", "weight_decay": 0.0, "seeds": 10,
}  # fmt: skip
MAGNITUDE_PERCENTS = tuple(range(10, 100, 10))

_DOI = "10.5281/zenodo."
_GRID: dict[str, Any] = {
    "activation": ("tanh", "relu", "sigmoid", "gelu"),
    "init": ("uniform", "normal", "kaiming_uniform", "kaiming_normal"),
    "dropout": (0.0, 0.5),
    "optimizer": ("adam", "sgd"),
    "lr": (1e-3, 1e-4),
    "weight_decay": (1e-2, 1e-3),
}
_SVHN_GRID = _GRID | {
    "dropout": (0.0, 0.3, 0.5), "optimizer": ("sgd",), "lr": (1e-2, 1e-3, 1e-4), "weight_decay": (0.0, 1e-3, 1e-1),
}  # fmt: skip


def _family(
    images: str,
    architecture: str,
    *,
    seed: tuple[str, str, float, float],
    grid: dict[str, Any] | None = None,
    doi: int,
) -> list[ZooSpec]:
    """The seed zoo of one image dataset and architecture, and its two hyperparameter zoos."""
    activation, init, lr, weight_decay = seed
    name = f"{images}_{architecture}"
    common: dict[str, Any] = {
        "images": images, "architecture": architecture, "epochs": 50, "doi": f"{_DOI}{doi}", "published": True,
    }  # fmt: skip
    point: dict[str, Any] = {
        "activation": (activation,), "init": (init,), "optimizer": ("adam",), "lr": (lr,),
        "weight_decay": (weight_decay,),
    }  # fmt: skip
    zoos = [ZooSpec(name=name, seeds=1000, **point, **common)]
    if grid is not None:
        zoos.append(ZooSpec(name=f"{name}_hyp_fix", seeds=10, **grid, **common))
        zoos.append(ZooSpec(name=f"{name}_hyp_rand", seeds=10, seed_kind="random", entropy=42, **grid, **common))
    return zoos


def _resnet(images: str, lr: float, batch_size: int, epochs: int, augmentation: Any, doi: int | None) -> ZooSpec:
    return ZooSpec(
        name=f"{images}_resnet18", images=images, architecture="resnet18", epochs=epochs,
        activation=("relu",), init=("kaiming_uniform",), optimizer=("sgd",), lr=(lr,), weight_decay=(5e-4,),
        batch_size=batch_size, scheduler="onecycle", augmentation=augmentation, seeds=1000, published=True,
        doi=None if doi is None else f"{_DOI}{doi}",
    )  # fmt: skip


_GELU = ("gelu", "kaiming_uniform", 1e-4, 1e-2)
_STL10 = ("tanh", "kaiming_uniform", 1e-4, 1e-3)
_MILD = _GRID | {"weight_decay": (1e-3, 1e-4)}
_CIFAR10_GRID = _GRID | {"lr": (1e-3,)}

_DENSE: tuple[ZooSpec, ...] = (
    *_family("mnist", "cnn_s", seed=("tanh", "uniform", 3e-4, 0.0), grid=_MILD, doi=6632086),
    *_family("fashion_mnist", "cnn_s", seed=("tanh", "uniform", 3e-4, 0.0), grid=_MILD, doi=6632104),
    *_family("svhn", "cnn_s", seed=("tanh", "uniform", 3e-3, 0.0), grid=_SVHN_GRID, doi=6632120),
    *_family("usps", "cnn_s", seed=("tanh", "uniform", 3e-4, 1e-3), grid=_GRID, doi=6633626),
    *_family("cifar10", "cnn_s", seed=_GELU, grid=_CIFAR10_GRID, doi=6620868),
    *_family("cifar10", "cnn_l", seed=_GELU, grid=_CIFAR10_GRID, doi=6620868),
    *_family("stl10", "cnn_s", seed=_STL10, grid=_GRID, doi=6631783),
    *_family("stl10", "cnn_l", seed=_STL10, grid=_GRID, doi=6631783),
    _resnet("cifar10", 0.05, 256, 50, ("crop", "flip"), None),
    _resnet("cifar100", 0.1, 128, 60, ("crop", "flip"), None),
    _resnet("tiny_imagenet", 0.1, 128, 60, ("flip", "rotate"), None),
    # Of EuroSAT only the initialisation, the counts and the epochs are published; the rest is CIFAR-10's.
    ZooSpec(
        name="eurosat_cnn_s", images="eurosat", architecture="cnn_s", epochs=50,
        activation=("gelu",), init=("kaiming_uniform",), optimizer=("adam",), lr=(1e-4,), weight_decay=(1e-2,),
        seeds=1000, doi=f"{_DOI}8141666",
    ),
    # Our own: real images that need no download, learnt in seconds.
    ZooSpec(
        name="digits_cnn_s", images="digits", architecture="cnn_s", epochs=50,
        activation=("tanh",), init=("kaiming_uniform",), optimizer=("adam",), lr=(1e-3,), weight_decay=(0.0,),
        seeds=1000,
    ),
)  # fmt: skip

_SMALL_CNN: dict[str, Any] = {
    "architecture": "small_cnn", "epochs": 86, "checkpoints": (0, 1, 2, 3, 20, 40, 60, 80, 86),
    "activation": ("relu", "tanh"), "optimizer": ("adam", "sgd", "rmsprop"), "momentum": 0.0, "batch_size": 512,
    "init": ("glorot_normal", "he_normal", "normal", "truncated_normal", "orthogonal"),
    "init_std": Drawn("log_uniform", 1e-3, 0.5), "b_init": (0.0,), "dropout": Drawn("uniform", 0.0, 0.7),
    "lr": Drawn("log_uniform", 5e-4, 5e-2), "weight_decay": Drawn("log_uniform", 2e-8, 2e-2),
    "train_fraction": (0.1, 0.25, 0.5, 1.0), "random_points": 30_000, "seeds": 1, "seed_kind": "random",
}  # fmt: skip
# Random searches as published (Unterthiner et al. 2020), of as many members; and small populations of later papers'
# networks. The weight decay is twice the published factor of the squared weights, and here falls on biases too.
_FURTHER: tuple[ZooSpec, ...] = (
    *(
        ZooSpec(name=f"{images}_small_cnn", images=images, entropy=entropy, **_SMALL_CNN)
        for entropy, images in enumerate(("mnist", "fashion_mnist", "cifar10", "svhn"), 1)
    ),
    # As the runs of G.pt (Peebles et al. 2022).
    ZooSpec(
        name="mnist_mlp", images="mnist", architecture="mlp", epochs=25,
        activation=("relu",), init=("kaiming_uniform",), optimizer=("sgd_nesterov",), lr=(0.1,), weight_decay=(5e-4,),
        batch_size=128, scheduler="cosine", seeds=1000,
    ),
    *(
        ZooSpec(
            name=f"cifar10_resnet18_w{width}", images="cifar10", architecture=f"resnet18_w{width}", epochs=50,
            activation=("relu",), init=("kaiming_uniform",), optimizer=("sgd",), lr=(0.05,), weight_decay=(5e-4,),
            batch_size=256, scheduler="onecycle", augmentation=("crop", "flip"), seeds=1000,
        )
        for width in (4, 8)
    ),
)  # fmt: skip
# A network of sines for each image, as DWSNets (Navon et al. 2023) fit theirs: model i to image i − 1, the training
# images first. An epoch is 100 steps over the whole image.
_FIELDS: tuple[ZooSpec, ...] = tuple(
    ZooSpec(
        name=f"{images}_siren",
        images=images,
        architecture="siren",
        epochs=10,
        checkpoints=(0, 1, 2, 5, 10),
        activation=("none",),
        init=("siren",),
        optimizer=("adam",),
        lr=(5e-4,),
        weight_decay=(0.0,),
        batch_size=784,
        seeds=70_000,
    )
    for images in ("mnist", "fashion_mnist")
)
_DENSE = (*_DENSE, *_FURTHER, *_FIELDS)

# The table: dense zoos by name; that of a twin follows from its parent's.
ZOOS: dict[str, ZooSpec] = {zoo.name: zoo for zoo in _DENSE}
if len(ZOOS) != len(_DENSE):
    raise ValueError(f"the table of zoos repeats a name: {[zoo.name for zoo in _DENSE]}")

_TWIN_NAME = re.compile(r"(?P<parent>.+)_(?:sparse|magnitude(?P<percent>[1-9]\d?))")
_TWIN_SUFFIX = r"_(?:sparse|magnitude\d+(?:\.\d+)?{})(?:_layer)?$"


def twin_of(
    parent: ZooSpec,
    sparsifier: SparsifierName = "variational_dropout",
    *,
    epochs: int | None = None,
    amount: float | None = None,
    scope: Scope | None = None,
) -> ZooSpec:
    """The sparsified twin of a dense zoo; by pruning of a share of the weights where there is an `amount`.

    Its learning rate is constant: the parent's schedule ended with the parent's training.
    """
    suffix = "sparse" if sparsifier == "variational_dropout" else sparsifier
    suffix += "" if amount is None else f"{round(100 * amount, 6):g}"
    suffix += "_layer" if scope == "layer" else ""
    return dataclasses.replace(
        parent,
        name=f"{parent.name}_{suffix}",
        epochs=epochs or TWIN_EPOCHS[sparsifier],
        parent=parent.name,
        sparsifier=sparsifier,
        amount=amount,
        scope=scope,
        scheduler=None,
        decay_epochs=(),
        decay_factor=(),
        warmup_epochs=(),
        checkpoints=None,
        every_steps=None,
        doi=None,
        published=False,
    )


def _magnitude_twin(parent: ZooSpec, percent: int) -> ZooSpec:
    return twin_of(parent, "magnitude", amount=percent / 100, scope="global")


def dense_name(name: str, sparsifier: SparsifierName | None = None) -> str:
    """The name of a twin's parent zoo: `mnist_cnn_s` of `mnist_cnn_s_sparse`; other names are their own.

    `sparsifier` is how the twins are known to have been made; those of `TWIN_EPOCHS` are recognised by the name alone.
    """
    predefined = sparsifier is None or sparsifier in TWIN_EPOCHS
    other = "" if predefined else rf"|{re.escape(str(sparsifier))}(?:\d+(?:\.\d+)?)?"
    return re.sub(_TWIN_SUFFIX.format(other), "", name)


def twins_of(zoo: ZooSpec) -> list[ZooSpec]:
    """The twins that are listed beside a dense zoo: none of fields; magnitude-pruned ones exist for EuroSAT only."""
    if zoo in _FIELDS:
        return []
    percents = MAGNITUDE_PERCENTS if zoo.images == "eurosat" else ()
    return [twin_of(zoo), *(_magnitude_twin(zoo, percent) for percent in percents)]


def list_zoos() -> list[ZooSpec]:
    """All dense zoos: the 27 published ones in the paper's order, then ours. `twins_of` gives their twins."""
    return list(ZOOS.values())


def get_zoo(name: str) -> ZooSpec:
    """The zoo of that name, dense or twin (`…_sparse`, `…_magnitude50`).

    Raises:
        UnknownNameError: if the table has no such name; names those that are near.
    """
    if name in ZOOS:
        return ZOOS[name]
    twin = _TWIN_NAME.fullmatch(name)
    if twin and twin["parent"] in ZOOS and ZOOS[twin["parent"]] not in _FIELDS:
        parent = ZOOS[twin["parent"]]
        return _magnitude_twin(parent, int(twin["percent"])) if twin["percent"] else twin_of(parent)
    names = [spec.name for zoo in ZOOS.values() for spec in (zoo, *twins_of(zoo))]
    raise UnknownNameError("zoo", name, names, "`zoo list` shows all; a .yaml file describes a zoo of your own")


def zoo_from_dict(value: Any, origin: str) -> ZooSpec:
    """A zoo from plain data (YAML, JSON), each field checked; a lone value stands for a list of one.

    Raises:
        SpecError: if a field is missing, unknown or of a wrong value; names `origin` and each such field.
    """
    from pydantic import ValidationError

    if not isinstance(value, dict):
        raise SpecError(f"{origin}: expected a mapping of the fields of a zoo, found {type(value).__name__}")
    try:
        value = _with_own_architecture(value, origin)
    except SpecError as error:
        raise SpecError(str(error) if origin in str(error) else f"{origin}: {error}") from None
    value = _with_own_images(value, origin)
    value = _with_random_points(value, origin)
    lists = (*GRID_FIELDS, *FURTHER_AXES, "augmentation", "checkpoints")
    prepared = {
        key: [item] if key in lists and not (item is None or isinstance(item, (list, Drawn))) else item
        for key, item in value.items()
    }
    try:
        zoo = _adapter().validate_python(prepared, extra="forbid")
    except ValidationError as error:
        # Ranges are read before, so that what pydantic says of a value that is none is of no use.
        problems = [_explain(problem) for problem in error.errors() if Drawn.__name__ not in problem["loc"]]
        raise SpecError(f"{origin}: {'; '.join(problems[:_PROBLEMS])}") from error
    unknown = itertools.islice(unknown_names(zoo), _PROBLEMS)
    problems = [
        f"{place}: expected one of {', '.join(map(repr, names_of(place.split('.')[0])))}, found {brief(name)}"
        for place, name in unknown
    ]
    if problems:
        raise SpecError(f"{origin}: " + "; ".join(problems))
    try:
        check_own(zoo)
    except SpecError as error:
        raise SpecError(f"{origin}: {error}") from None
    return zoo


def _with_own_architecture(value: dict[str, Any], origin: str) -> dict[str, Any]:
    """The fields of a zoo, an architecture of one's own told as they tell it: its name, its layers, its input size.

    It may be given as a list of layers, which is then named as the zoo is, or as a mapping of the three.
    """
    own = value.get("architecture")
    if isinstance(own, str) and _is_code(own):
        return value | {"architecture": _name_of_code(own), "layers": [{"module": {"factory": own}}]}
    if isinstance(own, list):
        own = [_with_code(one) for one in own]
    if isinstance(own, list) and _are_several(own):
        return _with_several(value, own, origin)
    if isinstance(own, list):
        own = {"layers": own}
    if not isinstance(own, dict):
        return value
    unknown = sorted(map(str, own.keys() - {"name", *OWN_ARCHITECTURE}))
    if unknown or "layers" not in own:
        problem = f"unknown field {brief(unknown[0])}" if unknown else "it lacks layers"
        raise SpecError(f"{origin}: architecture: {problem}; expected a name, a list of layers, or name and layers")
    parts = {name: own[name] for name in OWN_ARCHITECTURE if name in own}
    return value | {"architecture": own.get("name", value.get("name"))} | parts


def _is_code(architecture: Any) -> bool:
    """Whether it is a name as `my_package.models:make_model`, which no architecture of the table has."""
    return isinstance(architecture, str) and ":" in architecture


def _name_of_code(name: str) -> str:
    """What an architecture of code is called.

    Raises:
        SpecError: if this is no name of a function.
    """
    if not is_factory(name):
        raise SpecError(f"architecture: expected a function as my_package.models:make_model, found {brief(name)}")
    return name.replace(":", ".")


def _with_code(one: Any) -> Any:
    """An element of a list of architectures, that of code with its name and layers."""
    return {"name": _name_of_code(one), "layers": [{"module": {"factory": one}}]} if _is_code(one) else one


def _defaults_of(value: dict[str, Any]) -> Mapping[str, Any]:
    """`DEFAULTS`, and of networks of code the activation and initialisation that leave these to it."""
    own = value.get("architecture")
    layers = own.get("layers") if isinstance(own, dict) else own if isinstance(own, list) else [own]
    entries = [one.get("layers", one) if isinstance(one, dict) else one for one in layers or ()]
    entries = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in entries]
    if entries and all(_is_code(one) or (isinstance(one, dict) and set(one) == {"module"}) for one in entries):
        return {**DEFAULTS, "activation": "none", "init": "module"}
    return DEFAULTS


def _are_several(own: list[Any]) -> bool:
    """Whether a list is one of architectures, and not of layers: names of the table, or mappings of name and layers."""
    is_architecture = importlib.import_module("zoo_datasets.networks.architectures").is_architecture
    return bool(own) and all(
        is_architecture(one) or (isinstance(one, dict) and "layers" in one and "name" in one) for one in own
    )


def _with_several(value: dict[str, Any], several: list[Any], origin: str) -> dict[str, Any]:
    for one in several:
        if isinstance(one, dict) and (unknown := sorted(map(str, one.keys() - {"name", "layers"}))):
            raise SpecError(f"{origin}: architecture: unknown field {brief(unknown[0])}; expected name and layers")
    names = [one["name"] if isinstance(one, dict) else one for one in several]
    own = [one for one in several if isinstance(one, dict)]
    return value | {"architecture": names[0], "variant": names} | ({"layers": own} if own else {})


def _with_own_images(value: dict[str, Any], origin: str) -> dict[str, Any]:
    """The fields of a zoo, images of one's own told as they tell them: their name, and the fields of `Pixels`."""
    own = value.get("images")
    if not isinstance(own, dict):
        return value
    known = ["name", *(entry.name for entry in dataclasses.fields(Pixels))]
    unknown = sorted(map(str, own.keys() - set(known)))
    if unknown or "name" not in own:
        problem = f"unknown field {brief(unknown[0])}" if unknown else "they lack a name"
        raise SpecError(f"{origin}: images: {problem}; expected a name of the table, or {', '.join(known)}")
    pixels = {name: item for name, item in own.items() if name != "name"}
    return value | {"images": own["name"], "pixels": pixels}


def _with_random_points(value: dict[str, Any], origin: str) -> dict[str, Any]:
    """The fields of a zoo, those of its axes that are ranges read, and `points` under its full name."""
    if "points" in value:
        if "random_points" in value:
            raise SpecError(f"{origin}: points and random_points are the same; give one of them")
        value = {"random_points" if key == "points" else key: item for key, item in value.items()}
    return {
        key: _drawn(key, item, origin) if key in (*GRID_FIELDS, *FURTHER_AXES) and isinstance(item, dict) else item
        for key, item in value.items()
    }


def _number(value: Any) -> float | None:
    """A number, which YAML 1.1 reads as a text where it is 1e-3; None of what is none."""
    try:
        return float(value) if type(value) in (int, float, str) else None
    except (ValueError, OverflowError):
        return None


def _drawn(axis: str, value: dict[Any, Any], origin: str) -> Drawn:
    kind, given = next(iter(value.items()), (None, None))
    ends = [_number(end) for end in given] if isinstance(given, (list, tuple)) else []
    low, high = ends if len(ends) == 2 else (None, None)
    if len(value) != 1 or kind not in ("uniform", "log_uniform") or low is None or high is None:
        raise SpecError(
            f"{origin}: {axis}: expected a value, a list of them, or a range as {{log_uniform: [0.001, 0.1]}} or "
            f"{{uniform: [0, 0.5]}}, found {brief(value)}"
        )
    try:
        return Drawn(kind, low, high)
    except ValueError as error:
        raise SpecError(f"{origin}: {axis}: {error}") from None


@functools.cache
def _adapter() -> TypeAdapter[ZooSpec]:
    """Made once, and not before a spec is read: pydantic is slow to import."""
    from pydantic import TypeAdapter

    return TypeAdapter(ZooSpec)


@dataclass(frozen=True, slots=True)
class ZooFile:
    """What a YAML file says: the zoo, and where images of one's own lie on this machine, which no zoo records."""

    zoo: ZooSpec
    images: Path | None


def read_zoo(path: StrPath, tell: Callable[[str], None] | None = None) -> ZooSpec:
    """A user's own zoo from a YAML file with the fields of `ZooSpec`; those of `DEFAULTS` may be left out.

    Args:
        tell: called with a line that names the defaults, if any were taken.

    Raises:
        SpecError: if a field is missing, unknown or of a wrong value; names the file and each such field.
    """
    return read_zoo_file(path, tell).zoo


def read_zoo_file(path: StrPath, tell: Callable[[str], None] | None = None) -> ZooFile:
    """The same, and the `path` of its images, which is relative to the file's folder."""
    path = Path(path)
    try:
        value = parse_yaml(read_text(path, MAX_YAML))
    except (OSError, DocumentError) as error:
        raise SpecError(f"{path} could not be read as YAML: {error}") from error
    folder = None
    if isinstance(value, dict) and isinstance(value.get("images"), dict) and "path" in value["images"]:
        value = value | {"images": dict(value["images"])}
        folder = value["images"].pop("path")
        if not isinstance(folder, str) or "\0" in folder:
            raise SpecError(f"{path}: images.path: expected a folder, found {brief(folder)}")
    defaults = _defaults_of(value) if isinstance(value, dict) else {}
    missing = {name: default for name, default in defaults.items() if name not in value}
    zoo = zoo_from_dict(value | missing if missing else value, str(path))
    if missing and tell is not None:
        tell(f"{path}: by default {', '.join(f'{name} {default}' for name, default in missing.items())}")
    if zoo.parent or zoo.sparsifier:
        raise SpecError(f"{path}: parent, sparsifier: a zoo of your own is dense; twins are made from its run")
    return ZooFile(zoo, None if folder is None else path.parent / Path(folder).expanduser())


def _explain(problem: Any) -> str:
    parts = (str(part)[:40] for part in problem["loc"])
    field = ".".join(part for part in parts if not part.startswith("tuple[")) or "the zoo"
    if problem["type"] == "missing":
        return f"{field}: missing"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        fields = ", ".join(entry.name for entry in dataclasses.fields(ZooSpec))
        return f"{field}: unknown field; known are {fields}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{field}: {problem['msg']}, found {brief(problem['input'])}"
