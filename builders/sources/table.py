"""The table of the kinds of source, and which one a path is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_datasets.builders.containers.archives import is_archive, open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.hub import is_hub
from zoo_datasets.builders.containers.joined import Joined
from zoo_datasets.builders.containers.locate import Place, locate
from zoo_datasets.builders.containers.look import listed_once
from zoo_datasets.builders.containers.unpacked import unpacked
from zoo_datasets.builders.sources.base import Reading, Source
from zoo_datasets.builders.sources.folder import StateDictSource, is_state_dicts
from zoo_datasets.builders.sources.populations.arena import ArenaSource, is_arena
from zoo_datasets.builders.sources.populations.gpt import GptSource, is_gpt
from zoo_datasets.builders.sources.populations.inr import InrSource, is_inrs
from zoo_datasets.builders.sources.populations.nino import NinoSource, is_nino
from zoo_datasets.builders.sources.populations.small_cnn.source import FILES, SmallCnnSource, is_small_cnn
from zoo_datasets.builders.sources.populations.transformer_zoo import TransformerZooSource, is_transformer_zoo
from zoo_datasets.builders.sources.populations.wild_park.source import WildParkSource, is_wild_park
from zoo_datasets.builders.sources.pt import PREPROCESSED, PtSource, is_pt
from zoo_datasets.builders.sources.raw.source import RawSource, is_raw
from zoo_datasets.builders.sources.run import RunSource, is_run
from zoo_datasets.builders.sources.splits import SplitSource
from zoo_datasets.builders.state_dicts.names import ENDINGS
from zoo_datasets.builders.state_dicts.options import StateDictOptions
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.where import parse_where
from zoo_datasets.runs.run import Run
from zoo_datasets.storage.remote import is_url
from zoo_datasets.terminal import Fetched

Location = Path | str
Locations = Location | Sequence[Location]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceKind:
    """A kind of source: how to recognise it and how to open it, at a local path or in a remote container.

    Attributes:
        name: for messages, with a description of its form.
        endings: of single files, other than archives, that are such a source; a remote one is fetched as a whole.
        unpacks: names of files that are unpacked into the cache where one of them is among the first of a compressed
            tar archive.
        options: of state dicts that mean something for it; `where` for those with columns that no other zoo has.
    """

    name: str
    recognise: Callable[[Place], bool]
    open: Callable[[Place, Reading], Source]
    endings: tuple[str, ...] = ()
    unpacks: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()


_OF_STATE_DICTS = frozenset(StateDictOptions.__dataclass_fields__)
_WHERE = frozenset({"where"})
SOURCE_KINDS: tuple[SourceKind, ...] = (
    SourceKind(
        name="run (a folder with zoo.json, made by `zoo train`)",
        recognise=is_run,
        open=RunSource.open,
        options=_WHERE,
    ),
    SourceKind(
        name="preprocessed dataset of the authors (.pt)", recognise=is_pt, open=PtSource.open, endings=(PREPROCESSED,)
    ),
    SourceKind(
        name="Small CNN Zoo (weights.npy, metrics.csv.gz and layout.csv in a folder or an archive)",
        recognise=is_small_cnn,
        open=SmallCnnSource.open,
        unpacks=FILES,
        options=_WHERE,
    ),
    SourceKind(
        name="runs of G.pt (folders with data.mdb and runs.json)", recognise=is_gpt, open=GptSource.open, options=_WHERE
    ),
    SourceKind(
        name="trajectories of NiNo (fm-16.dat, c10-16.dat, lm1b-….dat and their figures)",
        recognise=is_nino,
        open=NinoSource.open,
        endings=(".dat",),
        options=_WHERE | {"layout"},
    ),
    SourceKind(
        name="CNN Wild Park (cnn_wild_park.zip, or what it holds)",
        recognise=is_wild_park,
        open=WildParkSource.open,
        options=_WHERE,
    ),
    SourceKind(
        name="Small Transformer Zoo (a folder or archive with metadata/….csv)",
        recognise=is_transformer_zoo,
        open=TransformerZooSource.open,
        options=_WHERE,
    ),
    SourceKind(name="raw zoo (a folder of trials, or a .zip or .tar of one)", recognise=is_raw, open=RawSource.open),
    SourceKind(
        name="Neural Field Arena (nefs_….hdf5)",
        recognise=is_arena,
        open=ArenaSource.open,
        endings=(".hdf5",),
        options=_WHERE,
    ),
    SourceKind(
        name="published INRs of DWSNets, NFN or Implicit-Zoo",
        recognise=is_inrs,
        open=InrSource.open,
        options=_OF_STATE_DICTS,
    ),
    SourceKind(
        name="state dicts (a folder, .zip or .tar of .safetensors, .pt, .npz and the like, with --name)",
        recognise=is_state_dicts,
        open=StateDictSource.open,
        endings=ENDINGS,
        options=_OF_STATE_DICTS,
    ),
)


def open_source(location: Locations, reading: Reading | None = None, fetched: Fetched | None = None) -> Source:
    """The source that lies at a path or behind a URL; of the latter, what will be read is fetched first.

    Args:
        location: a path, or a URL of http or fsspec, which may end with a checksum: `#md5=…`; several where they are
            parts of one raw zoo.
        fetched: called with what is being fetched, how much of it is done, and the total (0: unknown).

    Raises:
        SourceError: if no kind of source matches it.
        DownloadError, StorageError: if it cannot be fetched or kept.
    """
    reading = reading or Reading()
    if not isinstance(location, (str, Path)):
        if len(location) != 1:
            return _with_splits(_open_parts(location, reading, fetched), reading)
        (location,) = location
    endings = tuple(ending for kind in SOURCE_KINDS for ending in kind.endings)
    place = locate(location, endings=endings, whole=reading.everything, fetched=fetched)
    if isinstance(place, Path) and place.is_file() and is_archive(place):
        names = tuple(name for kind in SOURCE_KINDS for name in kind.unpacks)
        place = unpacked(place, names, fetched) or open_container(place)
    with _readable(place):
        matching = _matching(place)
        missing = isinstance(place, Path) and not place.exists()
    if matching is not None:
        _check_options(matching, reading, place)
        return _with_splits(matching.open(place, reading), reading)
    kinds = "; ".join(kind.name for kind in SOURCE_KINDS)
    if not isinstance(place, Path):
        raise SourceError(f"{place.name} holds no raw zoo and is no other kind of source; expected: {kinds}")
    problem = "does not exist" if missing else "is not a source that a repository can be built from"
    raise SourceError(f"{place} {problem}; expected: {kinds}")


def _matching(place: Place) -> SourceKind | None:
    """The kind of source that a place is; None if it is of none.

    Raises:
        OSError: if it is of none, and something in it could not be looked at.
    """
    unseen: OSError | None = None
    with listed_once():
        for kind in SOURCE_KINDS:
            try:
                if kind.recognise(place):
                    return kind
            except OSError as error:  # of a folder inside that another kind does not look into
                unseen = unseen or error
    if unseen is not None:
        raise unseen
    return None


def _with_splits(source: Source, reading: Reading) -> Source:
    """A source with the splits that a file tells; state dicts know their files and tell them by themselves."""
    if reading.splits is None or source.tells_splits:
        return source
    return SplitSource(source, reading.splits)


def _check_options(kind: SourceKind, reading: Reading, place: Place) -> None:
    """Refuse options of state dicts if the source is something else, which would not look at it."""
    options = {name for name in reading.state_dicts.to_dict() if name not in kind.options}
    if "where" in options:
        parse_where(reading.state_dicts.where or "")  # which says what columns there are
    if options:
        shown = place if isinstance(place, Path) else place.name
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(options))
        raise SourceError(f"{shown} is a {kind.name}, for which {flags} mean nothing; leave them out")


def _open_parts(locations: Sequence[Location], reading: Reading, fetched: Fetched | None) -> RawSource:
    """The raw zoo whose parts lie in several places."""
    if not locations:
        raise SourceError("there is nothing to build from: give a path or a URL")
    parts = []
    for location in locations:
        place = locate(location, whole=reading.everything, fetched=fetched)
        parts.append(_open_part(place, reading) if isinstance(place, Path) else place)
    first = locations[0]
    beside = None if is_url(str(first)) or is_hub(first) else Path(first).resolve().parent
    return RawSource(Joined(parts), reading, beside)


def _open_part(path: Path, reading: Reading) -> Container:
    with _readable(path):
        archive = open_container(path) if path.is_file() and is_archive(path) else None
        if Run.exists(path) or not is_raw(archive or path):
            problem = "is not a raw zoo" if path.exists() else "does not exist"
            raise SourceError(f"{path} {problem}; only parts of one raw zoo build together, in folders or archives")
        return archive or open_container(path, reading.num_proc)


@contextlib.contextmanager
def _readable(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"{place} could not be read: {error.strerror or error}; make it readable") from error
