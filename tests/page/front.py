"""What may stand between a browser and a sidecar: somebody who wants a key, and a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.engine.service import Service
from tests.patience import PATIENCE

# What needs no key: the page itself, and health.
_OPEN = ("/dashboard", "/health")
_PASSED = ("content-type", "content-security-policy")


@contextmanager
def in_front(service: Service, *, key: str = "", more_metrics: bytes = b"") -> Iterator[str]:
    """An address that leads to the sidecar: only with the key, and with more metrics."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(b"")

        def do_POST(self) -> None:
            self._pass_on(self.rfile.read(int(self.headers["content-length"])))

        def _pass_on(self, body: bytes) -> None:
            if key and not self.path.startswith(_OPEN) and not self._has_key():
                self._answer(401, {"content-type": "application/json"}, b"{}")
                return
            kind = {"content-type": self.headers.get("content-type", "text/plain")}
            with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
                answer = client.request(
                    self.command, service.url + self.path, content=body, headers=kind
                )
            content = answer.content + (more_metrics if self.path == "/metrics" else b"")
            self._answer(answer.status_code, answer.headers, content)

        def _has_key(self) -> bool:
            return self.headers.get("authorization") == f"Bearer {key}"

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name in _PASSED:
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
