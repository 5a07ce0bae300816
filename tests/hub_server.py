"""The Hub's HTTP API on the loopback: commits, large files in parts, tokens, ranges, and faults on demand."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

PART = 100_000  # bytes of a part of a large file; the Hub's are larger
LARGE = (".parquet", ".png")  # what a new dataset's .gitattributes sends as large files
MOST_TEXT = 10_000_000  # bytes of a file that is not sent as a large one
MOST_JSON = 100_000  # bytes of the body of a small request, as the check of a card
SIGNATURE = "X-Amz-Signature=deadbeefcafe"
WRITER, READER = "hf_writerTokenSecret", "hf_dummy"


@dataclass(frozen=True)
class Entry:
    """A file of a commit: where its content lies; `sha256` of large ones."""

    blob: Path
    size: int
    oid: str
    sha256: str | None

    def told(self, path: str) -> dict[str, object]:
        told: dict[str, object] = {"type": "file", "oid": self.oid, "size": self.size, "path": path}
        return told | ({"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 130}} if self.sha256 else {})


@dataclass(frozen=True)
class Commit:
    parent: str | None
    message: str
    files: Mapping[str, Entry]

    def matching(self, listed: str | list[str]) -> list[str]:
        """The files that a pattern matches, or names."""
        if isinstance(listed, list):
            return listed
        return fnmatch.filter(self.files, listed) or [listed]

    def shards_of(self, config: str) -> set[str] | None:
        """The files of a config by its manifest; None without one."""
        zoo = config.removesuffix("-meta")
        for path in (f"_meta/{zoo}/manifest.json", f"{zoo}/manifest.json"):
            if path in self.files:
                manifest = json.loads(self.files[path].blob.read_text())
                return {shard["path"] for shard in manifest["shards" if config == zoo else "meta"]}
        return None


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False  # open to its owner alone
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)  # digests of large files, committed or not

    def commit(self, ref: str, files: Mapping[str, Entry], message: str) -> str:
        sha = hashlib.sha1(f"{self.name} {ref} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = Commit(self.refs.get(ref), message, dict(files))
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    @property
    def head(self) -> Commit:
        return self.commits[self.refs["main"]]

    def broken(self) -> list[str]:
        """What cards list otherwise than their commit's manifests, over the whole history of all branches."""
        found = []
        for sha, commit in self.commits.items():
            if "README.md" in commit.files:
                block = yaml.safe_load(commit.files["README.md"].blob.read_text().split("---")[1])
                for config in block.get("configs", []):
                    listed = {path for part in config["data_files"] for path in commit.matching(part["path"])}
                    expected = commit.shards_of(config["config_name"])
                    found += [f"{sha}: {path}" for path in listed ^ (listed if expected is None else expected)]
                    found += [f"{sha}: {path}" for path in listed if path not in commit.files]
        return found


@dataclass
class Fault:
    """What happens to the next requests that match: the connection is cut in the middle, a status, or `before`."""

    method: str
    path: str
    status: int | None = None
    times: int = 1
    skip: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None


class Hub:
    """State of the server. `sent`: bytes by path to clients; `received`: bytes of large files by digest."""

    def __init__(self, folder: Path) -> None:
        self.objects = folder
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.tokens = {WRITER: ("somebody", True), READER: ("reader", False)}
        self.faults: list[Fault] = []
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.requests: list[str] = []
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()

    def reset(self) -> None:
        self.sent.clear()
        self.received.clear()
        self.requests.clear()

    def of(self, suffix: str) -> int:
        return sum(count for path, count in self.sent.items() if path.endswith(suffix))

    def store(self, data: bytes, large: bool) -> Entry:
        digest = hashlib.sha256(data).hexdigest()
        (self.objects / digest).write_bytes(data)
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return Entry(self.objects / digest, len(data), oid, digest if large else None)

    def make(self, name: str, private: bool = False, files: Mapping[str, Entry] | None = None) -> Repo:
        repo = self.repos[name] = Repo(name, private)
        repo.commit("main", files or {".gitattributes": self.store(b"*.parquet filter=lfs\n", False)}, "initial commit")
        return repo

    def put(self, name: str, path: str, data: bytes) -> None:
        """Somebody else's commit."""
        repo = self.repos[name]
        repo.commit("main", {**repo.head.files, path: self.store(data, path.endswith(LARGE))}, f"Write {path}")

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None


