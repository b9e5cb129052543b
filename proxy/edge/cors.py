"""Which web pages may ask (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

A browser asks first, without a key (a preflight); it is answered here, never by the engine. No
cookies are allowed: a page sends a key of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import Scope

Headers = tuple[tuple[bytes, bytes], ...]

_ANY = "*"
_METHODS = b"GET, HEAD, POST, DELETE"
_NAMES = re.compile(rb"[\w!#$%&'*+.^`|~-]+(?:\s*,\s*[\w!#$%&'*+.^`|~-]+)*")
_MAX_NAMES_BYTES = 2048
_MAX_AGE_SECONDS = b"600"
# What an answer has beside the headers that a page may always read.
_EXPOSED = b", ".join(
    (
        *(b"x-request-id", b"x-proxy-error", b"x-should-retry", b"retry-after", b"server-timing"),
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

    def preflight(self, scope: Scope) -> Headers | None:
        """The answer's headers where a browser asks whether a page may ask; else None. For a page
        that may not there are none that allow it."""
        if scope.get("method") != "OPTIONS":
            return None
        asked = {name: value for name, value in scope["headers"] if name.startswith(b"access-")}
        if b"access-control-request-method" not in asked or not _origin(scope):
            return None
        allowed = self.headers(scope)
        if not self._allows(_origin(scope)):
            return allowed
        names = asked.get(b"access-control-request-headers", b"").strip()
        if len(names) <= _MAX_NAMES_BYTES and _NAMES.fullmatch(names):
            allowed += ((b"access-control-allow-headers", names),)
        return (
            *allowed,
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE_SECONDS),
        )

    def headers(self, scope: Scope) -> Headers:
        """What an answer needs, so that the page may read it."""
        origin = _origin(scope)
        vary: Headers = () if self._any else ((b"vary", b"origin"),)
        if not self._allows(origin):
            return vary
        return (
            *vary,
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
        )

    def _allows(self, origin: bytes) -> bool:
        return bool(origin) and (self._any or origin in self._origins)


def _origin(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"origin"), b"")
