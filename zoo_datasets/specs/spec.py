"""What a zoo is, as plain frozen data: images, hyperparameters, the grid of a zoo, one member of it.

This module imports nothing of the package; tables and everything else stand on it. Which optimizers have a momentum
is looked up in their table when a grid is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

# Names of tables, which zoo_datasets.specs.names looks up.
Activation = str
Init = str
Optimizer = str
Scheduler = str
Augmentation = str
SparsifierName = str  # a name of the table in zoo_datasets.training.sparsifiers
Scope = Literal["global", "layer"]
SeedKind = Literal["range", "random"]
Grey = Literal["luma", "mean"]

GRID_FIELDS = ("activation", "init", "dropout", "optimizer", "lr", "weight_decay")
# Axes that a zoo may have besides. A zoo, a member or a run that has none of them is written as if there were none.
NETWORK_AXES = ("variant", "width", "depth")
FURTHER_AXES = (
    *NETWORK_AXES, "init_std", "b_init", "train_fraction", "clip_norm", "label_smoothing", "warmup_epochs",
    "decay_epochs", "decay_factor",
)  # fmt: skip
# What only zoos of one's own have; others are written as if there were no such fields.
OWN_ARCHITECTURE = ("layers", "input_size")
OWN_FIELDS = (*OWN_ARCHITECTURE, "pixels")
# Fields of a zoo that are written only where they are set.
OPTIONAL_FIELDS = (*OWN_FIELDS, *FURTHER_AXES, "random_points", "checkpoints", "every_steps")
SEED_LIMIT = 1_000_000
MAX_EPOCH = 1_000_000
MAX_MODELS = 500_000
MAX_BATCH = 1_000_000
MAX_SIDE = 4096  # pixels of an image
# Digits of a number that is drawn: the same on every machine, whatever the last bit of its logarithm.
_DRAWN_DIGITS = 6
_DRAWS_A_POINT = 1000  # before a point that differs from the others is given up
MAX_SIZES = (99_999, 99)  # width and depth
# Of the name of an architecture of other sizes than the table's, `resnet18_w8`.
_SIZES = re.compile(r"(?:_w[1-9]\d{0,4})?(?:_d[1-9]\d?)?$")
# Names folders and configs of repositories.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """One image dataset: where it lies and how it is prepared.

    Attributes:
        name: the name that zoos use, `cifar10`.
        hub_id: the dataset on the Hugging Face Hub; None for images that come with a library.
        architectures: the architectures this recipe is for; empty means any.
        train, val, test: number of images of the official split; `val` is cut from the training
            images, 0 means that there is none.
        val_split, test_split: names of official splits; None means cut from the training images.
        mode: PIL mode after preparation, `L` (one channel) or `RGB` (three).
        convert: whether images of another mode may be converted to `mode`.
        grey: how colours become grey: by luma (ITU-R 601-2), or as the mean of the channels.
        fit: how a size that differs from the architecture's is made to fit.
        mean, std: per channel, of pixel values scaled to [0, 1].
        raw_names: what folders of raw zoos call it besides `name`; `_` stands for `_`, `-` or nothing.
    """

    name: str
    hub_id: str | None
    hub_config: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    val_split: str | None = None
    test_split: str | None = "test"
    architectures: tuple[str, ...] = ()
    classes: int
    train: int
    val: int
    test: int
    mode: Literal["L", "RGB"]
    convert: bool = False
    grey: Grey = "luma"
    fit: Literal["resize", "crop"] = "resize"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw_names: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels after preparation."""
        return 1 if self.mode == "L" else 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """What images of one's own are made into: all that decides, besides the files, what networks see.

    Attributes:
        size: height and width; None for that of the architecture, or the images' own where it takes any.
        mode, grey, fit, mean, std: as of `ImageSpec`; without a mean and std 0.5 for each channel.
        validation: whether there are validation images: of their own folder, else cut from the training images.
    """

    size: int | None = None
    mode: Literal["L", "RGB"] = "RGB"
    grey: Grey = "luma"
    fit: Literal["resize", "crop"] = "resize"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    validation: bool = True

    def __post_init__(self) -> None:
        channels = 1 if self.mode == "L" else 3
        for name, least in (("mean", float("-inf")), ("std", 0.0)):
            values = getattr(self, name) or (0.5,) * channels
            object.__setattr__(self, name, values)
            if len(values) != channels or not all(least < value < float("inf") for value in values):
                above = " above 0" if name == "std" else ""
                raise ValueError(f"images.{name}: expected {channels} numbers{above}, one a channel, found {values}")
        if self.size is not None and not 1 <= self.size <= MAX_SIDE:
            raise ValueError(f"images.size: expected 1 to {MAX_SIDE:,}, found {self.size}")


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """One of the networks of a zoo: of an architecture, of sizes; None where the zoo has one."""

    variant: str | None = None
    width: int | None = None
    depth: int | None = None

    @property
    def suffix(self) -> str:
        """The sizes as the name of the network ends: `_w8`."""
        sizes = (("w", self.width), ("d", self.depth))
        return "".join(f"_{letter}{size}" for letter, size in sizes if size is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class HyperParameters:
    """All that varies between the members of a zoo, besides the seed.

    `momentum` is None of optimizers that have none, as Adam. The further ones, from `variant` on, are None where the
    zoo has no such axis.

    Attributes:
        variant: the architecture, of a zoo that has several.
        width, depth: sizes of the network, which its architecture says the meaning of.
        init_std: standard deviation of initialisations that take one, the gain of orthogonal ones.
        b_init: what biases start at; 0.01 where it is None.
        train_fraction: share of the training images, the first ones, that the member is trained on.
        clip_norm: gradients are scaled down to this norm, over all parameters.
        label_smoothing: as of `torch.nn.functional.cross_entropy`.
        warmup_epochs: over which the learning rate rises linearly, before the schedule begins.
        decay_epochs, decay_factor: of the schedule `step`: after every so many epochs the rate is multiplied by this.
    """

    activation: Activation
    init: Init
    dropout: float
    optimizer: Optimizer
    lr: float
    weight_decay: float
    momentum: float | None
    batch_size: int
    variant: str | None = None
    width: int | None = None
    depth: int | None = None
    init_std: float | None = None
    b_init: float | None = None
    train_fraction: float | None = None
    clip_norm: float | None = None
    label_smoothing: float | None = None
    warmup_epochs: float | None = None
    decay_epochs: int | None = None
    decay_factor: float | None = None

    @property
    def network(self) -> NetworkChoice:
        """Which of the networks of its zoo it is of."""
        return NetworkChoice(self.variant, self.width, self.depth)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; further ones that are not set are left out."""
        values = {name: getattr(self, name) for name in POINT_FIELDS}
        return values | {name: value for name in FURTHER_AXES if (value := getattr(self, name)) is not None}

    def further(self) -> dict[str, Any]:
        """The further ones that are set."""
        return {name: value for name in FURTHER_AXES if (value := getattr(self, name)) is not None}


# The fields that all zoos have.
POINT_FIELDS = tuple(entry.name for entry in dataclasses.fields(HyperParameters) if entry.name not in FURTHER_AXES)

# What each further hyperparameter may be, and how a message says so.
_FURTHER_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "variant": (lambda value: bool(NAME.fullmatch(value)), "a name"),
    "width": (lambda value: 1 <= value <= MAX_SIZES[0], f"1 to {MAX_SIZES[0]:,}"),
    "depth": (lambda value: 1 <= value <= MAX_SIZES[1], f"1 to {MAX_SIZES[1]}"),
    "init_std": (lambda value: 0 < value < float("inf"), "above 0"),
    "b_init": (lambda value: abs(value) < float("inf"), "a number"),
    "train_fraction": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "clip_norm": (lambda value: 0 < value < float("inf"), "above 0"),
    "label_smoothing": (lambda value: 0 <= value < 1, "[0, 1)"),
    "warmup_epochs": (lambda value: 0 <= value <= MAX_EPOCH, "at least 0"),
    "decay_epochs": (lambda value: 1 <= value <= MAX_EPOCH, "at least 1"),
    "decay_factor": (lambda value: 0 < value <= 1, "above 0, at most 1"),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """Values of an axis that are drawn for each point instead of listed: uniformly, or so that the logarithm is."""

    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float

    def __post_init__(self) -> None:
        least = 0.0 if self.kind == "log_uniform" else float("-inf")
        if not (self.low < self.high < float("inf") and self.low >= least and (self.low > least or least)):
            above = " above 0" if self.kind == "log_uniform" else ""
            raise ValueError(f"{self.kind}: expected two ascending numbers{above}, found [{self.low}, {self.high}]")

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the range."""
        if self.kind == "uniform":
            value = self.low + share * (self.high - self.low)
        else:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return min(max(float(f"{value:.{_DRAWN_DIGITS}g}"), self.low), self.high)

    def to_dict(self) -> dict[str, Any]:
        """As a YAML file has it: `{log_uniform: [low, high]}`."""
        return {self.kind: [self.low, self.high]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The first so many images of each split; None means all. Part of a model's recipe."""

    train: int | None = None
    val: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"limit on {field.name} images: expected at least 1, found {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooSpec:
    """A population: a grid of hyperparameters times seeds, on one image dataset and architecture.

    Attributes:
        activation … weight_decay: the values of each grid axis; the grid is their product.
        momentum: for members whose optimizer has one, as sgd; OneCycle cycles it between 0.85 and 0.95 instead.
        variant: names of architectures, where the zoo has several; `architecture` is the first of them. Those of one's
            own stand in `layers`, which then is a list of `{name, layers}`.
        width, depth: sizes of the networks; names then end in them, as `small_cnn_w32`.
        init_std … decay_factor: further axes, of which a zoo may have any; `HyperParameters` says what they are.
        random_points: number of points that are drawn at random, each axis by itself, instead of their product; only
            then may axes of numbers be ranges (`Drawn`). They follow from `entropy`.
        checkpoints: the epochs whose states are kept, the last one among them; None means all.
        every_steps: of the epochs that are kept, states after every so many optimizer steps of the training are kept
            too; None means none.
        seeds: number of seeds for each grid point.
        seed_kind: `range` gives every point the seeds 1..seeds; `random` draws distinct seeds from
            [0, 1,000,000) with `entropy`.
        doi: where the published zoo lies, if it is on Zenodo.
        published: whether this is one of the 27 zoos of the paper.
        layers: of an architecture of one's own, an outline as `zoo_datasets.networks.outlines` describes; None where
            `architecture` is a name of the table.
        input_size: height and width that an architecture of one's own is given; None for the images' own.
        pixels: of images of one's own, which `images` names; None where that is a name of the table.
        parent, sparsifier, amount, scope: set for twins: the dense zoo, how it is made sparse, and of pruning
            the share of weights that it removes, counted over the whole network or in each layer.
    """

    name: str
    images: str
    architecture: str
    epochs: int
    activation: tuple[Activation, ...]
    init: tuple[Init, ...]
    dropout: tuple[float, ...] | Drawn = (0.0,)
    optimizer: tuple[Optimizer, ...]
    lr: tuple[float, ...] | Drawn
    weight_decay: tuple[float, ...] | Drawn
    momentum: float = 0.9
    batch_size: int = 10
    scheduler: Scheduler | None = None
    augmentation: tuple[Augmentation, ...] = ()
    seeds: int
    seed_kind: SeedKind = "range"
    entropy: int = 0
    doi: str | None = None
    published: bool = False
    layers: tuple[Any, ...] | None = dataclasses.field(default=None, hash=False)
    input_size: int | None = None
    pixels: Pixels | None = None
    variant: tuple[str, ...] = ()
    width: tuple[int, ...] = ()
    depth: tuple[int, ...] = ()
    init_std: tuple[float, ...] | Drawn = ()
    b_init: tuple[float, ...] | Drawn = ()
    train_fraction: tuple[float, ...] | Drawn = ()
    clip_norm: tuple[float, ...] | Drawn = ()
    label_smoothing: tuple[float, ...] | Drawn = ()
    warmup_epochs: tuple[float, ...] | Drawn = ()
    decay_epochs: tuple[int, ...] = ()
    decay_factor: tuple[float, ...] | Drawn = ()
    random_points: int | None = None
    checkpoints: tuple[int, ...] | None = None
    every_steps: int | None = None
    parent: str | None = None
    sparsifier: SparsifierName | None = None
    amount: float | None = None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        problems = [message for field, bad, message in self._checks() if bad for message in [f"{field}: {message}"]]
        if problems:
            raise ValueError(f"zoo {self.name!r}: " + "; ".join(problems))

    def _checks(self) -> list[tuple[str, bool, str]]:
        checks = [
            (
                "name",
                not NAME.fullmatch(self.name),
                f"expected a-z, A-Z, 0-9, _, - and ., found {self.name[:200]!r}",
            ),
            ("epochs", self.epochs < 1, f"expected at least 1, found {self.epochs}"),
            ("epochs", self.epochs > MAX_EPOCH, f"expected at most {MAX_EPOCH:,}, found {self.epochs}"),
            ("batch_size", self.batch_size < 1, f"expected at least 1, found {self.batch_size}"),
            ("batch_size", self.batch_size > MAX_BATCH, f"expected at most {MAX_BATCH:,}, found {self.batch_size}"),
            ("seeds", not 1 <= self.seeds <= SEED_LIMIT, f"expected 1 to {SEED_LIMIT:,}, found {self.seeds}"),
            ("momentum", not 0 <= self.momentum < 1, f"expected [0, 1), found {self.momentum}"),
            ("entropy", not 0 <= self.entropy < 1 << 63, f"expected at least 0, within 63 bits, found {self.entropy}"),
            ("images", not NAME.fullmatch(self.images), f"expected a name, found {self.images[:200]!r}"),
            (
                "architecture",
                not NAME.fullmatch(self.architecture),
                f"expected a name, found {self.architecture[:200]!r}",
            ),
            (
                "input_size",
                self.input_size is not None and not 1 <= self.input_size <= MAX_SIDE,
                f"expected 1 to {MAX_SIDE:,}, found {self.input_size}",
            ),
            (
                "input_size",
                self.input_size is not None and self.layers is None,
                "is for an architecture of your own; those of the table know theirs",
            ),
            ("amount", not 0 < (self.amount or 0.5) < 1, f"expected between 0 and 1, found {self.amount}"),
        ]
        for axis in GRID_FIELDS:
            checks.append((axis, not getattr(self, axis), "expected at least one value, found none"))
        for axis in self.axes:
            values = getattr(self, axis)
            if isinstance(values, Drawn):
                lacking = f"{values.kind} is for zoos whose points are drawn; say how many with points"
                checks.append((axis, self.random_points is None, lacking))
            else:
                checks.append((axis, len(set(values)) != len(values), f"values repeat: {values}"))
        checks += [("dropout", not 0 <= rate < 1, f"expected [0, 1), found {rate}") for rate in _ends(self.dropout)]
        checks += [("lr", not 0 < rate < float("inf"), f"expected above 0, found {rate}") for rate in _ends(self.lr)]
        checks += [
            ("weight_decay", not 0 <= decay < float("inf"), f"expected at least 0, found {decay}")
            for decay in _ends(self.weight_decay)
        ]
        for axis, (fine, expected) in _FURTHER_RANGES.items():
            checks += [
                (axis, not fine(value), f"expected {expected}, found {value}") for value in _ends(getattr(self, axis))
            ]
        checks += [*self._schedule_checks(), *self._state_checks()]
        if self.random_points is not None:
            checks.append(("points", not 1 <= self.random_points <= MAX_MODELS,
                           f"expected 1 to {MAX_MODELS:,}, found {self.random_points}"))  # fmt: skip
        checks.append(("seeds", self.models > MAX_MODELS, f"{self.points:,} grid points of so many seeds are "
                       f"{self.models:,} models, at most {MAX_MODELS:,} expected"))  # fmt: skip
        return checks

    def _schedule_checks(self) -> list[tuple[str, bool, str]]:
        steps = self.scheduler == "step"
        lacking = "the schedule step needs it: the number of epochs between two decays"
        return [
            ("decay_epochs", steps and not self.decay_epochs, lacking),
            ("decay_epochs", bool(self.decay_epochs) and not steps, "is for the schedule step"),
            ("decay_factor", bool(self.decay_factor) and not steps, "is for the schedule step"),
            ("warmup_epochs", bool(self.warmup_epochs) and self.scheduler == "onecycle",
             "the schedule onecycle rises by itself; leave it out"),
        ]  # fmt: skip

    def _state_checks(self) -> list[tuple[str, bool, str]]:
        kept, every = self.checkpoints, self.every_steps
        checks = [("every_steps", every is not None and every < 1, f"expected at least 1, found {every}")]
        if kept is None:
            return checks
        ascending = all(before < after for before, after in itertools.pairwise(kept))
        fine = bool(kept) and ascending and kept[0] >= 0
        near = [epoch for epoch in kept if epoch > 0]
        return [
            *checks,
            ("checkpoints", not fine, f"expected ascending epochs, 0 or more, found {list(kept)}"),
            ("epochs", fine and self.epochs not in kept,
             f"{self.epochs} is none of the checkpoints, after which nothing would be kept; expected one of {near}"),
        ]  # fmt: skip

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of its axes: those of `GRID_FIELDS`, then the further ones that it has."""
        return (*GRID_FIELDS, *(axis for axis in FURTHER_AXES if getattr(self, axis)))

    @property
    def points(self) -> int:
        """Number of grid points: those drawn, else the product of the lengths of all lists of hyperparameters."""
        if self.random_points is not None:
            return self.random_points
        return math.prod(len(values) for axis in self.axes if not isinstance(values := getattr(self, axis), Drawn))

    @property
    def models(self) -> int:
        """Number of members: grid points times seeds."""
        return self.points * self.seeds

    @property
    def is_sized(self) -> bool:
        """Whether it has an axis of networks."""
        return any(getattr(self, axis) for axis in NETWORK_AXES)

    def networks(self) -> list[NetworkChoice]:
        """The networks of its members; one where it has no such axis."""
        axes = [getattr(self, axis) or (None,) for axis in NETWORK_AXES]
        return [NetworkChoice(*values) for values in itertools.product(*axes)]

    def architecture_of(self, network: NetworkChoice) -> str:
        """The name of one of its networks."""
        return f"{network.variant or self.architecture}{network.suffix}"

    def outline_of(self, network: NetworkChoice) -> Sequence[Any] | None:
        """The outline of one of its networks; None where it is of the table."""
        if self.layers is None or not self.variant:
            return self.layers
        outlines = {entry["name"]: entry["layers"] for entry in self.layers}
        return outlines.get(network.variant)

    def keeps(self, epoch: int) -> bool:
        """Whether the states of an epoch are kept."""
        return self.checkpoints is None or epoch in self.checkpoints

    def kept_epochs(self, last: int | None = None) -> tuple[int, ...]:
        """The epochs whose states are kept, ascending, to the last one or an earlier one; 0 is initialisation."""
        every = range((self.epochs if last is None else last) + 1)
        return tuple(every if self.checkpoints is None else (epoch for epoch in self.checkpoints if epoch in every))

    @property
    def states(self) -> int:
        """Number of checkpoints: members times the epochs that are kept, by default all, epoch 0 included. Those after
        steps within epochs, whose number depends on the images, are not counted."""
        return self.models * len(self.kept_epochs())

    def grid(self, most: int | None = None) -> list[HyperParameters]:
        """The grid points, the last axis varying fastest; or those that are drawn, the first `most` of them."""
        with_momentum = _optimizers_with_momentum()
        if self.random_points is not None:
            return self._drawn_points(min(self.random_points, most or self.random_points), with_momentum)
        axes = [getattr(self, axis) for axis in self.axes]
        return [self._point(dict(zip(self.axes, values, strict=True)), with_momentum) for values in
                itertools.product(*axes)]  # fmt: skip

    def _point(self, values: Mapping[str, Any], with_momentum: Collection[str]) -> HyperParameters:
        whole = ("decay_epochs", *NETWORK_AXES)
        numbers: dict[str, Any] = {
            axis: float(values[axis]) for axis in FURTHER_AXES if axis in values and axis not in whole
        }
        return HyperParameters(
            activation=values["activation"],
            init=values["init"],
            dropout=float(values["dropout"]),  # 0 and 0.0 are one recipe and must give one id
            optimizer=values["optimizer"],
            lr=float(values["lr"]),
            weight_decay=float(values["weight_decay"]),
            momentum=float(self.momentum) if values["optimizer"] in with_momentum else None,
            batch_size=self.batch_size,
            **{axis: values.get(axis) for axis in whole},
            **numbers,
        )

    def _drawn_points(self, count: int, with_momentum: Collection[str]) -> list[HyperParameters]:
        """Points that differ from each other, hashed like seeds, so that they follow from the spec alone."""
        points: dict[HyperParameters, None] = {}
        for number in range(count):
            for attempt in range(_DRAWS_A_POINT):
                values = {axis: self._drawn_value(axis, number, attempt) for axis in self.axes}
                point = self._point(values, with_momentum)
                if point not in points:
                    points[point] = None
                    break
            else:
                raise ValueError(f"points: {count:,} that differ cannot be drawn of these values")
        return list(points)

    def _drawn_value(self, axis: str, number: int, attempt: int) -> Any:
        values = getattr(self, axis)
        digest = int(digest_of(["point", self.entropy, axis, number, attempt]), 16)
        if isinstance(values, Drawn):
            return values.at((digest >> 75) * 2.0**-53)  # 53 of 128 bits
        return values[digest % len(values)]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values: tuples become lists; those of `OPTIONAL_FIELDS` if they are set."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        drawn = {axis: values.to_dict() for axis in self.axes if isinstance(values := getattr(self, axis), Drawn)}
        unset = {name for name in OPTIONAL_FIELDS if plain[name] is None or plain[name] == []}
        return {name: value for name, value in (plain | drawn).items() if name not in unset}

    def own(self) -> dict[str, Any]:
        """Those of `OWN_FIELDS` that are set, as JSON values."""
        if all(getattr(self, name) is None for name in OWN_FIELDS):
            return {}  # asked once a member
        return {name: value for name, value in self.to_dict().items() if name in OWN_FIELDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One model of a zoo before any training: its id, seed and hyperparameters; of a twin also its parent's id."""

    model_id: str
    seed: int
    hyperparameters: HyperParameters
    parent_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, nested as here; a dense model has no parent's."""
        value = {"model_id": self.model_id, "seed": self.seed, "hyperparameters": self.hyperparameters.to_dict()}
        return value if self.parent_id is None else value | {"parent_id": self.parent_id}

    def check(self) -> None:
        """Raise ValueError where a number is out of its range; names the member and the field."""
        point = self.hyperparameters
        within = {
            "seed": 0 <= self.seed < 1 << 63,
            "dropout": 0 <= point.dropout < 1,
            "lr": 0 < point.lr < float("inf"),
            "weight_decay": 0 <= point.weight_decay < float("inf"),
            "momentum": 0 <= (point.momentum or 0) < 1,
            "batch_size": 1 <= point.batch_size <= MAX_BATCH,
        }
        within |= {name: _FURTHER_RANGES[name][0](value) for name, value in point.further().items()}
        for field, fine in within.items():
            if not fine:
                value = getattr(self if field == "seed" else point, field)
                raise ValueError(f"member {self.model_id[:40]!r}: {field} is {value}, which it cannot be")


def members_of(zoo: ZooSpec, limits: Limits | None = None, models: int | None = None) -> list[Member]:
    """The members of a zoo in a fixed hashed order, so that prefixes nest and spread over the grid.

    Args:
        zoo: the zoo.
        limits: limits on the images, part of each member's recipe and so of its id.
        models: how many members from the front of the order; None means all.

    Raises:
        ValueError: if the zoo has fewer than `models` members.
    """
    if models is not None and not 1 <= models <= zoo.models:
        raise ValueError(f"zoo {zoo.name!r} has {zoo.models:,} members; {models:,} were asked for")
    points = zoo.grid(models)
    by_point = list(zip(points, _seeds(zoo, points), strict=True))
    if zoo.random_points is None:
        pairs = [(point, seed) for point, seeds in by_point for seed in seeds]
        pairs.sort(key=lambda pair: digest_of(["order", zoo.name, pair[0].to_dict(), pair[1]]))
    else:  # drawn points are spread already, and few of many need not all be drawn
        pairs = [(point, seeds[number]) for number in range(zoo.seeds) for point, seeds in by_point]
    return [
        Member(model_id=model_id_of(zoo, point, seed, limits or Limits()), seed=seed, hyperparameters=point)
        for point, seed in pairs[:models]
    ]


def _optimizers_with_momentum() -> set[str]:
    """Their table lies above the specs and imports torch, so it is looked up when members are made, not before."""
    table = importlib.import_module("zoo_datasets.stacked.optimizers").OPTIMIZERS
    return {name for name, kind in table.items() if kind.momentum}


def _seeds(zoo: ZooSpec, points: Sequence[HyperParameters]) -> list[list[int]]:
    """Seeds of each grid point. Random ones are hashed, not drawn from a library's generator, whose
    stream may change with its version; no two members of a zoo share one."""
    if zoo.seed_kind == "range":
        return [list(range(1, zoo.seeds + 1)) for _ in points]
    taken: set[int] = set()
    drawn: list[list[int]] = []
    for point in points:
        own: list[int] = []
        for attempt in itertools.count():
            if len(own) == zoo.seeds:
                break
            digest = digest_of(["seed", zoo.entropy, point.to_dict(), attempt])
            seed = int(digest, 16) % SEED_LIMIT
            if seed not in taken:
                own.append(seed)
                taken.add(seed)
        drawn.append(own)
    return drawn


def model_id_of(zoo: ZooSpec, point: HyperParameters, seed: int, limits: Limits) -> str:
    """Hash of all that decides the trained weights; the number of epochs only where the schedule needs it."""
    recipe = {
        "images": zoo.images,
        "architecture": zoo.architecture,
        "scheduler": zoo.scheduler,
        "epochs": zoo.epochs if zoo.scheduler else None,
        "augmentation": list(zoo.augmentation),
        "hyperparameters": point.to_dict(),
        "seed": seed,
        "limits": dataclasses.asdict(limits),
    }
    return digest_of({**recipe, **zoo.own()})


def twin_id_of(zoo: ZooSpec, parent_id: str, epoch: int, whole: bool) -> str:
    """Hash of the parent's id, its epoch, and what was done to it.

    Args:
        zoo: of the twins.
        epoch: of the parent, at which the twin begins.
        whole: whether the twin's weights depend on the number of its epochs.
    """
    recipe = {
        "parent": parent_id,
        "epoch": epoch,
        "sparsifier": zoo.sparsifier,
        "amount": zoo.amount,
        "scope": zoo.scope,
        "epochs": zoo.epochs if whole else None,
    }
    return digest_of(recipe)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def base_of(architecture: str) -> str:
    """The name of an architecture without its sizes: `resnet18` of `resnet18_w8`."""
    return _SIZES.sub("", architecture, count=1)


def digest_of(value: Any) -> str:
    """BLAKE2b (128 bit, hexadecimal) of the canonical JSON of `value`: the same on every machine."""
    return _digest(_CANONICAL.encode(value))


def digest_of_texts(*texts: str) -> str:
    """`digest_of` a list of texts, several times as fast: it is asked for each of many models."""
    return _digest(f"[{','.join(map(encode_basestring_ascii, texts))}]")


def _digest(canonical: str) -> str:
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: 0, 1, 2, 5 as `0–2, 5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)


def _ends(values: Sequence[float] | Drawn) -> tuple[float, ...]:
    """The values of an axis, or the ends of its range."""
    return (values.low, values.high) if isinstance(values, Drawn) else tuple(values)


def _plain(value: Any) -> Any:
    """Tuples become lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
