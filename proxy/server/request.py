"""One request: what its head holds."""

from __future__ import annotations

import msgspec

Header = tuple[bytes, bytes]
Headers = list[Header]
# No path that is answered is longer; to look through the 256 KiB of one takes 0.2 s.
MAX_PATH_BYTES = 16 * 1024


class Request(msgspec.Struct, frozen=True, gc=False):
    """Method, target, headers; nothing of it changes on the way.

    `target` is as it came, `path` and `query` are its parts, undecoded. Names of `headers` are in
    lower case; `named` has the first value of each. `method` and `target` are empty where what came
    could not be read as a request. `port` is ours, `client` the peer's address (None for a Unix
    socket), `began` when the first byte came (monotonic seconds).
    """

    method: str
    target: bytes
    path: bytes
    query: bytes
    headers: Headers
    named: dict[bytes, bytes]
    version: str
    client: str | None
    port: int
    began: float

    @property
    def declared_length(self) -> int | None:
        """Bytes of the body, where `Content-Length` says how many."""
        value = self.named.get(b"content-length")
        return int(value) if value is not None and value.isdigit() else None


def address_of(peer: object) -> str | None:
    """The address in a socket's name; an IPv4 client of an IPv6 socket has its IPv4 address."""
    if not isinstance(peer, tuple):
        return None
    address: str = peer[0]
    return address.removeprefix("::ffff:") if "." in address else address
