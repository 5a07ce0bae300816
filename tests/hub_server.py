"""A dataset repository in a folder, served as the Hub serves one: listing, metadata and ranges of files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Served:
    """What was sent: bytes of each file; `reset` begins anew."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.url = ""
        self.sent: Counter[str] = Counter()

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))

    def entries(self, under: str, recursive: bool) -> list[dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for file in self.files():
            path = file.relative_to(self.folder).as_posix()
            if under and not path.startswith(under + "/"):
                continue
            rest = path[len(under) + 1 :] if under else path
            head, _, tail = rest.partition("/")
            if tail:
                folder = f"{under}/{head}" if under else head
                found[folder] = {"type": "directory", "oid": "d" * 40, "size": 0, "path": folder}
            if recursive or not tail:
                oid = hashlib.sha1(path.encode()).hexdigest()
                found[path] = {"type": "file", "oid": oid, "size": file.stat().st_size, "path": path}
        return list(found.values())

    def reset(self) -> None:
        self.sent.clear()

    def of(self, suffix: str) -> int:
        return sum(count for path, count in self.sent.items() if path.endswith(suffix))


@contextmanager
def serving(folder: Path, name: str = "somebody/model-zoos") -> Iterator[Served]:
    served = Served(folder, name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            asked = self.rfile.read(size)
            if "paths-info" in self.path:
                fields = json.loads(asked) if asked[:1] == b"{" else {}
                paths = fields.get("paths", [])
                known = {str(entry["path"]): entry for entry in served.entries("", True)}
                return self.give([known[path] for path in paths if path in known])
            return self.missing()

        def answer(self, body: bool) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            api, tree = f"/api/datasets/{served.name}", f"/api/datasets/{served.name}/tree/"
            resolve = f"/datasets/{served.name}/resolve/"
            if path.startswith(tree):
                under = path[len(tree) :].partition("/")[2]
                entries = served.entries(under, "recursive=true" in parts.query.lower())
                return self.give(entries) if entries else self.missing()
            if path == api or path.startswith(f"{api}/revision/"):
                siblings = [{"rfilename": entry["path"]} for entry in served.entries("", True)]
                return self.give({"id": served.name, "sha": COMMIT, "siblings": siblings, "private": False,
                                  "tags": [], "downloads": 0, "likes": 0})  # fmt: skip
            if path.startswith(resolve):
                return self.file(path[len(resolve) :].partition("/")[2], body)
            return self.missing()

        def file(self, path: str, body: bool) -> None:
            file = served.folder / path
            if not file.is_file():
                self.missing()
                return
            size = file.stat().st_size
            start, stop = 0, size
            asked = self.headers.get("Range")
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start = int(first) if first else size - int(last)
                stop = min(int(last) + 1, size) if first and last else size
            self.send_response(206 if asked else 200)
            self.send_header("ETag", f'"{hashlib.sha1(path.encode()).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(stop - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            if body:
                with file.open("rb") as content:
                    content.seek(start)
                    sent = content.read(stop - start)
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(sent)
                served.sent[path] += len(sent)

        def give(self, value: object) -> None:
            text = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def missing(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
