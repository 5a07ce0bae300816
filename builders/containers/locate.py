"""From a path or a URL to a container: read in place, in parts, or fetched as a whole first."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zoo_datasets.builders.checkpoints.zips import check_name
from zoo_datasets.builders.containers.archives import ARCHIVES, ZipFile, is_archive, open_container, stem
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.hub import HubFolder, is_hub
from zoo_datasets.builders.containers.remote_tree import FsspecTree, HttpTree, RemoteFolder
from zoo_datasets.errors import MissingError, SourceError
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.downloads import download
from zoo_datasets.storage.files import cache_folder
from zoo_datasets.storage.names import file_name, fitting
from zoo_datasets.storage.ranges import RangeCache
from zoo_datasets.storage.remote import (
    FsspecFile,
    Http,
    HttpFile,
    RemoteFile,
    asked_of_fsspec,
    fsspec_of,
    is_url,
    moved,
    shown,
)
from zoo_datasets.terminal import Fetched

# Where a source lies: at a path of this machine, or in a container that is read from afar.
Place = Path | Container


class RemoteZip(ZipFile):
    """A zip archive of which only the directory and the members that are needed are fetched."""

    def __init__(self, remote: RemoteFile, name: str, cache: RangeCache) -> None:
        assert remote.size is not None
        self._cache = cache
        super().__init__(
            stem(Path(name)), cache.read, remote.size, ["zip", remote.shown, remote.size, remote.version], remote.shown
        )

    def prepare(self, paths: Iterable[str], limit: int) -> None:
        """Fetch members, adjacent ones in one request."""
        self._cache.fetch(self.extents(paths, limit), f"parts of {self.name}.zip")


def open_location(location: Path | str, fetched: Fetched | None = None) -> Container:
    """The container at a path or behind a URL. Opening it again, in another process too, fetches nothing twice.

    Raises:
        SourceError: if it is neither a folder nor an archive, or the archive is broken.
        DownloadError, StorageError: if it cannot be fetched or kept.
    """
    place = locate(location, fetched=fetched)
    return open_container(place) if isinstance(place, Path) else place


def has_file(place: Place, name: str) -> bool:
    """Whether a folder, local or remote, directly holds a file of that name."""
    return (place / name).is_file() if isinstance(place, Path) else name in place.entries


def folders_in(place: Path) -> list[Path]:
    """The folders that lie directly in a folder; files are told from them without a look at each."""
    with os.scandir(place) as listing:
        return [place / entry.name for entry in listing if entry.is_dir()]


def local_folder(place: Place) -> Path:
    """The folder at a path; for a remote one, a complete local copy.

    Raises:
        SourceError: if it is an archive.
        DownloadError, StorageError: if it cannot be fetched or kept.
    """
    if isinstance(place, Path):
        return place
    if not isinstance(place, RemoteFolder):
        raise SourceError(f"{place.name} is an archive; unpack it first")
    place.prepare_all()
    return place.mirror


def locate(
    location: Path | str, *, endings: Sequence[str] = (), whole: bool = False, fetched: Fetched | None = None
) -> Place:
    """Where to read from: a local path, fetched to the cache where that is better, or a remote container.

    Args:
        location: a path, `hf:org/name@revision`, or a URL; of a URL, `#md5=…` at its end is the file's known checksum,
            verified where it is fetched as a whole.
        endings: of names of single files that are taken besides archives.
        whole: whether all of it will be read.

    Raises:
        SourceError: if the URL names neither a folder nor an archive.
        DownloadError, StorageError: if it cannot be fetched or kept.
    """
    if isinstance(location, str) and is_hub(location):
        return HubFolder.open(location, fetched)
    if not isinstance(location, str) or not is_url(location):
        return Path(location)
    shown(location)  # refuses what is no URL
    location, _, fragment = location.partition("#")
    md5 = fragment.removeprefix("md5=").lower() if fragment.startswith("md5=") else None
    asked = _Asked(endings=tuple(endings), whole=whole, md5=md5, fetched=fetched)
    scheme = urlsplit(location).scheme.lower()
    if scheme in ("file", "local"):
        return Path(url2pathname(urlsplit(location).path))
    if scheme in ("http", "https"):
        return _locate_http(location, asked)
    fs, path = fsspec_of(location)
    if asked_of_fsspec(location, fs.isdir, path):
        return _folder(FsspecTree(fs, path, location), location, path, fetched)
    return _locate_file(FsspecFile(fs, path, location), location, asked)


def remote_folder(url: str, mirror: Path, fetched: Fetched | None = None) -> RemoteFolder:
    """A folder of a web server, with the files that are fetched in the folder `mirror`.

    Raises:
        DownloadError: if the server does not list it.
    """
    return RemoteFolder(HttpTree(Http(), url), mirror.name, mirror, fetched)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The arguments of `locate` other than the location."""

    endings: tuple[str, ...]
    whole: bool
    md5: str | None
    fetched: Fetched | None

    def name(self, file: RemoteFile) -> str | None:
        """The name that identifies the kind of file; `…/files/zoo.zip/content` has it in the middle."""
        return next((name for name in file.names if self._known(name)), None)

    def _known(self, name: str) -> bool:
        return (
            check_name(name) is None
            and "/" not in name
            and (is_archive(Path(name)) or name.lower().endswith(self.endings))
        )


def _locate_http(url: str, asked: _Asked) -> Place:
    http = Http()
    path = urlsplit(url).path
    file = HttpFile(http, url)
    # Some servers redirect from a folder's name without its slash, others know only the one with it.
    with contextlib.nullcontext() if asked.name(file) else contextlib.suppress(MissingError):
        if not path.endswith("/") and asked.name(file := HttpFile.probe(http, url)):
            return _locate_file(file, url, asked)
    return _folder(HttpTree(http, url), url, file.names[0] if file.names else "", asked.fetched)


def _locate_file(file: RemoteFile, url: str, asked: _Asked) -> Place:
    name = asked.name(file)
    if name is None:
        endings = [*(ending for kind in ARCHIVES for ending in kind.endings), *asked.endings]
        raise SourceError(
            f"{file.shown} is neither a folder nor an archive; its name should end with "
            f"{', '.join(endings[:-1])} or {endings[-1]}"
        )
    folder = cache_folder() / "downloads" / _key(url, file.version, file.size)
    target, parts = folder / name, folder / fitting(name, ".parts")
    if not (file.version or asked.md5):  # nothing tells whether what is there is still the same
        target.unlink(missing_ok=True)
    in_parts = file.ranges and file.size and name.lower().endswith(".zip") and not asked.whole
    if in_parts and not target.exists():
        return RemoteZip(file, name, RangeCache(file, parts, asked.fetched))
    download(file, target, md5=asked.md5, fetched=asked.fetched)
    shutil.rmtree(parts, ignore_errors=True)
    return target


def _folder(tree: HttpTree | FsspecTree, url: str, path: str, fetched: Fetched | None) -> RemoteFolder:
    name = path.rstrip("/").rsplit("/", 1)[-1]
    mirror = cache_folder() / "downloads" / _key(moved(url, ""), "", None) / file_name(name)
    return RemoteFolder(tree, name, mirror, fetched)


def _key(url: str, version: str, size: int | None) -> str:
    """A name in the cache. The query counts only if nothing else distinguishes two files; as it may hold a token, it
    enters only as part of a hash."""
    named: Sequence[object] = [shown(url), size, version] if version else [shown(url), size, urlsplit(url).query]
    return digest_of(["download", *named])[:32]
