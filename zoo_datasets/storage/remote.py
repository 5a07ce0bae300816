"""Files behind URLs: whole or in part, going on from where a broken connection left off.

http and https are spoken here, with retries, ranges and proxies; every other scheme is left to fsspec. What may be
secret in a URL (user, password, query) never reaches a message, a file or the name of one.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ContentDecodingError, ProxyError, RequestException, SSLError
from urllib3.exceptions import HTTPError

from zoo_datasets.documents import whole_number
from zoo_datasets.errors import DownloadError, MissingError

WORKERS = 8  # files or parts at a time
RETRIES = 6  # in a row, without a single byte between them
RETRIES_UNHEARD = 3  # of a server that never answered: the name may be wrong
BACKOFF = 0.5  # seconds before the first retry; doubles each time
LONGEST_WAIT = 60.0
BLOCK = 1 << 16  # what a cut connection loses at most
FSSPEC_BLOCK = 1 << 22
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_BROKEN = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError, ContentDecodingError)
_FSSPEC_ERRORS = (OSError, ValueError, RuntimeError, ImportError)
_URL = re.compile(r"[a-z][a-z0-9+.\-]+(://|::)", re.IGNORECASE)
_IN_TEXT = re.compile(r"[a-z][a-z0-9+.\-]+://\S+", re.IGNORECASE)

T = TypeVar("T")


class Halt(threading.Event):
    """Tells threads to leave off; `set` also wakes those that wait for a silent server."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited: set[requests.Response] = set()

    @contextlib.contextmanager
    def watching(self, response: requests.Response) -> Iterator[None]:
        """While a thread reads this answer."""
        self._awaited.add(response)
        try:
            if self.is_set():  # between its head and now
                raise _AgainError("halted")
            yield
        finally:
            self._awaited.discard(response)

    def set(self) -> None:
        """See `threading.Event`."""
        super().set()
        for response in [*self._awaited]:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # it was finished at this moment
                response.raw.shutdown()


class RemoteFile(Protocol):
    """A file behind a URL.

    Attributes:
        shown: the URL without secrets.
        names: what the file may be called, the likeliest first.
        size: in bytes; None where the server does not tell.
        version: changes when the content does; empty where the server does not tell.
        ranges: whether parts of it can be asked for.
    """

    shown: str
    names: Sequence[str]
    size: int | None
    version: str
    ranges: bool

    def pieces(self, start: int = 0, stop: int | None = None, halt: Halt | None = None) -> Iterator[tuple[int, bytes]]:
        """The bytes from `start` to `stop` (None: to the end), each piece with its position.

        Without `stop`, a server that knows no ranges may make it begin again at position 0.

        Raises:
            MissingError: if there is no such file.
            DownloadError: if it changed meanwhile, or could not be had after all retries.
        """


