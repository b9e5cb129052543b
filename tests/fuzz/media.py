"""Where media URLs stand in a body, and their replacement, for any bytes.

`json.loads` is the reference: it is what the engine reads a body with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from proxy.access.routes import Route
from proxy.errors import MediaRefused
from proxy.media.url_scan import find_urls, might_contain_urls, replace_urls
from tests.fuzz.seeds import TOKENS
from tests.fuzz.source import Source
from tests.scans import in_one_go

ROUTES = (Route.CHAT, Route.MESSAGES, Route.RESPONSES, Route.RERANK, Route.EXTRA)
NODES = {"content", "output"}
URLS = {"image_url", "video_url", "audio_url"}
_MESSAGES, _INPUT = {"messages", "system"}, {"input"}
_SCORED = {"query", "queries", "documents", "items", "data_1", "data_2", "text_1", "text_2"}
ROOTS = {
    Route.CHAT: _MESSAGES,
    Route.MESSAGES: _MESSAGES,
    Route.RESPONSES: _INPUT,
    Route.RERANK: _SCORED,
    Route.EMBEDDINGS: _MESSAGES - {"system"} | _INPUT,
    Route.EXTRA: _MESSAGES | _INPUT | _SCORED | {"inputs"},
}
LISTS = {"images", "audio", "videos"}
_SCHEME = re.compile(r"(?!data:)[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)
_DEEP = 60
_NEW = "data:x,new"


def run(data: bytes) -> None:
    """The target: the route first, then the body."""
    source = Source(data)
    route = source.one_of(ROUTES)
    check(route, source.rest(TOKENS["media"]))


def check(route: Route, body: bytes) -> list[str]:
    """Everything that holds for any bytes; returns the URLs."""
    read, said = _as_engine(body)
    meant = list(urls(route, said)) if read else []
    try:
        found = in_one_go(find_urls(route, bytearray(body)))
    except MediaRefused:
        assert _depth(body) > _DEEP
        return []
    places = [(place.param, place.url) for place in found.urls]
    if read:
        assert sorted(places) == sorted(meant)
        assert might_contain_urls(route, body) or not meant
        _check_replaced(found.body, said, places, found)
    for place in found.urls:
        literal = bytes(found.body[place.start : place.end])
        assert json.loads(literal.decode("utf-8", "surrogatepass")) == place.url
    return [url for _, url in places]


def _check_replaced(body: bytes | bytearray, said: Any, places: list[Any], found: Any) -> None:
    """Nothing changes but the URLs, neither for a reader of JSON nor in the bytes between."""
    nothing = b"".join(replace_urls(found, {}))
    assert nothing == body
    values = {url: [b"data:x,", b"new"] for _, url in places}
    new = b"".join(replace_urls(found, values))
    assert _text(json.loads(new)) == _text(replaced(said, dict(places)))
    between = [body[a.end : b.start] for a, b in zip(found.urls, found.urls[1:], strict=False)]
    at = 0
    for piece in between:
        at = new.index(piece, at) + len(piece)


def urls(route: Route, said: Any) -> Iterator[tuple[str, str]]:
    """What the engine would look at: name and URL."""
    if not isinstance(said, dict):
        return
    for key, value in said.items():
        if key in ROOTS[route]:
            yield from _nodes(value, key)
        elif route is Route.EXTRA and key in LISTS:
            yield from _listed(value, key)


def _nodes(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _nodes(one, f"{name}[{number}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            if key in NODES:
                yield from _nodes(one, f"{name}.{key}")
            elif key in URLS or (key == "source" and isinstance(one, dict)):
                yield from _url(one, f"{name}.{key}")


def _listed(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _listed(one, f"{name}[{number}]")
    else:
        yield from _url(value, name)


def _url(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        value, name = value.get("url"), f"{name}.url"
    if isinstance(value, str) and _SCHEME.match(value):
        yield name, value


def replaced(said: Any, places: dict[str, str], name: str = "") -> Any:
    """The same value with the URLs at these places replaced."""
    if name in places:
        return _NEW
    if isinstance(said, list):
        return [replaced(one, places, f"{name}[{number}]") for number, one in enumerate(said)]
    if isinstance(said, dict):
        return {
            key: replaced(one, places, f"{name}.{key}" if name else key)
            for key, one in said.items()
        }
    return said


def _text(value: Any) -> str:
    """To compare with: NaN is not equal to itself."""
    return json.dumps(value)


def _as_engine(body: bytes) -> tuple[bool, Any]:
    try:
        return True, json.loads(body)
    except (ValueError, RecursionError):
        return False, None


def _depth(body: bytes) -> int:
    """At most how deep arrays and objects are nested."""
    return body.count(b"[") + body.count(b"{")
