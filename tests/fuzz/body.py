"""What is read of a request's body, and the option added to it, for any bytes.

`json.loads` and pydantic are the reference: they are what the engine reads a body with.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from proxy.access.routes import Route
from proxy.relay.upstream_request import Peek, peek, scan, with_usage_option
from tests.fuzz.seeds import TOKENS
from tests.fuzz.source import Source
from tests.scans import in_one_go

ROUTES = (Route.CHAT, Route.COMPLETIONS, Route.RESPONSES, Route.MESSAGES, Route.EMBEDDINGS)
_WITH_OPTION = (Route.CHAT, Route.COMPLETIONS)
_OPTION = b',"stream_options":{"include_usage":true}'
_BOOLEAN = TypeAdapter(bool)
# The engine's reader and ours give up at different depths.
_MAX_DEPTH = 200


def run(data: bytes) -> None:
    """The target: the route first, then the body."""
    source = Source(data)
    route = source.one_of(ROUTES)
    check(route, source.rest(TOKENS["body"]))


def check(route: Route, body: bytes) -> Peek:
    """Everything that holds for any bytes; returns what was read."""
    said = in_one_go(scan(route, bytearray(body)))
    quick = peek(route, body)
    assert quick == peek(route, bytearray(body))
    if quick is not None:
        assert (quick, quick.tail_bytes) == (said, said.tail_bytes)
    if said.lacks_usage_option:
        _check_added(body, b"".join(with_usage_option(bytearray(body), said.tail_bytes)))
    read, request = _as_engine(body)
    if read and _depth(request) < _MAX_DEPTH:
        _check_read(route, said, request)
    return said


def _check_added(body: bytes, added: bytes) -> None:
    """Nothing but the option is new, to the byte and to a reader of JSON."""
    end = body.rindex(b"}")
    assert added == body[:end] + _OPTION + body[end:]
    before, after = _pairs(body), _pairs(added)
    option = ("stream_options", [("include_usage", True)])
    assert after == (None if before is None else [*before, option])


def _check_read(route: Route, said: Peek, request: Any) -> None:
    """What the engine would make of the same body."""
    if not isinstance(request, dict):
        assert said == Peek()
        return
    model = request.get("model")
    text = model if isinstance(model, str) else None
    assert said.model == (text and text.encode(errors="replace").decode())
    stream = _is_true(request.get("stream"))
    assert said.stream == stream
    lacks = stream and route in _WITH_OPTION and request.get("stream_options") is None
    assert said.lacks_usage_option == lacks


def _pairs(body: bytes) -> Any:
    """The body's fields in their order, doubled ones too, numbers as they are written."""
    try:
        return json.loads(
            body, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=str
        )
    except (ValueError, RecursionError):
        return None


def _as_engine(body: bytes) -> tuple[bool, Any]:
    """(could it be read, as what); only of UTF-8, in which the option is written."""
    try:
        body.decode("utf-8-sig")
        return json.detect_encoding(body).startswith("utf-8"), json.loads(body)
    except (ValueError, RecursionError):
        return False, None


def _is_true(value: Any) -> bool:
    try:
        return value is not None and _BOOLEAN.validate_python(value)
    except ValidationError:
        return False


def _depth(value: Any) -> int:
    """How deep arrays and objects are nested."""
    deepest, level = 0, [value]
    while level:
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [each for one in inner for each in (one.values() if type(one) is dict else one)]
        deepest += bool(inner)
    return deepest
