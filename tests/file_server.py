"""A folder served over HTTP with the faults of real servers: cut connections, errors, no ranges, changed files."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit


@dataclass
class Served:
    """What the server does, and what it did.

    Attributes:
        ranges: whether parts can be asked for; else the whole file comes.
        validators: whether answers tell ETag and Last-Modified.
        stalls_after: bytes in all after which nothing more comes, until it is None.
        cuts: after how many bytes each of the next answers with a body breaks off.
        statuses: what the next requests are answered with instead, with headers.
        sent: bytes of each path; `asked` counts requests, `queries` has their queries.
        records: fake Zenodo records by number: the folders whose files they hold, with their checksums.
    """

    folder: Path
    ranges: bool = True
    validators: bool = True
    stalls_after: int | None = None
    cuts: list[int] = field(default_factory=list)
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    queries: list[str] = field(default_factory=list)
    records: dict[int, list[dict[str, object]]] = field(default_factory=dict)
    url: str = ""

    def publish(self, record: int, *files: Path, md5: str | None = None) -> None:
        """Make files of the folder a Zenodo record."""
        self.records[record] = [
            {
                "key": file.name,
                "size": file.stat().st_size,
                "checksum": f"md5:{md5 or hashlib.md5(file.read_bytes()).hexdigest()}",
                "links": {"self": f"https://zenodo.org/{quote(file.relative_to(self.folder).as_posix())}/content"},
            }
            for file in files
        ]

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    def reset(self) -> None:
        # New ones: what is still on its way to somebody who has left counts with what was before.
        self.sent, self.asked = Counter(), Counter()


@contextmanager
def serving_files(folder: Path, **options: bool) -> Iterator[Served]:
    served = Served(folder, **options)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path).removesuffix("/content")
            with lock:
                served.asked[path] += 1
                served.queries.append(parts.query)
                status = served.statuses.pop(0) if served.statuses else None
            if status is not None:
                self.give(status[0], b"", status[1])
            elif path.startswith("/api/records/"):
                record = served.records.get(int(path.rsplit("/", 1)[-1]))
                self.give(404 if record is None else 200, json.dumps({"files": record}).encode())
            elif (served.folder / path[1:]).is_dir() and path.endswith("/"):
                self.give(200, json.dumps([entry_of(file) for file in (served.folder / path[1:]).iterdir()]).encode())
            elif (served.folder / path[1:]).is_file():
                self.file(path)
            else:
                self.give(404, b"not here")

        def file(self, path: str) -> None:
            content = (served.folder / path[1:]).read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'} if served.validators else {}
            asked = self.headers.get("Range")
            if_range = self.headers.get("If-Range")
            if not asked or not served.ranges or (if_range and if_range != headers.get("ETag")):
                self.give(200, content, headers, path)
                return
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(content)) if last else len(content)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self.give(206, content[start:stop], headers, path)

        def give(self, status: int, body: bytes, headers: dict[str, str] | None = None, path: str = "") -> None:
            with lock:
                cut = served.cuts.pop(0) if served.cuts and path and len(body) > 1 else None
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body if cut is None else body[:cut]
            counted = served.sent
            # Whoever asked only for the head leaves; what it did not take is not counted.
            with suppress(BrokenPipeError, ConnectionResetError):
                for start in range(0, len(sent), 1 << 14):
                    while served.stalls_after is not None and served.total > served.stalls_after:
                        time.sleep(0.01)
                    piece = sent[start : start + (1 << 14)]
                    self.wfile.write(piece)
                    with lock:
                        counted[path] += len(piece)
            if cut is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that leave early are expected
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def entry_of(file: Path) -> dict[str, object]:
    """As nginx's autoindex_format json lists it."""
    kind = {"type": "directory"} if file.is_dir() else {"type": "file", "size": file.stat().st_size}
    return {"name": file.name, **kind, "mtime": formatdate(file.stat().st_mtime, usegmt=True)}
