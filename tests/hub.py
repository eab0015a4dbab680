"""A small hub on localhost for tests: the routes of models, with redirects, ranges, and faults to order."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from followyourpose.hub import resolve

LARGE = 1000  # bytes from which a file is stored apart, and found by a redirect, as LFS files are


@dataclass
class Hub:
    """Repositories by name and revision, and faults by address.

    Attributes:
        repositories: (name, revision) -> its folder; a revision is a branch or a commit.
        status: name of a repository -> an HTTP status in place of its answer, such as 401, 403 or 500.
        cuts: name of a file -> bytes after which each connection for it is cut, once per entry.
        stalls: name of a file -> bytes after which a connection for it stands still, once per entry.
        wrong: names of files whose bytes come altered; slow: seconds before each answer.
        uploads: folder of the repositories that are pushed, by user "me".
        requests: method, path and Range header of every request.
    """

    address: str = ""
    repositories: dict[tuple[str, str], Path] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    stalls: dict[str, list[int]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    slow: float = 0.0
    uploads: Path = Path("uploads")
    ended: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    @property
    def storage(self) -> str:
        """Address of the large files, another host than the hub's, as it is in the world."""
        return self.address.replace("127.0.0.1", "localhost")

    def add(self, name: str, folder: Path, revision: str = "main") -> None:
        """Serve a folder as a repository."""
        self.repositories[name, revision] = folder
        self.repositories[name, commit_of(name, revision)] = folder

    def asked_for(self, file: str) -> list[str | None]:
        """Return the Range headers of the requests for the bytes of a file."""
        return [given for method, path, given in self.requests if method == "GET" and path.endswith(f"/{file}")]


def commit_of(name: str, revision: str) -> str:
    """Return the commit, 40 hexadecimal digits, of a repository's revision."""
    return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub that listens on localhost until the end of the block."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield hub
        hub.ended.set()
        server.shutdown()
        thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path) -> None:
    """Let huggingface_hub in this process, and in those that it starts, ask this hub alone and keep its cache there."""
    from huggingface_hub import constants, hf_api

    resolve._from_hub.cache_clear()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(cache / "xet"), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            name = f"me/{json.loads(body)['name']}"
            self.hub.add(name, self.hub.uploads / name)
            self._json({"url": f"{self.hub.address}/{name}", "name": name})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.hub.storage}/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(self.hub.repositories[match[1], "main"], map(json.loads, body.splitlines()))
            self._json({"commitUrl": f"{self.hub.address}/{match[1]}/commit/1", "commitOid": "1"})
        else:
            self._json({})

    def do_PUT(self) -> None:
        """Store a large file under its checksum, to which a commit refers."""
        self.hub.uploads.mkdir(exist_ok=True)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        (self.hub.uploads / urlsplit(self.path).path[1:]).write_bytes(content)
        self._json({})

    def _commit(self, folder: Path, entries: Iterator[dict]) -> None:
        for entry in entries:
            if entry["key"] in ("file", "lfsFile"):
                file, value = folder / entry["value"]["path"], entry["value"]
                file.parent.mkdir(parents=True, exist_ok=True)
                large = self.hub.uploads / value.get("oid", "")
                file.write_bytes(large.read_bytes() if "oid" in value else base64.b64decode(value["content"]))

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        time.sleep(self.hub.slow)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(revision|tree)/([^/]+))?/?", path):
            name, kind, revision = match[1], match[3] or "revision", match[4] or "main"
            if (folder := self._repository(name, revision)) is None:
                return
            self._json(self._tree(folder) if kind == "tree" else self._info(name, revision, folder))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = match.groups()
            if (folder := self._repository(name, revision)) is None:
                return
            if not (folder / file).is_file():
                self._error(404, "EntryNotFound", {"X-Repo-Commit": commit_of(name, "main")})
                return
            self._file(name, revision, folder, file)
        elif match := re.fullmatch(r"/stored/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            name, revision, file = match.groups()
            self._bytes(self.hub.repositories[name, revision] / file, {})
        elif match := re.fullmatch(r"/files/([^/]+/[^/]+)/(.+)", path):  # a plain web server
            folder = self.hub.repositories.get((match[1], "main"))
            if match[1] in self.hub.status or folder is None or not (folder / match[2]).is_file():
                self._error(self.hub.status.get(match[1], 404), "", {})
            else:
                self._bytes(folder / match[2], {})
        else:
            self._error(404, "RepoNotFound", {})

    def _repository(self, name: str, revision: str) -> Path | None:
        if (status := self.hub.status.get(name)) is not None:
            self._error(status, "GatedRepo" if status == 403 else "", {})
            return None
        if (folder := self.hub.repositories.get((name, revision))) is None:
            known = any(name == other for other, _ in self.hub.repositories)
            self._error(404, "RevisionNotFound" if known else "RepoNotFound", {})
        return folder

    @staticmethod
    def _tree(folder: Path) -> list[dict]:
        entries = []
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            content = file.read_bytes()
            entry = {"type": "file", "path": file.relative_to(folder).as_posix(), "size": len(content)}
            entry["oid"] = hashlib.sha1(content).hexdigest()
            if len(content) >= LARGE:
                checksum = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": checksum, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries

    def _info(self, name: str, revision: str, folder: Path) -> dict:
        named = revision if len(revision) < 40 else "main"
        files = [{"rfilename": entry["path"]} for entry in self._tree(folder)]
        return {"id": name, "modelId": name, "sha": commit_of(name, named), "siblings": files, "tags": []}

    def _file(self, name: str, revision: str, folder: Path, file: str) -> None:
        content = (folder / file).read_bytes()
        commit = revision if len(revision) == 40 else commit_of(name, revision)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if len(content) < LARGE:
            self._bytes(folder / file, headers)
            return
        headers |= {
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Location": f"{self.hub.storage}/stored/{name}/{revision}/{file}",
            "Content-Length": "0",
        }
        self._headers(302, headers)

    def _bytes(self, path: Path, headers: dict[str, str]) -> None:
        content = path.read_bytes()
        if path.name in self.hub.wrong:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(match[1])
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        rest = content[start:]
        self._headers(206 if start else 200, headers | {"Content-Length": str(len(rest)), "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        cuts, stalls = self.hub.cuts.get(path.name), self.hub.stalls.get(path.name)
        if cuts or stalls:
            self.wfile.write(rest[: (cuts or stalls).pop(0)])
            self.wfile.flush()
            if stalls is not None and not cuts:
                self.hub.ended.wait(60)
            self.close_connection = True
            return
        self.wfile.write(rest)

    def _json(self, content: object) -> None:
        text = json.dumps(content).encode()
        self._headers(200, {"Content-Type": "application/json", "Content-Length": str(len(text))})
        if self.command != "HEAD":
            self.wfile.write(text)

    def _error(self, status: int, code: str, headers: dict[str, str]) -> None:
        headers = headers | ({"X-Error-Code": code} if code else {}) | {"X-Error-Message": code, "Content-Length": "0"}
        self._headers(status, headers)

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