def is_url(location: object) -> bool:
    """Whether a location is a URL, of http or of anything that fsspec knows, and no path."""
    return isinstance(location, str) and _URL.match(location) is not None


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, query and fragment."""
    parts = []
    for part in url.split("::"):
        try:
            split = urlsplit(part)
        except ValueError as error:
            raise DownloadError("the URL cannot be understood; check its host and brackets") from error
        host = split.netloc.rpartition("@")[2]
        parts.append(f"{split.scheme}://{host}{split.path}" if split.scheme else split.path)
    return "::".join(parts)


def in_parallel(work: Callable[[T, Halt], None], items: Sequence[T]) -> None:
    """Do `work` on all items, several at a time; the first error or Ctrl-C halts the others and is raised."""
    halt = Halt()
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="zoo-fetch")
    try:
        for future in as_completed([pool.submit(work, item, halt) for item in items]):
            future.result()
    finally:
        halt.set()
        pool.shutdown(cancel_futures=True)


class Http:
    """A pool of connections, for several threads."""

    def __init__(self) -> None:
        self._session = requests.Session()
        # Retries are our own: the library's would write URLs with their queries to the log.
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=WORKERS, max_retries=0))
        weakref.finalize(self, self._session.close)

    def get(self, url: str, headers: dict[str, str]) -> requests.Response:
        """The head of an answer; its body is read by `iter_content`."""
        return self._session.get(url, headers={"Accept-Encoding": "identity"} | headers, stream=True, timeout=_TIMEOUT)


class _AgainError(Exception):
    """An answer after which the same question may get another one."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class HttpFile:
    """A file that a web server gives; see `RemoteFile`. Nothing is asked before `probe` or `pieces`."""

    def __init__(self, http: Http, url: str, accept: str = "*/*") -> None:
        self.shown = shown(url)
        self.names: Sequence[str] = [unquote(part) for part in reversed(urlsplit(url).path.split("/")) if part]
        self.size: int | None = None
        self.version = ""
        self.ranges = False
        self._http, self._url, self._accept = http, url, accept
        self._heard = False

    @classmethod
    def probe(cls, http: Http, url: str) -> HttpFile:
        """Ask for one byte: that tells size, version and whether ranges are known."""
        file = cls(http, url)
        failures = 0
        while True:
            try:
                with file._answer(0, 1) as response:
                    file.ranges = response.status_code == 206
                    name = _given_name(response)
                    file.names = [*([name] if name else []), *file.names]
                    return file
            except (*_BROKEN, _AgainError) as error:
                failures += 1
                file._wait(error, failures, None)

    def pieces(self, start: int = 0, stop: int | None = None, halt: Halt | None = None) -> Iterator[tuple[int, bytes]]:
        """See `RemoteFile`."""
        position, furthest, failures = start, start, 0
        while stop is None or position < stop:
            try:
                watching = halt.watching if halt is not None else contextlib.nullcontext
                with self._answer(position, stop) as response, watching(response):
                    if response.status_code == 200 and position:
                        if stop is not None:
                            self._changed()
                        position = 0
                    for piece in response.iter_content(BLOCK):
                        if stop is not None:
                            piece = piece[: stop - position]
                        if halt is not None and halt.is_set():
                            return
                        yield position, piece
                        position += len(piece)
                        if position > furthest:  # a server without ranges begins again each time
                            furthest, failures = position, 0
                        if position == stop:
                            return
                if stop is None and (self.size is None or position >= self.size):
                    return
                raise _AgainError("the connection ended early")
            except (*_BROKEN, _AgainError) as error:
                failures += 1
                self._wait(error, failures, halt)
                if halt is not None and halt.is_set():
                    return

    def _answer(self, position: int, stop: int | None) -> requests.Response:
        """The head of the answer to a request for a part, checked: it is of the version that is known."""
        headers = {"Accept": self._accept}
        if position or stop is not None:
            headers["Range"] = f"bytes={position}-{'' if stop is None else stop - 1}"
            if position and self.version and not self.version.startswith("W/"):
                headers["If-Range"] = self.version
        try:
            response = self._http.get(self._url, headers)
        except _BROKEN as error:
            if isinstance(error, SSLError):
                raise DownloadError(f"{self.shown}: its certificate could not be verified") from None
            raise
        except (RequestException, HTTPError, ValueError) as error:  # its text holds the whole URL
            raise DownloadError(f"{self.shown} could not be asked for: {type(error).__name__}; check the URL") from None
        self._heard = True
        try:
            self._check(response, position)
        except BaseException:
            response.close()
            raise
        return response

    def _check(self, response: requests.Response, position: int) -> None:
        status = response.status_code
        if status in (404, 410):
            raise MissingError(f"{self.shown} does not exist (HTTP {status}); check the URL")
        if status in (401, 403):
            raise DownloadError(
                f"{self.shown} refuses access (HTTP {status}); "
                "give credentials in ~/.netrc or in the URL (https://user:token@…)"
            )
        if status in _AGAIN:
            raise _AgainError(f"HTTP {status}", _seconds(response.headers.get("Retry-After", "")))
        if status == 416 and not position:
            self.size = 0
            return
        if status not in (200, 206):
            if status == 416:
                self._changed()
            raise DownloadError(f"{self.shown} answered with HTTP {status}, 200 or 206 expected; try again later")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        size = self._whole_size(response, position)
        if (self.version and version != self.version) or (None not in (size, self.size) and size != self.size):
            self._changed()
        self.version = self.version or version
        self.size = size if self.size is None else self.size

    def _whole_size(self, response: requests.Response, position: int) -> int | None:
        """The size of the whole file; None where the answer does not tell it, or is no answer to the question."""
        if response.status_code == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
            if match is None or whole_number(match[1]) != position:
                raise _AgainError("the server sent another part than was asked for")
            return None if match[2] == "*" else self._size(match[2])
        length = response.headers.get("Content-Length", "")
        return self._size(length) if length.isdecimal() and "Content-Encoding" not in response.headers else None

    def _size(self, digits: str) -> int:
        size = whole_number(digits)
        if size is None:
            raise DownloadError(
                f"{self.shown} claims a size of {len(digits):,} digits in bytes, which no file has; check the URL"
            )
        return size

    def _changed(self) -> NoReturn:
        raise DownloadError(
            f"{self.shown} changed on the server while it was being fetched, or no longer gives parts of itself; "
            "run the command again, and it begins with the present version"
        )

    def _wait(self, error: Exception, failures: int, halt: Halt | None) -> None:
        """Wait before the next try, longer each time, as long as the server asks for."""
        reason = str(error) if isinstance(error, _AgainError) else _reason(error)
        if failures > (RETRIES if self._heard else RETRIES_UNHEARD):
            raise DownloadError(
                f"{self.shown} could not be fetched: {reason}, {failures} times in a row; "
                "what was fetched is kept, and the same command goes on from there"
            ) from None
        seconds = min(max(BACKOFF * 2 ** (failures - 1), getattr(error, "wait", 0.0)), LONGEST_WAIT)
        if halt is None:
            time.sleep(seconds)
        else:
            halt.wait(seconds)


