"""Who is at the other end of a client's socket."""

from __future__ import annotations

# What a socket that listens for both (HOST=::) has for an IPv4 client (RFC 4291, 2.5.5.2).
_IPV4_MAPPED = "::ffff:"


def peer_address(host: str) -> str:
    """The address as it is written for its own family: `::ffff:10.0.0.7` -> `10.0.0.7`."""
    plain = host.removeprefix(_IPV4_MAPPED)
    return plain if "." in plain else host
