"""Which headers travel on, and the two identities of a request: its id and its trace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from random import getrandbits

from proxy.access.routes import Route
from proxy.server.request import Header, Headers, Request

# RFC 9110 section 7.6.1, and the names that proxies treat alike.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        # The frames of a session are read on the way: nothing that changes them is agreed to.
        b"sec-websocket-extensions",
    }
)
# What is hop-by-hop of a WebSocket handshake, and of the answer that takes it.
UPGRADE: Headers = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
# Replaced on the upstream connection.
_OURS_TO_SET = frozenset(
    {b"host", b"content-length", b"expect", b"x-request-id", b"accept-encoding"}
)
# A compressed answer cannot be read: its tokens were unknown, and the usage event that the
# client did not ask for could not be withheld.
_UNCOMPRESSED = (b"accept-encoding", b"identity")
_NOT_SENT = _HOP_BY_HOP | _OURS_TO_SET

# What is true of one body only.
OF_THE_BODY = (b"content-type", b"content-encoding", b"content-length")
# The usual values of `Connection`; neither names another header.
_ORDINARY = (b"keep-alive", b"close")

_SANE_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
# W3C trace context: version-traceid-parentid-flags; ids of zeros only are no ids.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})

_MESSAGES = b"/v1/messages"
# Both APIs have these paths, and one that is in neither may be asked for by a client of either.
_SHARED = (Route.MODELS, Route.UNKNOWN)


def request_id(named: Mapping[bytes, bytes]) -> bytes:
    """The client's id if it is sane, else a new one."""
    given = named.get(b"x-request-id")
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    # To tell requests apart, not a secret: no system call.
    return b"%032x" % getrandbits(128)  # nosec B311


def traceparent(named: Mapping[bytes, bytes]) -> str | None:
    """The client's place in a trace, as it came, where it is sane; never invented."""
    given = named.get(b"traceparent")
    return given.decode() if given is not None and _TRACEPARENT.fullmatch(given) else None


def to_upstream(
    headers: Headers,
    host: bytes,
    request_id: bytes,
    span: Iterable[Header] = (),
    withheld: frozenset[bytes] = frozenset(),
) -> Headers:
    """The request's headers as the engine gets them, but for the body's length and for `withheld`.

    The headers of our own `span`, where there is one, stand for the client's trace context.
    """
    dropped = _NOT_SENT | withheld if withheld else _NOT_SENT
    if span:
        dropped |= _TRACE_CONTEXT
    kept = _without(dropped, headers)
    return [(b"host", host), *kept, *span, _UNCOMPRESSED, (b"x-request-id", request_id)]


def speaks_anthropic(route: Route, request: Request) -> bool:
    """Whether a request is one of Anthropic's API: its errors have that shape.

    All its SDKs send `anthropic-version` with each request.
    """
    if request.path == _MESSAGES or request.path.startswith(_MESSAGES + b"/"):
        return True
    return route in _SHARED and b"anthropic-version" in request.named


def identity(request_id: bytes, *, anthropic: bool) -> Headers:
    """What names a request in its answer; the SDKs of Anthropic's API read `request-id`."""
    named = (b"x-request-id", request_id)
    return [named, (b"request-id", request_id)] if anthropic else [named]


def to_client(headers: Headers, request_id: bytes, *, anthropic: bool = False) -> Headers:
    """The engine's headers as the client gets them; names are in lower case."""
    kept = _without(_HOP_BY_HOP, headers)
    there = dict(kept)
    if b"x-request-id" not in there:
        kept.append((b"x-request-id", request_id))
    if anthropic and b"request-id" not in there:
        kept.append((b"request-id", request_id))
    return kept


def _without(names: frozenset[bytes], headers: Headers) -> Headers:
    """The headers but for `names`, and for those that a `Connection` header declares hop-by-hop
    too."""
    declared: set[bytes] = set()
    kept = []
    for header in headers:
        if header[0] not in names:
            kept.append(header)
        elif header[0] == b"connection" and (value := header[1].lower()) not in _ORDINARY:
            declared.update(part.strip() for part in value.split(b","))
    if declared:
        return [header for header in kept if header[0] not in declared]
    return kept


def is_of_no_route(named: Mapping[bytes, bytes]) -> bool:
    """Whether a 404 is `{"detail":"Not Found"}`: the engine has no such route.

    vLLM's own errors are longer; an answer that is compressed or has no length is none of these.
    """
    return (
        named.get(b"content-length") == b"22"
        and named.get(b"content-type") == b"application/json"
        and b"content-encoding" not in named
    )
