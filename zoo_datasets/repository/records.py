"""The parts of a manifest as they are checked: shards, counts, what was left out, and what is read of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from zoo_datasets.documents import MAX_COUNT, problems_of
from zoo_datasets.errors import DocumentError
from zoo_datasets.networks.architectures import MAX_WIDTH
from zoo_datasets.repository.credit import Credit
from zoo_datasets.repository.row import MAX_FURTHER
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.specs.images import Pixels

_T = TypeVar("_T")
Number = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Limit = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCH)]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One Parquet file; `path` is relative to the repository, `models` counts distinct ones."""

    path: str
    split: str
    rows: Number
    models: Number
    epochs: tuple[Epoch, ...]
    bytes: Number
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """States of a model that are no rows, and why. `model` is its id, or its name in the source."""

    model: str
    epochs: tuple[Epoch, ...]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """found = written + left_out."""

    found: Number
    written: Number
    left_out: Number


class _Zoo(TypedDict, total=False):
    """The fields of a zoo that are read one by one; its grid may be anything."""

    name: str
    images: str
    architecture: str
    parent: str | None
    sparsifier: str | None
    doi: str | None
    epochs: Epoch | None
    seeds: Number | None


class _Source(TypedDict, total=False):
    """The fields of a source that are read one by one."""

    kind: str
    engine: str | None
    limits: dict[Literal["train", "val", "test"], Limit | None] | None
    images: dict[str, Any] | None
    credit: Credit | None


class _Further(TypedDict):
    """A further column; `doc` says where it comes from."""

    name: str
    type: str
    doc: str


class _Open(TypedDict):
    """The columns of an open config."""

    columns: Annotated[list[_Further], Field(max_length=MAX_FURTHER)]
    size: Number | None
    raw: bool


OPEN: TypeAdapter[_Open] = TypeAdapter(_Open)
ZOO: TypeAdapter[_Zoo] = TypeAdapter(_Zoo)
SOURCE: TypeAdapter[_Source] = TypeAdapter(_Source)
WIDTH: TypeAdapter[int] = TypeAdapter(Width)
TEXT: TypeAdapter[str] = TypeAdapter(str)
YES: TypeAdapter[bool] = TypeAdapter(bool)
TEXTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
PIXELS: TypeAdapter[Pixels] = TypeAdapter(Pixels)
COUNT: TypeAdapter[Count] = TypeAdapter(Count)
SHARDS: TypeAdapter[tuple[Shard, ...]] = TypeAdapter(tuple[Shard, ...])
LEFT_OUT: TypeAdapter[tuple[LeftOut, ...]] = TypeAdapter(tuple[LeftOut, ...])


def checked(adapter: TypeAdapter[_T], value: Any, where: str) -> _T:
    """A part of a manifest, its numbers within their ranges.

    Raises:
        DocumentError: naming the field, what was expected and its value.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise DocumentError(problems_of(error, where)) from None
