"""A file behind a URL, fetched in the engine's place."""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, inf
from socket import AF_INET, AF_INET6, AI_NUMERICHOST, AddressFamily, socket
from ssl import SSLContext
from urllib.parse import quote, urljoin

import httpx
from aiohttp import (
    AddrInfoType,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy import __version__
from proxy.errors import MediaUnavailable
from proxy.media.memory import Share
from proxy.media.policy import Policy, Target

MAX_REDIRECTS = 5
_MAX_ADDRESSES = 4
_BLOCK_BYTES = 48 * 1024
_HEADERS = {
    "user-agent": f"vllm-sidecar/{__version__}",
    "accept": "*/*",
    "accept-encoding": "identity",
}
# What stays as it is in a URL (RFC 3986), escapes that it has already among it.
_URL_CHARS = "%:/?#[]@!$&'()*+,;="
_REDIRECTS = (301, 302, 303, 307, 308)
_OK = 200
_MODALITIES = ("image/", "video/", "audio/")
# vLLM takes a data URL of this type for frames with commas between them, a file of it for a video.
_FRAMES = "video/jpeg"
_ANY_TYPE = "application/octet-stream"
_TYPE_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789/.+-")


@dataclass(frozen=True)
class FetchLimits:
    """Of one file: bytes, and seconds from waiting for its turn to its last byte; None is any."""

    max_bytes: int
    seconds: float | None
    concurrency: int


class _Vetted(AbstractResolver):
    """Tells a connector the addresses that the policy has let through, and never another one."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=AF_INET6 if ":" in address else AF_INET,
                proto=0,
                flags=AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """It holds nothing."""


@dataclass(slots=True)
class File:
    """A file as the pieces of a data URL, encoded as it comes; `size` in bytes before that."""

    media_type: str
    size: int = 0
    _encoded: list[bytes] = field(default_factory=list)
    _rest: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._rest += data
        if len(self._rest) >= _BLOCK_BYTES:  # many small pieces would take many times their bytes
            whole = len(self._rest) - len(self._rest) % 3
            self._encoded.append(b2a_base64(self._rest[:whole], newline=False))
            del self._rest[:whole]

    def as_data_url(self) -> list[bytes]:
        head = f"data:{self.media_type};base64,".encode()
        return [head, *self._encoded, b2a_base64(self._rest, newline=False)]


class Fetcher:
    """Goes nowhere but where the policy lets it: an address is asked for once, and connected to.

    Each request of a URL has a session and a connection of its own, so that no cookie, no name in
    TLS and nothing else of one reaches another. Nothing is taken from the environment but
    certificates: no proxy, no password.
    """

    def __init__(self, policy: Policy, limits: FetchLimits) -> None:
        self._policy = policy
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.concurrency)

    async def fetch(self, target: Target, param: str, share: Share, times: int = 1) -> File:
        """The file behind a URL that the policy has let through; a body holds it so many times.

        Raises:
            MediaRefused: it leads, perhaps by a redirect, to where it may not.
            MediaUnavailable: its server does not send it, or it is too large or too slow.
        """
        try:
            async with asyncio.timeout(self._limits.seconds), self._turns:
                for _ in range(MAX_REDIRECTS + 1):
                    file, location = await self._get(target, param, share, times)
                    if file is not None:
                        return file
                    following = self._policy.target(urljoin(target.url, location), param)
                    if following is None:
                        raise _unavailable(param, "is redirected to a local file")
                    target = following
        except TimeoutError:
            seconds = f"{self._limits.seconds or inf:g} s (MEDIA_FETCH_TIMEOUT)"
            raise _unavailable(param, f"was not there within {seconds}") from None
        except (ClientError, HttpProcessingError, OSError, ValueError):
            # No more than that: the reason may tell what is where in a private network.
            raise _unavailable(param, "could not be fetched from its server") from None
        raise _unavailable(param, f"is redirected more than {MAX_REDIRECTS} times")

    async def _get(
        self, target: Target, param: str, share: Share, times: int
    ) -> tuple[File | None, str]:
        """The file; or None, and where it is redirected to."""
        addresses = await self._policy.addresses(target, param)
        url = URL(quote(target.url, safe=_URL_CHARS), encoded=True)
        session = ClientSession(
            connector=TCPConnector(
                resolver=_Vetted(addresses[:_MAX_ADDRESSES]),
                use_dns_cache=False,
                force_close=True,
                ssl=self._tls if target.scheme == "https" else True,
                socket_factory=self._socket,
            ),
            cookie_jar=DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=ClientTimeout(total=None),  # `fetch` has one for all
            headers=_HEADERS,
        )
        async with session, session.get(url, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return None, response.headers.get("location", "")
            return await self._read(response, param, share, times), ""

    def _socket(self, info: AddrInfoType) -> socket:
        """For one connection; whatever led to its address, it is judged here once more.

        A host that is an address itself, for one, is not asked for at the resolver.
        """
        family, kind, protocol, _, address = info
        if not self._policy.lets_reach(str(address[0])):
            raise PermissionError("not an address that media may be fetched from")
        return socket(family, kind, protocol)

    async def _read(self, response: ClientResponse, param: str, share: Share, times: int) -> File:
        if response.status != _OK:
            raise _unavailable(param, f"got status {response.status} from its server")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _unavailable(param, "is sent compressed, unasked")
        self._check_size(response.content_length or 0, param)
        # What the server calls it, where that is a picture, a video or a sound.
        name = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_plain = name.startswith(_MODALITIES) and set(name) <= _TYPE_CHARS
        file = File(name if is_plain and name != _FRAMES else _ANY_TYPE)
        async for piece in response.content.iter_any():
            self._check_size(file.size + len(piece), param)
            if not await share.take(ceil(len(piece) * 4 / 3), times):
                raise _unavailable(param, "makes the request larger than MAX_BODY_MB")
            file.add(piece)
        return file

    def _check_size(self, size: int, param: str) -> None:
        if size > self._limits.max_bytes:
            limit = f"{self._limits.max_bytes / 1024 / 1024:g} MiB (MEDIA_FETCH_MAX_MB)"
            raise _unavailable(param, f"is larger than {limit}")

    @cached_property
    def _tls(self) -> SSLContext:
        """Made for the first such URL: certificates take some 20 ms to read."""
        return httpx.create_ssl_context()


def _unavailable(param: str, what: str) -> MediaUnavailable:
    return MediaUnavailable(f"{param} {what}.", param=param)
