"""Which web pages may ask (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

A browser asks first, without a key (a preflight); it is answered here, never by the engine. No
cookies are allowed: a page sends a key of its own. Before a page opens a WebSocket browsers ask
nobody: there the origin that they name is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from proxy.errors import OriginNotAllowed, RequestFailure
from proxy.server.request import Headers, Request

_ANY = "*"
_METHODS = b"GET, HEAD, POST, DELETE"
_NAMES = re.compile(rb"[\w!#$%&'*+.^`|~-]+(?:\s*,\s*[\w!#$%&'*+.^`|~-]+)*")
_MAX_NAMES_BYTES = 2048
_MAX_SHOWN_BYTES = 200
_HOST_HEADERS = (b"host", b"x-forwarded-host")
_MAX_AGE_SECONDS = b"600"
# What an answer has beside the headers that a page may always read.
_EXPOSED = b", ".join(
    (
        b"x-request-id",
        b"request-id",
        b"x-proxy-error",
        b"x-should-retry",
        b"retry-after",
        b"server-timing",
        *(
            b"x-ratelimit-%b-%b" % (what, unit)
            for unit in (b"requests", b"tokens")
            for what in (b"limit", b"remaining", b"reset")
        ),
    )
)


class Cors:
    """Pages of these origins; `*` is all pages."""

    def __init__(self, origins: Iterable[str]) -> None:
        # Browsers write them so.
        self._origins = {origin.lower().encode() for origin in origins}
        self._any = _ANY.encode() in self._origins

    def preflight(self, request: Request) -> Headers | None:
        """The answer's headers where a browser asks whether a page may ask; else None. For a page
        that may not there are none that allow it."""
        asked = request.named
        if request.method != "OPTIONS" or b"access-control-request-method" not in asked:
            return None
        origin = asked.get(b"origin", b"")
        if not origin:
            return None
        allowed = self._headers(origin)
        if not self._allows(origin):
            return allowed
        names = asked.get(b"access-control-request-headers", b"").strip()
        if len(names) <= _MAX_NAMES_BYTES and _NAMES.fullmatch(names):
            allowed.append((b"access-control-allow-headers", names))
        allowed.append((b"access-control-allow-methods", _METHODS))
        allowed.append((b"access-control-max-age", _MAX_AGE_SECONDS))
        return allowed

    def lines(self, request: Request) -> bytes:
        """What a response needs, so that the page may read it: lines of a head."""
        headers = self._headers(request.named.get(b"origin", b""))
        return b"".join(b"%b: %b\r\n" % header for header in headers)

    def _headers(self, origin: bytes) -> Headers:
        headers: Headers = [] if self._any else [(b"vary", b"origin")]
        if self._allows(origin):
            headers.append((b"access-control-allow-origin", b"*" if self._any else origin))
            headers.append((b"access-control-expose-headers", _EXPOSED))
        return headers

    def check_websocket_origin(self, request: Request) -> RequestFailure | None:
        """Why the page that opens a WebSocket may not; None where it may, or is no page.

        Browsers name the page's origin, other clients mostly none. A page of this host need not be
        listed, whatever its port; a proxy may have put the host into a header that no page can set.
        """
        origin = request.named.get(b"origin", b"")
        if not origin or self._allows(origin):
            return None
        values = [value for name, value in request.headers if name in _HOST_HEADERS]
        hosts = {_host(b"//" + one.strip()) for value in values for one in value.split(b",")}
        if (host := _host(origin)) and host in hosts:
            return None
        shown = origin[:_MAX_SHOWN_BYTES].decode("latin-1")
        text = f"Pages of {shown} may not open a session here; CORS_ORIGINS lists those that may."
        return OriginNotAllowed(text)

    def _allows(self, origin: bytes) -> bool:
        return bool(origin) and (self._any or origin in self._origins)


def _host(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).hostname
    except ValueError:  # brackets that are none
        return None
