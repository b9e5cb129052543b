"""As much of a Kubernetes API server as a watcher of pods sees: the list, and what changes."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "fleet"
_DELETED_AT = "2026-01-01T00:00:00Z"

Pod = dict[str, Any]


class Cluster:
    """`with Cluster() as cluster:`; pods are there from their first `put` on."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._changed = threading.Condition()
        self._events: list[Pod] = []
        self._ended = False
        cluster = self

        class Request(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cluster.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def put(self, name: str, address: str, *, ready: bool = True, deleted: bool = False) -> None:
        """A pod as it is from now on."""
        with self._changed:
            version = str(len(self._events) + 1)
            metadata = {"name": name, "namespace": NAMESPACE, "resourceVersion": version}
            metadata |= {"deletionTimestamp": _DELETED_AT} if deleted else {}
            self._events.append(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": metadata | {"labels": self._labels},
                    "status": {
                        "phase": "Running",
                        "podIP": address,
                        "conditions": [{"type": "Ready", "status": str(ready)}],
                    },
                }
            )
            self._changed.notify_all()

    def kubeconfig(self, folder: Path) -> str:
        """The path of a file by which clients find it."""
        path = folder / "kubeconfig"
        url = f"http://127.0.0.1:{self._server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """The list of pods, or, with `watch`, each change since a version, as it comes."""
        target = urlsplit(request.path)
        query = parse_qs(target.query)
        if target.path != f"/api/v1/namespaces/{NAMESPACE}/pods":
            request.send_error(403)
            return
        request.send_response(200)
        request.send_header("content-type", "application/json")
        request.end_headers()
        if "watch" not in query:
            metadata = {"resourceVersion": str(len(self._events))}
            newest = {each["metadata"]["name"]: each for each in self._events}
            items = list(newest.values())
            page = {"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items}
            request.wfile.write(json.dumps(page).encode())
            return
        sent = int(query["resourceVersion"][0])
        while new := self._after(sent):
            for pod in new:
                event = {"type": "MODIFIED", "object": pod}
                request.wfile.write(json.dumps(event).encode() + b"\n")
            request.wfile.flush()
            sent += len(new)

    def _after(self, sent: int) -> list[Pod]:
        """What has changed since, once something has; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._events) > sent)
            return [] if self._ended else self._events[sent:]
