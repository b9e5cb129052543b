"""Which URLs may be fetched, and at which addresses."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from proxy.errors import MediaRefused, MediaUnavailable
from proxy.media.address import is_address, is_public
from proxy.media.dns import DnsResolver

# Host and port -> addresses; raises OSError or UnicodeError where there is none.
Resolve = Callable[[str, int], Awaitable[list[str]]]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What parsers of URLs read in different ways is in none: no user, no backslash, no character
# that is not ASCII in a host (WHATWG maps `。` and `①` to ASCII), no percent sign or zone there.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>[/?#][^\\\x00-\x1f\x7f]*)?",
    re.IGNORECASE | re.ASCII,
)
# WHATWG: a host that ends in a number is an IPv4 address, in whatever notation.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_MAX_HOST_CHARS = 253
_MAX_LABEL_CHARS = 63

_FORM = "is not a URL of the form http(s)://host/path, nor a data URL"
_LOCAL_FILE = "names a local file; only ALLOWED_LOCAL_MEDIA_PATH opens a folder of the engine's"
_SCHEME = "has a scheme that is not allowed; allowed are http, https and data URLs"
_DOMAIN = "names a host that is not one of ALLOWED_MEDIA_DOMAINS"
_UNKNOWN = "names a host that does not resolve; check the name"
# One sentence for a name that is private and for one that nobody has: whoever asks must not learn
# which names there are in a private network.
_NO_PUBLIC_NAME = (
    "names a host that does not resolve to a public address; check the name. "
    "ALLOW_PRIVATE_MEDIA=true opens private addresses"
)
_PRIVATE = (
    "does not lead to a public address; allowed are hosts that anybody can reach, and data URLs. "
    "ALLOW_PRIVATE_MEDIA=true opens the others"
)


@dataclass(frozen=True)
class Target:
    """A URL that may be fetched, as far as its text tells; `host` is in lower case."""

    scheme: str
    host: str
    port: int
    rest: str

    @property
    def authority(self) -> str:
        """As it stands in a `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.rest}"

    @classmethod
    def parse(cls, url: str) -> Target | None:
        """None where a URL is not of the one form that all parsers read alike."""
        match = _URL.fullmatch(url)
        if match is None:
            return None
        scheme, host = match["scheme"].lower(), match["host"].lower()
        port = int(match["port"] or _DEFAULT_PORTS[scheme])
        labels = host.split(".")
        try:
            if host.startswith("["):
                host = str(IPv6Address(host[1:-1]))
            # So a name does not end in a dot either.
            elif len(host) > _MAX_HOST_CHARS or not all(
                0 < len(label) <= _MAX_LABEL_CHARS for label in labels
            ):
                return None
            elif _NUMBER.fullmatch(labels[-1]):
                host = str(IPv4Address(host))
        except ValueError:
            return None
        return cls(scheme, host, port, match["rest"] or "/") if 0 < port < 65536 else None


class Policy:
    """What the settings allow. `is_reachable` says of an address whether it is public enough."""

    def __init__(
        self,
        domains: Iterable[str] = (),
        *,
        allow_private: bool = False,
        allow_local_files: bool = False,
        resolve: Resolve | None = None,
        is_reachable: Callable[[str], bool] = is_public,
    ) -> None:
        self._domains = frozenset(domain.lower() for domain in domains)
        self._allow_private = allow_private
        self._allow_local_files = allow_local_files
        self._resolve = resolve or DnsResolver()
        self._is_reachable = is_reachable

    def target(self, url: str, param: str) -> Target | None:
        """Judge a URL by its text; None for a local file, which the engine confines itself.

        Raises:
            MediaRefused: it names `param`.
        """
        scheme = url.partition(":")[0].lower()
        if scheme == "file":
            if self._allow_local_files:
                return None
            raise _refused(param, _LOCAL_FILE)
        if scheme not in _DEFAULT_PORTS:
            raise _refused(param, _SCHEME)
        target = Target.parse(url)
        if target is None:
            raise _refused(param, _FORM)
        if self._domains and target.host not in self._domains:
            raise _refused(param, _DOMAIN)
        return target

    def lets_reach(self, address: str) -> bool:
        return self._allow_private or self._is_reachable(address)

    async def addresses(self, target: Target, param: str) -> list[str]:
        """Where a target is, asked once; all of it may be reached.

        Raises:
            MediaRefused: one of its addresses is not public, or it may be a private name.
            MediaUnavailable: it leads nowhere, and whoever asks may know that.
        """
        try:
            addresses = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            addresses = []
        if not addresses and (self._allow_private or self._domains):
            raise MediaUnavailable(f"{param} {_UNKNOWN}.", param=param)
        if not addresses or not all(map(self.lets_reach, addresses)):
            raise _refused(param, _PRIVATE if is_address(target.host) else _NO_PUBLIC_NAME)
        return addresses


def _refused(param: str, reason: str) -> MediaRefused:
    return MediaRefused(f"{param} {reason}.", param=param)
