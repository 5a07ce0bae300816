"""A raw zoo that lies file by file behind a URL: folders listed one by one, only files that are needed fetched."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from zoo_datasets.builders.checkpoints.zips import check_name
from zoo_datasets.builders.containers.folder import FetchedFiles
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.documents import MAX_COUNT, MAX_JSON, brief, parse_json, whole_number
from zoo_datasets.errors import CheckpointError, DownloadError, MissingError
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.downloads import only_one, storing
from zoo_datasets.storage.files import replacing
from zoo_datasets.storage.remote import (
    FsspecFile,
    Halt,
    Http,
    HttpFile,
    RemoteFile,
    asked_of_fsspec,
    in_parallel,
    moved,
    shown,
    version_of,
)
from zoo_datasets.terminal import Fetched

_DEPTH = 8
_MAX_LISTING = MAX_JSON
_CHECKPOINT_FOLDER = re.compile(r"checkpoint_\d{1,9}")
# What a checkpoint folder is asked for: listing each of fifty thousand would cost as much as the files.
_CHECKPOINT = "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One entry of a folder; `version` changes with it, if the server provides one."""

    name: str
    folder: bool
    size: int | None
    version: str


class Tree(Protocol):
    """A remote folder. `shown` is its URL without secrets."""

    shown: str

    def list(self, path: str) -> list[Listed]:
        """The entries of a folder, whose path ends with a slash or is empty.

        Raises:
            MissingError, DownloadError: if it does not exist or cannot be listed.
        """

    def file(self, path: str) -> RemoteFile:
        """A file below it, which may not exist; reading it then raises MissingError."""


class HttpTree:
    """A web server's folder, listed as JSON: `[{"name", "type": "file"|"directory", "size", "mtime"}, …]`, which
    is nginx's `autoindex_format json`."""

    def __init__(self, http: Http, url: str) -> None:
        self.shown = shown(url)
        self._http, self._url = http, url

    def list(self, path: str) -> list[Listed]:
        """The entries of a folder, from the server's JSON listing."""
        file = HttpFile(self._http, moved(self._url, quote(path)), accept="application/json, */*;q=0.1")
        data = bytearray()
        for position, piece in file.pieces():
            data[position:] = piece
            if len(data) > _MAX_LISTING:
                raise DownloadError(f"{file.shown} lists more than {_MAX_LISTING:,} bytes of names; it was refused")
        try:
            return [_entry(item) for item in parse_json(data)]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise DownloadError(
                f"{file.shown} is not a folder listing as JSON, [{{name, type, size}}, …] expected; "
                "give the URL of an archive (.zip, .tar, .tar.gz), or of a folder that the server lists as JSON"
            ) from error

    def file(self, path: str) -> RemoteFile:
        """The file behind the tree's URL extended by `path`."""
        return HttpFile(self._http, moved(self._url, quote(path)))


def _entry(item: dict[str, Any]) -> Listed:
    size = item.get("size") if item["type"] != "directory" else None
    if isinstance(size, str):
        size = whole_number(size)
    elif size is not None and not (isinstance(size, int | float) and 0 <= size <= MAX_COUNT):
        raise ValueError(f"a size of {brief(size)}")
    return Listed(
        name=str(item["name"]).rstrip("/"),
        folder=item["type"] == "directory",
        size=None if size is None else int(size),
        version=str(item.get("mtime") or ""),
    )


class FsspecTree:
    """A folder of a file system that fsspec knows."""

    def __init__(self, fs: Any, path: str, url: str) -> None:
        self.shown = shown(url)
        self._fs, self._path, self._url = fs, path.rstrip("/"), url

    def list(self, path: str) -> list[Listed]:
        """The entries of a folder, as the file system lists them."""
        folder = f"{self._path}/{path}".rstrip("/")
        infos = asked_of_fsspec(self._url, self._fs.ls, folder, detail=True)
        return [
            Listed(
                name=info["name"].rstrip("/").rsplit("/", 1)[-1],
                folder=info["type"] == "directory",
                size=info.get("size") if info["type"] != "directory" else None,
                version=version_of(info),
            )
            for info in infos
            if info["name"].rstrip("/") != folder  # object stores list a folder's own marker
        ]

    def file(self, path: str) -> RemoteFile:
        """The file at `path` below the folder, on its file system."""
        return FsspecFile(self._fs, f"{self._path}/{path}", self._url)


