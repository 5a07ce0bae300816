"""What varies between the members of a zoo: the axes of its grid, their ranges, and a point of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from zoo_datasets.specs.bounds import MAX_EPOCH, MAX_SIZES, NAME

# Names of tables, which zoo_datasets.specs.names looks up.
Activation = str
Init = str
Optimizer = str
GRID_FIELDS = ("activation", "init", "dropout", "optimizer", "lr", "weight_decay")
# Axes that a zoo may have besides. A zoo, a member or a run that has none of them is written as if there were none.
NETWORK_AXES = ("variant", "width", "depth")
FURTHER_AXES = (
    *NETWORK_AXES, "init_std", "b_init", "train_fraction", "clip_norm", "label_smoothing", "warmup_epochs",
    "decay_epochs", "decay_factor",
)  # fmt: skip
# Digits of a number that is drawn: the same on every machine, whatever the last bit of its logarithm.
_DRAWN_DIGITS = 6
# Of the name of an architecture of other sizes than the table's, `resnet18_w8`.
_SIZES = re.compile(r"(?:_w[1-9]\d{0,4})?(?:_d[1-9]\d?)?$")


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
FURTHER_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
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


def base_of(architecture: str) -> str:
    """The name of an architecture without its sizes: `resnet18` of `resnet18_w8`."""
    return _SIZES.sub("", architecture, count=1)
