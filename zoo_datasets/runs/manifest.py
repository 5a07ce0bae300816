"""What `zoo.json` of a run says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from zoo_datasets.documents import MAX_COUNT, brief, problems_of
from zoo_datasets.errors import RunError, SpecError
from zoo_datasets.networks.architectures import MAX_WIDTH
from zoo_datasets.networks.kind import NetworkKind, is_field
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.specs.axes import NetworkChoice
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.images import Pixels
from zoo_datasets.specs.members import Limits, Member
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.storage.checksums import RECORD

RUN_FORMAT = 1


RUN_MANIFEST = "zoo.json"


# Of a run: members times epochs.
MAX_STATES = 20_000_000


_Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


_Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]


_Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCH)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """One size that a run was asked to have: so many members, each to that epoch. Sizes never shrink."""

    models: _Count
    epochs: _Epoch

    def __post_init__(self) -> None:
        if self.models * (self.epochs + 1) > MAX_STATES:
            raise RunError(
                f"{self.models:,} models to epoch {self.epochs:,}: at most {MAX_STATES:,} states of models expected; "
                "ask for fewer models or epochs"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesRecord:
    """What a run records of the images it was trained on, enough to verify it later.

    Attributes:
        fingerprint: hash of the prepared tensors of all splits, before any limit.
        train, val, test: number of images used, after limits; 0 where there is no such split.
        pixels: what the images were made into; None in runs of earlier versions.
    """

    name: str
    fingerprint: str
    channels: _Width
    classes: _Width
    train: _Count
    val: _Count
    test: _Count
    pixels: Pixels | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; without `pixels` where they are not known."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentsRecord:
    """What twins were made from: a zoo's models at one epoch."""

    zoo: str
    epoch: _Epoch


class _Parts(TypedDict):
    """The fields of zoo.json that have no form of their own, as `RunManifest` names them."""

    growth: Annotated[tuple[Growth, ...], Field(min_length=1)]
    limits: Limits
    images: ImagesRecord
    engine: str
    versions: dict[str, str]
    parents: NotRequired[ParentsRecord]


FIELD_STEPS: Final = 100
"""Optimizer steps, each over a whole signal, that are called an epoch of fields."""

_PARTS: TypeAdapter[_Parts] = TypeAdapter(_Parts)


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """The content of zoo.json.

    Attributes:
        layers: of an architecture of one's own, as JSON values of `zoo_datasets.networks.layers.documents`; of zoos
            with several networks a mapping of these by the networks' names.
    """

    zoo: ZooSpec
    growth: tuple[Growth, ...]
    limits: Limits
    images: ImagesRecord
    layout: WeightLayout
    engine: str
    versions: Mapping[str, str]
    parents: ParentsRecord | None = None
    layers: Any = None

    @cached_property
    def networks(self) -> Mapping[NetworkChoice, NetworkKind]:
        """The kinds of network that members are, from the zoo and its images."""
        own = self.layers
        if self.zoo.is_sized and not isinstance(own or {}, dict):
            raise SpecError(f"layers: expected those of each network by its name, found {brief(own)}")
        kinds = {}
        for choice in self.zoo.networks():
            name = self.zoo.architecture_of(choice)
            layers = (own or {}).get(name) if self.zoo.is_sized else own
            widths = NetworkKind.on(name, self.images)
            kinds[choice] = NetworkKind.recorded(name, widths.in_channels, widths.classes, layers)
        return kinds

    @property
    def network(self) -> NetworkKind:
        """The kind of network that all members are; of several, the first one, whose layout is recorded."""
        return next(iter(self.networks.values()))

    @property
    def is_field(self) -> bool:
        """Whether each member is fitted to a signal of its own, the image whose number its seed tells."""
        return is_field(self.zoo.architecture)

    def signal_of(self, member: Member) -> tuple[str, int]:
        """The part of the images, train or test, in which a field's signal is, and its number there from 0 on."""
        number = member.seed - 1
        return ("train", number) if number < self.images.train else ("test", number - self.images.train)

    def network_of(self, member: Member) -> NetworkKind:
        """The kind of network that a member is.

        Raises:
            RunError: if its zoo has none of its sizes.
        """
        kind = self.networks.get(member.hyperparameters.network)
        if kind is None:
            raise RunError(f"model {member.model_id:.64} is of a network that the zoo does not have")
        return kind

    def steps_within(self, member: Member, epoch: int) -> range:
        """The steps within an epoch after which states of a member are kept, counted from the start of the training;
        the epoch's last one is none of them."""
        every = self.zoo.every_steps
        if every is None or epoch < 1 or not self.zoo.keeps(epoch):
            return range(0)
        steps = self.steps_an_epoch(member)
        first = (epoch - 1) * steps
        return range(first // every * every + every, first + steps, every)

    def steps_an_epoch(self, member: Member) -> int:
        """Optimizer steps of an epoch of a member."""
        if self.is_field:
            return FIELD_STEPS
        point = member.hyperparameters
        images = self.images.train
        if point.train_fraction is not None:
            images = max(int(point.train_fraction * images), 1)
        return -(-images // point.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The content of zoo.json as dictionaries, lists, strings and numbers."""
        parents = {} if self.parents is None else {"parents": dataclasses.asdict(self.parents)}
        layers = {} if self.layers is None else {"layers": self.layers}
        return (
            parents
            | layers
            | {
                "format": RUN_FORMAT,
                "zoo": self.zoo.to_dict(),
                "growth": [dataclasses.asdict(step) for step in self.growth],
                "limits": dataclasses.asdict(self.limits),
                "images": self.images.to_dict(),
                "layout": self.layout.to_list(),
                "engine": self.engine,
                "versions": dict(self.versions),
            }
        )

    @classmethod
    def from_dict(cls, value: Any, origin: str) -> RunManifest:
        """The inverse of `to_dict`.

        Raises:
            RunError: if the value is no manifest; names `origin` and what is wrong.
        """
        if not isinstance(value, dict):
            raise RunError(f"{origin}: expected a mapping, found {type(value).__name__}")
        if value.get("format") != RUN_FORMAT:
            raise RunError(f"{origin}: run format {brief(value.get('format'))} found, this version reads {RUN_FORMAT}")
        surplus = sorted(value.keys() - {"format", RECORD, *(entry.name for entry in dataclasses.fields(cls))})
        if surplus:
            raise RunError(f"{origin}: not a valid run description: it has no place for {brief(surplus[0])}")
        try:
            zoo = zoo_from_dict(value["zoo"], origin)
            parts = _PARTS.validate_python(value)
            if zoo.parent is None and parts["growth"][-1].models > zoo.models:
                raise RunError(f"it has {parts['growth'][-1].models:,} members of a zoo of {zoo.models:,}")
            if (zoo.layers is None) != (value.get("layers") is None):
                raise RunError("layers: expected of an architecture of one's own, and of no other")
            layout = WeightLayout.from_list(value["layout"])
            manifest = cls(zoo=zoo, layout=layout, layers=value.get("layers"), **parts)
            if manifest.layers is not None:
                _ = manifest.networks  # read now, so that what is wrong is told with the file's name
            return manifest
        except ValidationError as error:
            raise RunError(f"{origin}: not a valid run description: {problems_of(error)}") from error
        except KeyError as error:
            raise RunError(f"{origin}: not a valid run description: it lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise RunError(f"{origin}: not a valid run description: {error}") from error
