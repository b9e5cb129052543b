"""Our own endpoints are an ASGI app: an exchange, as such an app sees it.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from proxy.server.exchange import Exchange
from proxy.server.request import MAX_PATH_BYTES


def decoded(path: bytes) -> str:
    """A request's path, as ASGI has it, as far as any path of ours goes."""
    return unquote(path[:MAX_PATH_BYTES].decode("latin-1"))


async def run_asgi(app: ASGIApp, exchange: Exchange, state: Mapping[str, Any]) -> None:
    """Let `app` answer a request; it finds `state` in `request.state`."""
    request = exchange.request

    async def receive() -> Message:
        # None of these endpoints takes a body, streams its answer, or asks for its client.
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.start(message["status"], [*message.get("headers", ())])
        elif message.get("more_body", False):
            exchange.write(message.get("body", b""))
        else:
            exchange.end(message.get("body", b""))

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.version,
        "method": request.method,
        "scheme": "http",
        "path": decoded(request.path),
        "raw_path": request.target.partition(b"?")[0],
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": (request.client, 0) if request.client is not None else None,
        "server": (None, request.port),
        "state": dict(state),
    }
    await app(scope, receive, send)