def _seconds(text: str) -> float:
    """Retry-After as seconds: a number, or a date."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _given_name(response: requests.Response) -> str | None:
    message = Message()
    message["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    name = message.get_filename()
    return Path(name).name if name else None


def _reason(error: BaseException) -> str:
    """What went wrong with a connection. The libraries' own texts hold URLs with their queries."""
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, ProxyError):
        return "the proxy could not be reached"
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            break
        if type(cause).__name__ == "NameResolutionError":
            return "no server of this name is found"
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return str(cause.strerror)
        inner = getattr(cause, "reason", None) or (cause.args[0] if cause.args else None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    return "the connection broke"


class FsspecFile:
    """A file that fsspec knows; see `RemoteFile`. Its own retries are those of its file system."""

    def __init__(self, fs: Any, path: str, url: str) -> None:
        self.shown = shown(url)
        self.names: Sequence[str] = [path.rstrip("/").rsplit("/", 1)[-1]]
        self.ranges = True
        self._fs, self._path, self._url = fs, path, url
        info = self._asked(fs.info, path)
        self.size: int | None = info.get("size")
        self.version = version_of(info)

    def pieces(self, start: int = 0, stop: int | None = None, halt: Halt | None = None) -> Iterator[tuple[int, bytes]]:
        """See `RemoteFile`."""
        stop = self.size if stop is None else stop
        if stop is None:
            yield 0, self._asked(self._fs.cat_file, self._path)
            return
        for begin in range(start, stop, FSSPEC_BLOCK):
            if halt is not None and halt.is_set():
                return
            end = min(begin + FSSPEC_BLOCK, stop)
            piece = self._asked(self._fs.cat_file, self._path, start=begin, end=end)
            if len(piece) != end - begin:
                raise DownloadError(f"{self.shown} gave {len(piece):,} bytes, {end - begin:,} expected; it changed")
            yield begin, piece

    def _asked(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return asked_of_fsspec(self._url, call, *args, **options)


def version_of(info: dict[str, Any]) -> str:
    """What tells two versions of a file apart, of an entry as fsspec's file systems describe them."""
    keys = ("ETag", "etag", "md5", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created", "commit")
    return next((str(info[key]) for key in keys if info.get(key)), "")


def fsspec_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        DownloadError: if the scheme is unknown, or what it needs is not installed.
    """
    import fsspec

    fs, path = asked_of_fsspec(url, fsspec.core.url_to_fs, url)
    return fs, path


def asked_of_fsspec(url: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A call to a file system, its errors as ours.

    Raises:
        MissingError: if there is no such file.
        DownloadError: if it fails in any other way.
    """
    try:
        return call(*args, **options)
    except FileNotFoundError:
        raise MissingError(f"{shown(url)} does not exist; check the URL") from None
    except _FSSPEC_ERRORS as error:
        raise DownloadError(f"{shown(url)} could not be read: {_without_secrets(str(error), url)}") from None


def _without_secrets(text: str, url: str) -> str:
    """A foreign message without URLs' secrets."""
    text = _IN_TEXT.sub(lambda match: shown(match[0]), " ".join(text.split()))
    for part in url.split("::"):
        split = urlsplit(part)
        for secret in (split.query, split.netloc.rpartition("@")[0], split.password):
            if secret:
                text = text.replace(secret, "…")
    return text[:300] or "no reason given"


def moved(url: str, path: str) -> str:
    """The URL of something below the folder that a URL names: the path joined, the query kept."""
    split = urlsplit(url)
    return urlunsplit(split._replace(path=f"{split.path.rstrip('/')}/{path}", fragment=""))
