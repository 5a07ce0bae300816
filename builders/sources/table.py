"""The table of the kinds of source, and which one a path is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo_datasets.builders.containers.locate import Place, locate
from zoo_datasets.builders.sources.base import Reading, Source
from zoo_datasets.builders.sources.pt import PREPROCESSED, PtSource, is_pt
from zoo_datasets.builders.sources.raw.source import RawSource, is_raw
from zoo_datasets.builders.sources.run import RunSource, is_run
from zoo_datasets.errors import SourceError
from zoo_datasets.storage.remote import Fetched


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceKind:
    """A kind of source: how to recognise it and how to open it, at a path of this machine or in a container afar.

    Attributes:
        name: for a person, with what it looks like.
        endings: of single files that are one and no archives; behind a URL they are fetched as a whole.
    """

    name: str
    recognise: Callable[[Place], bool]
    open: Callable[[Place, Reading], Source]
    endings: tuple[str, ...] = ()


SOURCE_KINDS: tuple[SourceKind, ...] = (
    SourceKind(name="run (a folder with zoo.json, made by `zoo train`)", recognise=is_run, open=RunSource.open),
    SourceKind(
        name="preprocessed dataset of the authors (.pt)", recognise=is_pt, open=PtSource.open, endings=(PREPROCESSED,)
    ),
    SourceKind(name="raw zoo (a folder of trials, or a .zip or .tar of one)", recognise=is_raw, open=RawSource.open),
)


def open_source(location: Path | str, reading: Reading | None = None, fetched: Fetched | None = None) -> Source:
    """The source that lies at a path or behind a URL; of the latter, what will be read is fetched first.

    Args:
        location: a path, or a URL of http or fsspec, which may end with a checksum: `#md5=…`.
        fetched: called with what is being fetched, how much of it is done, and how much there is (0: not known).

    Raises:
        SourceError: where it is nothing that can be built from.
        DownloadError, StorageError: where it cannot be fetched or kept.
    """
    reading = reading or Reading()
    endings = tuple(ending for kind in SOURCE_KINDS for ending in kind.endings)
    place = locate(location, endings=endings, whole=reading.everything, fetched=fetched)
    try:
        matching = next((kind for kind in SOURCE_KINDS if kind.recognise(place)), None)
        missing = isinstance(place, Path) and not place.exists()
    except OSError as error:
        raise SourceError(f"{place} could not be read: {error.strerror or error}; make it readable") from error
    if matching is not None:
        return matching.open(place, reading)
    kinds = "; ".join(kind.name for kind in SOURCE_KINDS)
    if not isinstance(place, Path):
        raise SourceError(f"{place.name} holds no raw zoo, and is nothing else to build from; expected: {kinds}")
    problem = "does not exist" if missing else "is nothing that a repository can be built from"
    raise SourceError(f"{place} {problem}; expected: {kinds}")
