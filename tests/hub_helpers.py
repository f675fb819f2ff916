"""A server on loopback that speaks what reading asks for of the Hugging Face hub's protocol.

Written after what `huggingface_hub` 2.4 sends and what it makes of the answers: repository,
revision, tree (in pages), paths, and files whole or by ranges, large ones behind a redirect, as
Git LFS keeps them. It knows no Xet, no writing and no rate limits of its own.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_a_token_of_the_tests"
# What the `.gitattributes` of a new dataset sends to LFS.
_LFS = {".parquet", ".arrow", ".gz", ".zst", ".bz2"}
_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


class Refusal(Exception):
    """An answer that is an error: its status, and how the hub calls it."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message or code


class Blob(NamedTuple):
    """A file of a repository as git and LFS name it."""

    path: Path
    size: int
    git: str
    sha256: str


@cache
def _blob(path: Path, _written_ns: int) -> Blob:
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return Blob(path, len(data), git, hashlib.sha256(data).hexdigest())


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.files_url = ""  # where LFS keeps files: another host, to which clients must go on
        self.revisions: dict[str, dict[str, Path]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.page_entries = 1000
        self.asked: list[str] = []
        # Until it goes away it answers so many more requests for files; None: for ever.
        self.files_left: int | None = None

    def add(self, name: str, directory: Path, revision: str = "main") -> str:
        """Serve a directory as a dataset; return its path as a recipe has it."""
        self.revisions.setdefault(name, {})[revision] = directory
        return f"hf://datasets/{name}" + ("" if revision == "main" else f"@{revision}")

    def files(self, name: str, revision: str) -> dict[str, Blob]:
        """Return the files of a branch, tag or commit by their path in it; `Refusal`: none such."""
        for branch, root in self.revisions[name].items():
            paths = sorted(path for path in root.rglob("*") if path.is_file())
            files = {
                path.relative_to(root).as_posix(): _blob(path, path.stat().st_mtime_ns)
                for path in paths
            }
            if revision in (branch, commit_of(files)):
                return files
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def check(self, name: str, token: str) -> None:
        """Raise `Refusal` where this caller gets nothing of the dataset."""
        hidden = name not in self.revisions or (name in self.private and token != TOKEN)
        if hidden:  # who is not known is not told which of the two it is
            raise Refusal(404 if token == TOKEN else 401, "RepoNotFound", "Repository not found")


def commit_of(files: dict[str, Blob]) -> str:
    """Name a commit by what it holds."""
    return hashlib.sha1(
        repr([(path, blob.git) for path, blob in files.items()]).encode()
    ).hexdigest()


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def _json(content: object, **headers: str) -> _Answer:
    return _Answer(
        200, {"Content-Type": "application/json", **headers}, json.dumps(content).encode()
    )


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing on the terminal."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{self.command} {self.path}")
        if self.hub.files_left == 0:
            self.close_connection = True
            return
        try:
            answer = self._answer(body)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            answer = _Answer(refusal.status, headers, json.dumps({"error": refusal.code}).encode())
        self.send_response(answer.status)
        for key, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_POST = do_GET

    def _answer(self, body: bytes) -> _Answer:
        url = urlsplit(self.path)
        _, _, token = self.headers.get("Authorization", "").partition("Bearer ")
        if match := _API.fullmatch(url.path):
            name, what, revision, path = (part and unquote(part) for part in match.groups())
            self.hub.check(name, token)
            files = self.hub.files(name, revision or "main")
            if what in (None, "revision"):
                return _json(self._repository(name, files))
            if what == "tree":
                return self._tree(path or "", _entries(files), parse_qs(url.query))
            wanted = parse_qs(body.decode()).get("paths", [])
            return _json([entry for entry in _entries(files) if entry["path"] in wanted])
        if match := _FILE.fullmatch(url.path):
            name, revision, path = map(unquote, match.groups())
            return self._resolve(name, revision, path, token)
        if url.path.startswith("/lfs/"):
            return self._content(Path(unquote(url.path.removeprefix("/lfs"))))
        if url.path.startswith("/api/models/"):
            raise Refusal(401, "RepoNotFound", "Repository not found")
        raise Refusal(404, "NotFound")

    def _repository(self, name: str, files: dict[str, Blob]) -> dict[str, Any]:
        return {
            "id": name,
            "sha": commit_of(files),
            "private": name in self.hub.private,
            "gated": "auto" if name in self.hub.gated else False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in files],
        }

    def _tree(
        self, folder: str, entries: list[dict[str, Any]], query: dict[str, list[str]]
    ) -> _Answer:
        prefix = f"{folder}/" if folder else ""
        below = [entry for entry in entries if entry["path"].startswith(prefix)]
        if not below:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        if query["recursive"][0].lower() != "true":
            below = [entry for entry in below if "/" not in entry["path"].removeprefix(prefix)]
        start = int(query.get("cursor", ["0"])[0])
        stop = start + self.hub.page_entries
        headers = {}
        if stop < len(below):
            address = f"{self.hub.url}{urlsplit(self.path).path}"
            recursive = query["recursive"][0]
            headers["Link"] = f'<{address}?recursive={recursive}&cursor={stop}>; rel="next"'
        return _json(below[start:stop], **headers)

    def _resolve(self, name: str, revision: str, path: str, token: str) -> _Answer:
        self.hub.check(name, token)
        files = self.hub.files(name, revision)
        if name in self.hub.gated and token != TOKEN:
            raise Refusal(401, "GatedRepo", f"Access to dataset {name} is restricted.")
        blob = files.get(path)
        if blob is None:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit_of(files), "Accept-Ranges": "bytes"}
        if PurePosixPath(path).suffix not in _LFS:
            return self._content(blob.path, headers | {"ETag": f'"{blob.git}"'})
        linked = {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"'}
        return _Answer(
            302, headers | linked | {"Location": f"{self.hub.files_url}/lfs{blob.path}"}, b""
        )

    def _content(self, path: Path, headers: dict[str, str] | None = None) -> _Answer:
        if self.hub.files_left:
            self.hub.files_left -= 1
        data, headers = path.read_bytes(), headers or {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return _Answer(200, headers, data)
        start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return _Answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return _Answer(206, headers | where, data[start:stop])


def _entries(files: dict[str, Blob]) -> list[dict[str, Any]]:
    """List files and folders as the hub does."""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in files.items():
        for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
        entries[path] = {"type": "file", "oid": blob.git, "size": blob.size, "path": path}
        if PurePosixPath(path).suffix in _LFS:
            entries[path]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 132}
    return [entries[path] for path in sorted(entries)]


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub of no datasets on a free port of loopback for a block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.files_url = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="hub")
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
