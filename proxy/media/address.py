"""Is an address one that anybody on the Internet can reach?"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# RFC 6052: an IPv4 address in the last 32 bits. Networks without IPv4 reach all of it so.
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC_V4 = (
    # A Python of before 2024 takes most of it for public; Oracle's metadata are at 192.0.0.192.
    IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890)
    IPv4Network("192.88.99.0/24"),  # relays of 6to4 (RFC 7526: deprecated)
    IPv4Network("168.63.129.16/32"),  # Azure's host (WireServer), as seen by each machine there
)
_NOT_PUBLIC = (
    IPv6Network("::/96"),  # IPv4-compatible (RFC 4291, 2.5.5.1: deprecated)
    IPv6Network("64:ff9b:1::/48"),  # NAT64 with a prefix of the network's own (RFC 8215)
    IPv6Network("2001::/32"),  # Teredo (RFC 4380) and
    IPv6Network("2002::/16"),  # 6to4 (RFC 3056): tunnels to an IPv4 address
    IPv6Network("3fff::/20"),  # documentation (RFC 9637), unknown to older Pythons
    IPv6Network("5f00::/16"),  # segment routing (RFC 9602), likewise
    IPv6Network("fec0::/10"),  # site-local (RFC 3879: deprecated)
)


def is_address(host: str) -> bool:
    """Whether a host is an address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_public(text: str) -> bool:
    """False for what is loopback, private, link-local, shared, reserved, multicast, or no address.

    An address that holds another one is judged by that one.
    """
    try:
        return _is_public(ip_address(text.partition("%")[0]))
    except ValueError:
        return False


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(IPv4Address(address.packed[-4:]))
        if any(address in network for network in _NOT_PUBLIC):
            return False
    elif any(address in network for network in _NOT_PUBLIC_V4):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)
