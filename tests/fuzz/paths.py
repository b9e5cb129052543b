"""Request targets, in any spelling: what reaches the engine is what the allow-list names.

The way of a target: parsed as our server does it, looked up, sent on as the relay does it,
parsed and decoded as the engine's server does it, and matched with the routes of the engine
that is installed, all of them, whatever its flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute

from proxy.access.routes import ALIASES, RouteTable
from tests.fuzz.seeds import TOKENS
from tests.fuzz.source import Source
from tests.tools import installed

TABLE = RouteTable()
# What the engine may be asked: all that is declared but what the sidecar does itself.
ALLOWED = {
    path
    for path, (spec, _) in TABLE.listed.items()
    if not spec.is_translated and path != "/v1/models/{model}" and path.encode() not in ALIASES
}
_ROUTE = re.compile(
    r'@\w+\.(?:get|post|put|patch|delete|head|options|api_route|route|websocket)\(\s*"([^"]+)"'
)
# Registered by the frameworks that the engine stands on.
_OTHERS = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/adapters/{name}")
_MOUNTS = ("/metrics", "/static")
_TARGET = re.compile(rb"/[!-~\x80-\xff]*")


def run(data: bytes) -> None:
    """The target: how it is written first, then one request target."""
    check(Source(data).rest(TOKENS["paths"]))


def check(target: bytes) -> bytes | None:
    """Everything that holds for any target; returns what the engine is sent, if anything."""
    parsed = _parsed(target)
    if parsed is None:
        return None
    listed, query = parsed
    if TABLE.find(listed) is None:
        listed = listed.removesuffix(b"/")
    if TABLE.find(listed) is None:
        return None
    raw_path = ALIASES.get(listed, listed)
    sent = raw_path + (b"?" + query if query else b"")
    assert _TARGET.fullmatch(sent)
    seen = _parsed(sent)
    assert seen == (raw_path, query)
    assert matched(unquote(raw_path.decode("ascii"))) <= ALLOWED
    return sent


def matched(path: str) -> set[str]:
    """The engine's routes that a decoded path leads to, whatever the method."""
    found = set()
    for kind in ("http", "websocket"):
        scope: dict[str, Any] = {
            "type": kind,
            "method": "GET",
            "path": path,
            "root_path": "",
            "headers": [],
        }
        for route in engine_routes():
            if route.matches(scope)[0] is not Match.NONE:
                found.add(getattr(route, "path", ""))
    return found


@cache
def engine_routes() -> tuple[BaseRoute, ...]:
    """All routes in the source of the installed engine; it is read, not run."""
    mounts = [Mount(path, routes=[]) for path in _MOUNTS]
    return (*mounts, *(_any_kind(path) for path in {*_in_source(), *_OTHERS}))


def _any_kind(path: str) -> BaseRoute:
    async def endpoint() -> None: ...

    if path == "/v1/realtime":
        return WebSocketRoute(path, endpoint)
    return Route(path, endpoint, methods=["GET", "POST"])


def _in_source() -> Iterator[str]:
    for file in (installed("vllm") / "entrypoints").rglob("*.py"):
        yield from _ROUTE.findall(file.read_text())


class _FirstRequest:
    """Takes the target of the first request on a connection."""

    def __init__(self) -> None:
        self.url = b""
        self.done = False

    def on_url(self, url: bytes) -> None:
        if not self.done:
            self.url += url

    def on_headers_complete(self) -> None:
        self.done = True


def _parsed(target: bytes) -> tuple[bytes, bytes] | None:
    """(path, query) as uvicorn sees them, or None for what it answers with 400."""
    request = _FirstRequest()
    parser = httptools.HttpRequestParser(request)
    try:
        parser.feed_data(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % target)
        url = httptools.parse_url(request.url) if request.done else None
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if url is None or url.path is None or not url.path.isascii():
        return None
    return url.path, url.query or b""
