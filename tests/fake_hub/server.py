"""The hub's HTTP side."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.fake_hub.faults import FILE_KINDS, Fault, Kind
from tests.fake_hub.hub import FakeHub, Request
from tests.fake_hub.repository import HubFile

_PIECE_BYTES = 64 * 1024
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(?:/(?P<what>revision|tree)/(?P<rev>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<name>.+)")
_CDN = re.compile(r"/cdn/(?P<repo>[^/]+/[^/]+)/(?P<name>.+)")


class HubRequest(BaseHTTPRequestHandler):
    """One request: a fault of the hub, or the truthful answer."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/_fake/requests":
            self._send_json([vars(request) for request in self.hub.requests])
            return
        token = self.headers.get("authorization")
        faults = self.hub.note(Request(self.command, path, self.headers.get("range"), token))
        for fault in faults:
            if fault.kind not in FILE_KINDS:
                self._fail(fault)
                return
        self._route(path, {fault.kind: fault for fault in faults})

    def _route(self, path: str, faults: dict[Kind, Fault]) -> None:
        found = _CDN.fullmatch(path) or _API.fullmatch(path) or _RESOLVE.fullmatch(path)
        files = self.hub.files(found["repo"]) if found else None
        if found is None or files is None:
            self._no_repo()
            return
        asked = found.groupdict()
        commit = self.hub.commit(asked["repo"])
        if asked.get("rev") not in (None, "main", commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {asked['rev']}")
        elif "what" in asked:
            self._api(asked["repo"], asked["what"], files, commit)
        elif asked["name"] not in files:
            self._error(404, "EntryNotFound", "Entry not found")
        elif "rev" in asked:
            self._resolve(asked["repo"], asked["name"], files[asked["name"]], commit, faults)
        else:
            self._send_file(files[asked["name"]], {}, faults)

    def _api(self, repo: str, what: str | None, files: dict[str, HubFile], commit: str) -> None:
        if what == "tree":
            self._send_json([file.tree_entry(name) for name, file in files.items()])
            return
        info = {"id": repo, "modelId": repo, "sha": commit, "private": False, "gated": False}
        self._send_json(info | {"siblings": [{"rfilename": name} for name in files], "tags": []})

    def _resolve(
        self, repo: str, name: str, file: HubFile, commit: str, faults: dict[Kind, Fault]
    ) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            self._send_file(file, headers, faults)
            return
        huge = faults.get(Kind.HUGE)
        headers["X-Linked-Size"] = str(huge.at if huge else file.size)
        headers["X-Linked-ETag"] = f'"{file.etag}"'
        headers["Location"] = f"{self.hub.cdn}/cdn/{repo}/{name}"
        self._head(302, headers | {"Content-Length": "0"})

    def _send_file(self, file: HubFile, headers: dict[str, str], faults: dict[Kind, Fault]) -> None:
        start = _range_start(self.headers.get("range"))
        if start:
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        headers["Content-Length"] = str(file.size - start)
        self._head(206 if start else 200, headers)
        if self.command == "GET":
            self._send_body(file, start, faults)

    def _send_body(self, file: HubFile, start: int, faults: dict[Kind, Fault]) -> None:
        stop = next((faults[kind] for kind in (Kind.CUT, Kind.STALL) if kind in faults), None)
        end = min(file.size, stop.at) if stop else file.size
        rate = faults[Kind.SLOW].rate if Kind.SLOW in faults else 0
        with file.path.open("rb") as content:
            content.seek(start)
            while (left := end - content.tell()) > 0 and not self.hub.closing.is_set():
                piece = content.read(min(left, _PIECE_BYTES))
                self.wfile.write(piece)
                time.sleep(len(piece) / rate if rate else 0)
        if stop:
            self.wfile.flush()
            self.close_connection = True
            if stop.kind is Kind.STALL:
                self.hub.closing.wait()

    def _fail(self, fault: Fault) -> None:
        repo = "this model"
        match fault.kind:
            case Kind.SILENT:
                self.hub.closing.wait()
                self.close_connection = True
            case Kind.GATED if self.headers.get("authorization"):
                words = f"Access to {repo} is restricted and you are not in the authorized list."
                self._error(403, "GatedRepo", words)
            case Kind.GATED:
                words = f"Access to {repo} is restricted. You must have access to it and be"
                self._error(401, "GatedRepo", f"{words} authenticated to access it.")
            case Kind.INVALID_TOKEN:
                self._error(401, None, "Invalid credentials in Authorization header")
            case Kind.FORBIDDEN:
                self._error(403, None, "Your token lacks the permission to read it")
            case Kind.DISABLED:
                self._error(403, None, "Access to this resource is disabled.")
            case Kind.RATE_LIMITED:
                limit = {"RateLimit": f'"api";r=0;t={fault.seconds}'}
                self._error(429, None, "Too many requests", limit)
            case Kind.NOT_A_HUB:
                self._send(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
            case _:
                self._error(503, None, "Service unavailable")

    def _no_repo(self) -> None:
        """The hub tells only those who show a token that a repository does not exist."""
        if self.headers.get("authorization"):
            self._error(404, "RepoNotFound", "Repository not found")
        else:
            self._error(401, None, "Invalid username or password.")

    def _error(
        self, status: int, code: str | None, message: str, more: dict[str, str] | None = None
    ) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers | (more or {}))

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, headers | {"Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Clients that are killed in the middle of a file are what this server is for.
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet."""


def listen(hub: FakeHub) -> _Server:
    server = _Server(("127.0.0.1", hub.port), type("Bound", (HubRequest,), {"hub": hub}))
    hub.port = server.server_address[1]
    return server


@contextmanager
def running_hub(root: Path, *faults: Fault) -> Iterator[FakeHub]:
    """A hub on a free port, in a thread of this process."""
    hub = FakeHub(root, list(faults))
    server = listen(hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _range_start(header: str | None) -> int:
    found = re.match(r"bytes=(\d+)-", header or "")
    return int(found[1]) if found else 0
