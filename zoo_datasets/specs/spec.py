"""What a zoo is, as plain frozen data.

The modules of this folder below `names` import little of the package; tables and everything else stand on them. Which
optimizers have a momentum is looked up in their table when a grid is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

from zoo_datasets.specs.axes import (
    FURTHER_AXES,
    FURTHER_RANGES,
    GRID_FIELDS,
    NETWORK_AXES,
    Activation,
    Drawn,
    HyperParameters,
    Init,
    NetworkChoice,
    Optimizer,
)
from zoo_datasets.specs.bounds import MAX_BATCH, MAX_EPOCH, MAX_MODELS, MAX_SIDE, NAME, SEED_LIMIT
from zoo_datasets.specs.images import Pixels

# Names of tables, which zoo_datasets.specs.names looks up.
Scheduler = str
Augmentation = str
SparsifierName = str  # a name of the table in zoo_datasets.training.sparsifiers
Scope = Literal["global", "layer"]
SeedKind = Literal["range", "random"]

# What only zoos of one's own have; others are written as if there were no such fields.
OWN_ARCHITECTURE = ("layers", "input_size")
OWN_FIELDS = (*OWN_ARCHITECTURE, "pixels")
# Fields of a zoo that are written only where they are set.
OPTIONAL_FIELDS = (*OWN_FIELDS, *FURTHER_AXES, "random_points", "checkpoints", "every_steps")
_DRAWS_A_POINT = 1000  # before a point that differs from the others is given up


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
        checks += [*self._axis_checks(), *self._schedule_checks(), *self._state_checks()]
        if self.random_points is not None:
            checks.append(("points", not 1 <= self.random_points <= MAX_MODELS,
                           f"expected 1 to {MAX_MODELS:,}, found {self.random_points}"))  # fmt: skip
        checks.append(("seeds", self.models > MAX_MODELS, f"{self.points:,} grid points of so many seeds are "
                       f"{self.models:,} models, at most {MAX_MODELS:,} expected"))  # fmt: skip
        return checks

    def _axis_checks(self) -> list[tuple[str, bool, str]]:
        checks = [(axis, not getattr(self, axis), "expected at least one value, found none") for axis in GRID_FIELDS]
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
        for axis, (fine, expected) in FURTHER_RANGES.items():
            checks += [
                (axis, not fine(value), f"expected {expected}, found {value}") for value in _ends(getattr(self, axis))
            ]
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


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """BLAKE2b (128 bit, hexadecimal) of the canonical JSON of `value`: the same on every machine."""
    return _digest(_CANONICAL.encode(value))


def digest_of_texts(*texts: str) -> str:
    """`digest_of` a list of texts, several times as fast: it is asked for each of many models."""
    return _digest(f"[{','.join(map(encode_basestring_ascii, texts))}]")


def _digest(canonical: str) -> str:
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


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


def _optimizers_with_momentum() -> set[str]:
    """Their table lies above the specs and imports torch, so it is looked up when members are made, not before."""
    table = importlib.import_module("zoo_datasets.stacked.optimizers").OPTIMIZERS
    return {name for name, kind in table.items() if kind.momentum}