class RemoteFolder(FetchedFiles):
    """A remote folder as a container; files that were fetched lie in a local folder, `mirror`.

    Checkpoint folders are not listed: each is assumed to hold a file `checkpoints`; reading a missing one reports it.
    """

    notes: Sequence[Note] = ()

    def __init__(self, tree: Tree, name: str, mirror: Path, fetched: Fetched | None = None) -> None:
        self.name = name
        self._tree = tree
        self.mirror = mirror
        self._fetched = fetched or (lambda what, done, total: None)
        self._listed: dict[str, Listed] = {}
        self._missing: set[str] = set()
        self._lock = threading.Lock()
        refused: dict[str, str] = {}
        self._walk(refused)
        self.refused = refused
        self.entries: Sequence[str] = sorted(self._listed)

    def _at_hand(self, path: str, limit: int) -> str:
        """Where the mirror has a file, fetched if necessary."""
        self.prepare([path], limit)
        listed = self._listed.get(path)
        if path in self.refused or listed is None:
            raise CheckpointError(self.refused.get(path, "there is no such file"))
        if listed.size is not None and listed.size > limit:
            raise CheckpointError(f"it has {listed.size:,} bytes, at most {limit:,} expected")
        if path in self._missing:
            if path.endswith(f"/{_CHECKPOINT}"):
                raise CheckpointError("its checkpoint folder holds no file named checkpoints")
            raise CheckpointError("it is listed, but the server does not have it")
        return str(self.mirror / path)

    def prepare(self, paths: Iterable[str], limit: int) -> None:
        """Fetch files that the mirror lacks, several at a time."""
        wanted = [path for path in dict.fromkeys(paths) if self._is_wanted(path, limit)]
        if not wanted:
            return
        count = 0

        def fetch(path: str, halt: Halt) -> None:
            nonlocal count
            self._fetch(path, limit, halt)
            with self._lock:
                count += 1
                self._fetched("files", count, len(wanted))

        with only_one(self.mirror), storing(self.mirror):
            in_parallel(fetch, [path for path in wanted if not self._is_here(path)])

    def prepare_all(self) -> None:
        """Fetch every file."""
        self.prepare(self.entries, sys.maxsize)

    def fingerprint(self) -> str:
        """Digest of names, sizes and times as the server lists them."""
        listed = [[path, entry.size, entry.version] for path, entry in sorted(self._listed.items())]
        return digest_of([self._tree.shown, listed])

    def _is_wanted(self, path: str, limit: int) -> bool:
        listed = self._listed.get(path)
        if listed is None or listed.folder or path in self.refused or path in self._missing:
            return False
        return (listed.size or 0) <= limit and not self._is_here(path)

    def _is_here(self, path: str) -> bool:
        """Whether the mirror holds the listed file, by size and version mark."""
        listed = self._listed[path]
        try:
            status = os.lstat(self.mirror / path)
        except OSError:
            return False
        return status.st_size == (status.st_size if listed.size is None else listed.size) and (
            status.st_mtime_ns == _mark(listed)
        )

    def _fetch(self, path: str, limit: int, halt: Halt) -> None:
        target = self.mirror / path
        try:
            remote = self._tree.file(path)
            with replacing(target) as temporary:
                with temporary.open("r+b") as file:
                    end = 0
                    for position, piece in remote.pieces(halt=halt):
                        file.seek(position)
                        file.write(piece)
                        end = position + len(piece)
                        if end > limit:
                            break  # reading it says that it is too large
                    file.truncate(end)
                if halt.is_set():
                    raise DownloadError(f"{self._tree.shown} was left while it was being fetched")
            os.utime(target, ns=(_mark(self._listed[path]),) * 2)
        except MissingError:
            with self._lock:
                self._missing.add(path)

    def _walk(self, refused: dict[str, str]) -> None:
        """List level by level, several folders at a time."""
        level = [""]
        for _ in range(_DEPTH):
            below: list[str] = []

            def visit(path: str, halt: Halt, below: list[str] = below) -> None:
                try:
                    entries = self._tree.list(path)
                except MissingError:
                    if not path:
                        raise
                    with self._lock:
                        refused[path] = "it could not be listed: the server does not have it"
                    return
                with self._lock:
                    below += [folder for entry in entries if (folder := self._add(path, entry, refused))]
                    self._fetched("entries listed", len(self._listed), 0)

            in_parallel(visit, level)
            level = sorted(below)
        if level:
            raise DownloadError(f"{self._tree.shown} is more than {_DEPTH} folders deep; give the zoo's own folder")

    def _add(self, folder: str, entry: Listed, refused: dict[str, str]) -> str | None:
        """Record an entry; returns its path if it is a folder still to be listed."""
        path = f"{folder}{entry.name}"
        reason = check_name(path) or _no_name(entry.name)
        if reason is not None:
            refused[path] = reason
            return None
        if not entry.folder:
            self._listed[path] = entry
            return None
        self._listed[f"{path}/"] = entry
        if not _CHECKPOINT_FOLDER.fullmatch(entry.name):
            return f"{path}/"
        self._listed[f"{path}/{_CHECKPOINT}"] = Listed(name=_CHECKPOINT, folder=False, size=None, version=entry.version)
        return None


def _no_name(name: str) -> str | None:
    if "/" in name:
        return "a name holds a slash"
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can tell and no URL can hold
        return "a name is not Unicode text"
    return None


def _mark(listed: Listed) -> int:
    """A time in nanoseconds that stands for a version: its own where it is a date."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        seconds = int(parsedate_to_datetime(listed.version).timestamp())
        if 0 <= seconds < 1 << 33:  # what file systems can keep
            return seconds * 10**9
    return int(digest_of([listed.version])[:7], 16) * 10**9
