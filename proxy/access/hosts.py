"""By which names web pages may ask for this server: against DNS rebinding.

To a browser a page of evil.example whose name leads to a private address is of the origin that it
finds there, and may read all answers. Such a request is told by what the page cannot change:

- Browsers send `Accept-Language`, of which a page can only choose the value, and mostly `Origin`.
  Programs send neither; those that fetch as browsers do (Node.js) send `Sec-Fetch-Mode` alone.
- It came over plain HTTP. Over TLS, and from this machine, browsers send `Sec-Fetch-Site`
  (https://www.w3.org/TR/fetch-metadata/), and WebSockets an `Origin` with https: the name had a
  certificate then. `X-Forwarded-*` is no such sign: a page may send it to its own origin.
- Its `Host` is a name that can be had by anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from proxy.errors import HostNotAllowed, RequestFailure

# Names below these are given by one's own network; none is sold.
_NEVER_PUBLIC = (".localhost", ".local", ".internal", ".home.arpa", ".lan")
_MAX_SHOWN_CHARS = 200


class Hosts:
    """Names beside addresses, names without a dot, and those that no stranger can have.

    `*.example.com` is all names below it. Pages of `origins` may ask by any name.
    """

    def __init__(self, names: Iterable[str], origins: Iterable[str] = ()) -> None:
        lowered = [name.lower() for name in names]
        self._names = {name for name in lowered if not name.startswith("*.")}
        below = [name[1:] for name in lowered if name.startswith("*.")]
        self._suffixes = (*_NEVER_PUBLIC, *below)
        self._origins = {origin.lower().encode() for origin in origins}
        self._any = "*" in self._names or b"*" in self._origins

    def check(self, named: Mapping[bytes, bytes]) -> RequestFailure | None:
        """Why a request with these headers may not be answered; names are in lower case."""
        if self._any:
            return None
        origin = named.get(b"origin", b"")
        if b"sec-fetch-site" in named or origin.startswith(b"https://"):
            return None
        is_browser = origin or (b"accept-language" in named and b"sec-fetch-mode" not in named)
        if not is_browser or origin in self._origins:
            return None
        name = host_of(named.get(b"host", b""))
        if "." not in name or name in self._names or name.endswith(self._suffixes):
            return None
        with suppress(ValueError):
            ip_address(name)
            return None
        return HostNotAllowed(
            f"Web pages may not ask for this server as {name[:_MAX_SHOWN_CHARS]} over plain HTTP:"
            " anybody's name may lead here. Add it to ALLOWED_HOSTS, or use the address or HTTPS."
        )


def host_of(host: bytes) -> str:
    """The name in a `Host` header, without port and brackets.

    An address of IPv6 has colons, and mostly no dot.
    """
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")