@contextmanager
def serving(folder: Path | None = None, name: str = "somebody/model-zoos") -> Iterator[Hub]:
    """A hub that holds the files of a folder as a dataset, or nothing."""
    with tempfile.TemporaryDirectory() as objects:
        hub = Hub(Path(objects))
        if folder is not None:
            files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
            hub.make(name, files={
                path.relative_to(folder).as_posix(): Entry(
                    path, path.stat().st_size, hashlib.sha1(str(path).encode()).hexdigest(), None
                ) for path in files
            })  # fmt: skip
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD  # noqa: N815

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        length = int(self.headers.get("Content-Length") or 0)
        self.hub.requests.append(f"{self.command} {parts.path}")
        fault = self.hub.fault(self.command, parts.path)
        try:
            if fault is not None and fault.before is not None:
                fault.before()
            elif fault is not None and fault.status is None:
                self.rfile.read(length // 2)
                self.close_connection = True
                self.connection.shutdown(2)
                return
            self.body = self.chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
            if fault is not None and fault.status is not None:
                self.give({"error": "a fault"}, fault.status, fault.headers)
            else:
                with self.hub.lock:
                    self.route()
        except _RefusedError as refused:
            self.give({"error": refused.headers["X-Error-Message"]}, refused.status, refused.headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def give(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for key, said in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, said)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def route(self) -> None:
        for old, new in self.hub.renamed.items():
            if f"/datasets/{old}/" in f"{self.path.partition('?')[0]}/":
                self.give({}, 307, {"Location": self.hub.url + self.path.replace(old, new, 1)})
                return
        match self.segments:
            case ["api", "whoami-v2"]:
                self.give({"type": "user", "name": self.user()[0], "orgs": []})
            case ["api", "validate-yaml"]:
                if len(self.body) > MOST_JSON:
                    raise _RefusedError(413, message="request entity too large")
                self.give({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self.create()
            case ["api", "datasets", space, name, *rest]:
                self.api(self.repo(f"{space}/{name}"), rest)
            case ["api", "models", space, name, *rest]:
                self.api(self.repo(f"models/{space}/{name}"), rest)
            case ["datasets", space, name, "info", "lfs", "objects", "batch"]:
                self.write(self.repo(f"{space}/{name.removesuffix('.git')}"))
                self.batch(self.repo(f"{space}/{name.removesuffix('.git')}"))
            case ["datasets", space, name, "resolve", revision, *path]:
                repo = self.repo(f"{space}/{name}")
                self.file(self.commit(repo, revision), repo, "/".join(path))
            case [space, name, "resolve", revision, *path]:
                repo = self.repo(f"models/{space}/{name}")
                self.file(self.commit(repo, revision), repo, "/".join(path))
            case ["objects", space, name, digest, *part]:
                self.upload(self.hub.repos[f"{space}/{name}"], digest, part)  # the signature stands for the token
            case _:
                raise _RefusedError(404, "EntryNotFound")

    def user(self) -> tuple[str, bool]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise _RefusedError(401, message="Invalid credentials in Authorization header")
        return self.hub.tokens.get(token, ("", False))

    def repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.user()[0] != name.partition("/")[0]):
            self.user()
            raise _RefusedError(
                404 if self.headers.get("Authorization") else 401, "RepoNotFound", "Repository not found"
            )
        if repo.gated and self.user()[0] != name.partition("/")[0]:
            raise _RefusedError(
                403 if self.headers.get("Authorization") else 401,
                "GatedRepo",
                f"Access to dataset {name} is restricted.",
            )
        return repo

    def write(self, repo: Repo) -> None:
        name, may = self.user()
        if not may or name != repo.name.partition("/")[0]:
            raise _RefusedError(403, message="you have read access only")

    def commit(self, repo: Repo, revision: str) -> str:
        sha = repo.find(revision)
        if sha is None:
            raise _RefusedError(404, "RevisionNotFound", "Revision not found")
        return sha

    def create(self) -> None:
        asked = json.loads(self.body)
        user, may = self.user()
        if not user:
            raise _RefusedError(401, message="Invalid username or password.")
        name = f"{asked['organization'] or user}/{asked['name']}"
        if not may or name.partition("/")[0] != user:
            raise _RefusedError(
                403, message=f"You don't have the rights to create a dataset under {asked['organization']}"
            )
        if name in self.hub.repos:
            self.give({"url": f"{self.hub.url}/datasets/{name}", "error": "exists"}, 409)
        else:
            self.hub.make(name, asked.get("visibility") == "private")
            self.give({"url": f"{self.hub.url}/datasets/{name}"})

    def api(self, repo: Repo, rest: list[str]) -> None:
        match rest:
            case [] | ["revision", _]:
                sha = self.commit(repo, rest[1] if rest else "main")
                files = [{"rfilename": path} for path in sorted(repo.commits[sha].files)]
                self.give({"id": repo.name, "sha": sha, "siblings": files, "private": repo.private, "tags": [],
                           "downloads": 0, "likes": 0})  # fmt: skip
            case ["refs"]:
                heads = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
                self.give({"branches": heads, "converts": [], "tags": []})
            case ["tree", revision, *path]:
                self.tree(repo.commits[self.commit(repo, revision)], "/".join(path))
            case ["paths-info", revision]:
                files = repo.commits[self.commit(repo, revision)].files
                fields = json.loads(self.body) if self.body[:1] == b"{" else parse_qs(self.body.decode())
                self.give([files[path].told(path) for path in fields.get("paths", []) if path in files])
            case ["branch", name]:
                self.write(repo)
                repo.refs[name] = self.commit(repo, json.loads(self.body or b"{}").get("startingPoint") or "main")
                self.give({})
            case ["preupload", revision]:
                if "create_pr" not in self.query:
                    self.write(repo)
                self.preupload(repo.commits[self.commit(repo, revision)])
            case ["commit", revision]:
                self.accept(repo, revision)
            case _:
                raise _RefusedError(404, "EntryNotFound")

    def tree(self, commit: Commit, under: str) -> None:
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        found: dict[str, dict[str, object]] = {}
        for path, entry in commit.files.items():
            if under and not path.startswith(under + "/"):
                continue
            head, _, tail = path[len(under) + 1 if under else 0 :].partition("/")
            if tail:
                folder = f"{under}/{head}" if under else head
                found[folder] = {"type": "directory", "oid": "d" * 40, "size": 0, "path": folder}
            if recursive or not tail:
                found[path] = entry.told(path)
        if under and not found:
            raise _RefusedError(404, "EntryNotFound", f"{under} does not exist")
        self.give(list(found.values()))

    def preupload(self, commit: Commit) -> None:
        told = []
        for file in json.loads(self.body)["files"]:
            there = commit.files.get(file["path"])
            large = file["path"].endswith(LARGE) or file["size"] > MOST_TEXT
            told.append({
                "path": file["path"], "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False, "oid": there and (there.sha256 or there.oid),
            })  # fmt: skip
        self.give({"files": told})

    def batch(self, repo: Repo) -> None:
        told = []
        for wanted in json.loads(self.body)["objects"]:
            digest, size = wanted["oid"], wanted["size"]
            one: dict[str, object] = {"oid": digest, "size": size}
            if digest not in repo.arrived:
                href = f"{self.hub.url}/objects/{repo.name}/{digest}"
                count = -(-size // PART)
                header = {str(n + 1): f"{href}/{n + 1}?{SIGNATURE}" for n in range(count)} | {"chunk_size": str(PART)}
                one["actions"] = {
                    "upload": {"href": f"{href}/complete", "header": header} if count > 1 else
                    {"href": f"{href}?{SIGNATURE}"},
                    "verify": {"href": f"{href}/verify"},
                }  # fmt: skip
            told.append(one)
        self.give({"transfer": "multipart", "objects": told})

    def upload(self, repo: Repo, digest: str, part: list[str]) -> None:
        match part:
            case ["verify"]:
                if digest not in repo.arrived:
                    raise _RefusedError(404, message="object was not uploaded")
                self.give({})
            case ["complete"]:
                numbers = [one["partNumber"] for one in json.loads(self.body)["parts"]]
                self.keep(repo, digest, b"".join(self.hub.parts.pop((digest, number)) for number in numbers))
            case [number]:
                self.hub.received[digest] += len(self.body)
                self.hub.parts[digest, int(number)] = self.body
                self.give({}, headers={"ETag": hashlib.md5(self.body).hexdigest()})
            case _:
                self.hub.received[digest] += len(self.body)
                self.keep(repo, digest, self.body)

    def keep(self, repo: Repo, digest: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != digest:
            raise _RefusedError(400, message="content and digest do not agree")
        self.hub.store(data, True)
        repo.arrived.add(digest)
        self.give({})

    def accept(self, repo: Repo, revision: str) -> None:
        opens = "create_pr" in self.query
        if not opens:
            self.write(repo)
        elif not self.user()[0]:
            raise _RefusedError(401, message="log in")
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = self.commit(repo, revision)
        expected = header.get("parentCommit")
        if expected and not head.startswith(expected) and not opens:
            raise _RefusedError(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                if len(content) > MOST_TEXT:
                    raise _RefusedError(413, message=f"{value['path']} must be sent as a large file")
                files[value["path"]] = self.hub.store(content, False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.arrived:
                    raise _RefusedError(400, message=f"{value['path']}: its content was not uploaded")
                files[value["path"]] = self.hub.store((self.hub.objects / value["oid"]).read_bytes(), True)
            elif line["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                raise _RefusedError(404, "EntryNotFound", "A file with this name doesn't exist")
        number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
        ref = f"refs/pr/{number}" if opens else revision
        if opens:
            repo.refs[ref] = head
        sha = repo.commit(ref, files, header["summary"])
        url = f"{self.hub.url}/datasets/{repo.name}"
        pull = {"pullRequestUrl": f"{url}/discussions/{number}"} if opens else {}
        self.give({"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", **pull})

    def file(self, sha: str, repo: Repo, path: str) -> None:
        entry = repo.commits[sha].files.get(path)
        if entry is None:
            raise _RefusedError(404, "EntryNotFound", f"{path} does not exist")
        start, stop, asked = 0, entry.size, self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else entry.size - int(last)
            stop = min(int(last) + 1, entry.size) if first and last else entry.size
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{entry.sha256 or entry.oid}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{entry.size}")
        self.end_headers()
        if self.command != "HEAD":
            with entry.blob.open("rb") as content:
                content.seek(start)
                data = content.read(stop - start)
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data)
            self.hub.sent[path] += len(data)
