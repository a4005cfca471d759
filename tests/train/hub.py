"""A stand-in of the Hub on loopback, as far as pushing goes: the real client can't tell.

    with Hub() as hub:                    # hub.url is what HF_ENDPOINT is set to
        hub.repos["dataset", "me/rows"].files["README.md"]

It speaks what huggingface_hub needs: create, info, card check, preupload and commit, and for large
files both ways: LFS (batch, one PUT an object, verify) and Xet (a write token, then blocks and
shards, which it counts and does not open). ``refuse`` answers all requests with a status, ``cut``
closes the connection in the middle of the uploads of so many bytes or more.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TOKEN = "hf_" + "standin" * 5
LFS_SUFFIXES = (".safetensors", ".parquet")
_REPO = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(/.*)?")
_BATCH = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    xet: dict[str, str] = field(default_factory=dict)  # sha256 of files that came by Xet
    commits: list[list[str]] = field(default_factory=list)  # the paths of each


class Hub:
    """State, failures on demand, and what was asked of it."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # uploaded, by sha256
        self.received: list[tuple[str, int]] = []  # whole uploads: sha256 and size
        self.blocks: list[int] = []  # sizes of those that came by Xet
        self.refuse: int | None = None
        self.cut: int | None = None
        self.cuts = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, wish: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = f"{wish['organization']}/{wish['name']}"
        key = (wish.get("type") or "model", name)
        prefix = "datasets/" if key[0] == "dataset" else ""
        there = key in self.repos
        if not there:
            self.repos[key] = Repository(private=wish.get("visibility") == "private")
        return (409 if there else 200), {"url": f"{self.url}/{prefix}{name}", "name": name}

    def about(self, kind: str, name: str) -> tuple[int, dict[str, Any]]:
        repo = self.repos[kind, name]
        files = [{"rfilename": path} for path in repo.files]
        sha = f"{len(repo.commits):040x}"
        told = {"id": name, "private": repo.private, "sha": sha, "siblings": files, "tags": []}
        return 200, told | {"downloads": 0, "likes": 0}

    def preupload(self, kind: str, name: str, wish: dict[str, Any]) -> dict[str, Any]:
        own, told = self.repos[kind, name].files, []
        xet = self.repos[kind, name].xet
        for file in wish["files"]:
            path, data = file["path"], own.get(file["path"])
            lfs = path.endswith(LFS_SUFFIXES)
            oid = None if data is None else sha256(data) if lfs else git_sha(data)
            oid = xet.get(path, oid)
            mode = "lfs" if lfs else "regular"
            told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": told}

    def batch(self, wish: dict[str, Any]) -> dict[str, Any]:
        told = []
        for one in wish["objects"]:
            actions = {"upload": {"href": f"{self.url}/put/{one['oid']}"}}
            actions["verify"] = {"href": f"{self.url}/verify"}
            there = one["oid"] in self.objects
            told.append(one if there else {**one, "actions": actions})
        return {"transfer": "basic", "objects": told}

    def commit(self, kind: str, name: str, lines: bytes) -> dict[str, Any]:
        repo, paths = self.repos[kind, name], []
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and value["oid"] in self.objects:
                repo.files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "lfsFile":
                repo.xet[value["path"]] = value["oid"]
            else:
                continue
            paths.append(value["path"])
        repo.commits.append(sorted(paths))
        oid = f"{len(repo.commits):040x}"
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer_json()

        do_POST = do_GET

        def answer_json(self) -> None:
            length = int(self.headers["Content-Length"] or 0)
            if self.path.startswith("/v1/xorbs/") and self.cut_off(length):
                return
            body = self.body()
            if self.path.startswith(("/v1/", "/v2/")):
                return self.reply(*self.store(self.path, len(body)))
            if hub.refuse:
                # As careless servers do: what came is in the answer.
                said = f"refused: {self.headers['Authorization']}"
                return self.reply(hub.refuse, {"error": said})
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self.reply(401, {"error": "Invalid username or password."})
            self.reply(*self.route(self.path.partition("?")[0], body))

        def route(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
            if path == "/api/repos/create":
                return hub.create(json.loads(body))
            if path == "/api/validate-yaml":
                return 200, {"errors": [], "warnings": []}
            if path == "/verify":
                wish = json.loads(body)
                return (200 if len(hub.objects[wish["oid"]]) == wish["size"] else 400), {}
            if _BATCH.fullmatch(path):
                return 200, hub.batch(json.loads(body))
            found = _REPO.fullmatch(path)
            if found is None or (found[1], found[2]) not in hub.repos:
                return 404, {"error": f"not here: {path}"}
            kind, name, rest = found[1], found[2], found[3] or ""
            if rest.startswith("/xet-write-token/"):
                soon = int(time.time()) + 3600
                return 200, {"casUrl": hub.url, "exp": soon, "accessToken": "for-the-storage"}
            if rest.startswith("/preupload/"):
                return 200, hub.preupload(kind, name, json.loads(body))
            if rest.startswith("/commit/"):
                return 200, hub.commit(kind, name, body)
            return hub.about(kind, name)

        def store(self, path: str, size: int) -> tuple[int, dict[str, Any]]:
            """Xet's storage; of its newer calls it knows none, and the client goes the old way."""
            if path.startswith("/v1/xorbs/"):
                hub.blocks.append(size)
                return 200, {"was_inserted": True}
            return (200, {"result": 1}) if path == "/v1/shards" else (404, {})

        def cut_off(self, length: int) -> bool:
            if hub.cut is None or length < hub.cut:
                return False
            self.rfile.read(length // 2)
            hub.cuts += 1
            self.close_connection = True
            self.connection.close()
            return True

        def do_PUT(self) -> None:
            length = int(self.headers["Content-Length"])
            if self.cut_off(length):
                return
            oid, data = self.path.rpartition("/")[2], self.rfile.read(length)
            if sha256(data) != oid:
                return self.reply(400, {"error": "another object"})
            hub.objects[oid] = data
            hub.received.append((oid, length))
            self.reply(200, {})

        def body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def reply(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
