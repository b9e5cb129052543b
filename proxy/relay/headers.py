"""Which headers travel on, and the two identities of a request: its id and its trace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import getrandbits

Header = tuple[bytes, bytes]
Headers = list[Header]

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
    }
)
# Set anew for the upstream connection.
_OURS_TO_SET = frozenset({b"host", b"content-length", b"expect", b"x-request-id"})
_NOT_SENT = _HOP_BY_HOP | _OURS_TO_SET

_SANE_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
# W3C trace context: version-traceid-parentid-flags; ids of zeros only are no ids.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})


def get(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The first value of a header; `name` in lower case."""
    for key, value in headers:  # a generator would cost five times as much
        if key == name:
            return value
    return None


def request_id(headers: Iterable[Header]) -> bytes:
    """The client's id if it is sane, else a new one."""
    given = get(headers, b"x-request-id")
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    # To tell requests apart, not a secret: no system call.
    return b"%032x" % getrandbits(128)  # nosec B311


def traceparent(headers: Iterable[Header]) -> str | None:
    """The client's place in a trace, as it came, where it is sane; never invented."""
    given = get(headers, b"traceparent")
    return given.decode() if given is not None and _TRACEPARENT.fullmatch(given) else None


def to_upstream(
    headers: Iterable[Header], host: bytes, request_id: bytes, span: Iterable[Header] = ()
) -> Headers:
    """The request's headers as the engine gets them, but for the body's length.

    The headers of our own `span`, where there is one, stand for the client's trace context.
    """
    pairs = list(headers)
    dropped = _with_named_by_connection(_NOT_SENT, pairs)
    if span:
        dropped |= _TRACE_CONTEXT
    kept = [pair for pair in pairs if pair[0] not in dropped]
    return [(b"host", host), *kept, *span, (b"x-request-id", request_id)]


def identity(request_id: bytes, *, anthropic: bool) -> Headers:
    """What names a request in its answer; the SDKs of Anthropic's API read `request-id`."""
    named = (b"x-request-id", request_id)
    return [named, (b"request-id", request_id)] if anthropic else [named]


def to_client(headers: Iterable[Header], request_id: bytes, *, anthropic: bool = False) -> Headers:
    """The engine's headers as the client gets them; names are in lower case."""
    pairs = list(headers)
    dropped = _with_named_by_connection(_HOP_BY_HOP, pairs)
    kept = [pair for pair in pairs if pair[0] not in dropped]
    named = identity(request_id, anthropic=anthropic)
    return kept + [header for header in named if get(kept, header[0]) is None]


def _with_named_by_connection(names: frozenset[bytes], headers: Headers) -> frozenset[bytes]:
    """`names` and those that a `Connection` header declares hop-by-hop too."""
    if get(headers, b"connection") is None:
        return names
    values = [value for key, value in headers if key == b"connection"]
    return names | {part.strip().lower() for value in values for part in value.split(b",")}


def is_of_no_route(status: int, answer_headers: Headers) -> bool:
    """Whether an answer is `{"detail":"Not Found"}`: the engine has no such route.

    vLLM's own errors are longer; an answer that is compressed or has no length is none of these.
    """
    return (
        status == 404
        and get(answer_headers, b"content-length") == b"22"
        and get(answer_headers, b"content-type") == b"application/json"
        and get(answer_headers, b"content-encoding") is None
    )
