"""A file behind a URL, fetched in the engine's place."""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from urllib.parse import urljoin

import httpx

from proxy import __version__
from proxy.errors import MediaUnavailable
from proxy.media.policy import Policy, Target

MAX_REDIRECTS = 5
_MAX_ADDRESSES = 4
# For a connection where there is another address to try. One that is lost is asked for again after
# 1 s and 3 s (Linux).
_CONNECT_SECONDS = 3.0
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


class Budget:
    """What the files of one request may add to its body, in bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        self._left -= size
        return self._left >= 0


@dataclass(slots=True)
class File:
    """A file as the pieces of a data URL, encoded as it comes; `size` in bytes before that."""

    media_type: str
    size: int = 0
    _encoded: list[bytes] = field(default_factory=list)
    _rest: bytes = b""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        data = self._rest + data
        whole = len(data) - len(data) % 3
        self._rest = data[whole:]
        self._encoded.append(b2a_base64(data[:whole], newline=False))

    def as_data_url(self) -> list[bytes]:
        head = f"data:{self.media_type};base64,".encode()
        return [head, *self._encoded, b2a_base64(self._rest, newline=False)]


class Fetcher:
    """Goes nowhere but where the policy lets it: an address is asked for once, and connected to.

    No cookies, no proxy of the environment, no connection that is used twice: it was made for
    another name.
    """

    def __init__(
        self,
        policy: Policy,
        limits: FetchLimits,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._transport = transport
        self._turns = asyncio.Semaphore(limits.concurrency)

    async def fetch(self, target: Target, param: str, budget: Budget, times: int = 1) -> File:
        """The file behind a URL that the policy has let through; a body holds it so many times.

        Raises:
            MediaRefused: it leads, perhaps by a redirect, to where it may not.
            MediaUnavailable: its server does not send it, or it is too large or too slow.
        """
        try:
            async with asyncio.timeout(self._limits.seconds), self._turns:
                return await self._followed(target, param, budget, times)
        except TimeoutError:
            seconds = f"{self._limits.seconds or inf:g} s (MEDIA_FETCH_TIMEOUT)"
            raise _unavailable(param, f"was not there within {seconds}") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            # No more than that: the reason may tell what is where in a private network.
            raise _unavailable(param, "could not be fetched from its server") from None

    async def close(self) -> None:
        if "_client" in self.__dict__:
            await self._client.aclose()

    async def _followed(self, target: Target, param: str, budget: Budget, times: int) -> File:
        for _ in range(MAX_REDIRECTS + 1):
            addresses = await self._policy.addresses(target, param)
            response = await self._first(target, addresses)
            try:
                if response.status_code not in _REDIRECTS:
                    return await self._read(response, param, budget, times)
                location = response.headers.get("location", "")
            finally:
                await response.aclose()
            following = self._policy.target(urljoin(target.url, location), param)
            if following is None:
                raise _unavailable(param, "is redirected to a local file")
            target = following
        raise _unavailable(param, f"is redirected more than {MAX_REDIRECTS} times")

    async def _first(self, target: Target, addresses: list[str]) -> httpx.Response:
        """The answer of the first address that a connection can be made to."""
        *others, last = addresses[:_MAX_ADDRESSES]
        for address in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._ask(target, address, _CONNECT_SECONDS)
        return await self._ask(target, last, self._limits.seconds)

    async def _ask(
        self, target: Target, address: str, connect_seconds: float | None
    ) -> httpx.Response:
        url = httpx.URL(target.url).copy_with(host=address)
        request = self._client.build_request(
            "GET",
            url,
            headers={"host": target.authority},
            extensions={"sni_hostname": target.host},
            timeout=httpx.Timeout(self._limits.seconds, connect=connect_seconds),
        )
        return await self._client.send(request, stream=True)

    async def _read(self, response: httpx.Response, param: str, budget: Budget, times: int) -> File:
        if response.status_code != _OK:
            raise _unavailable(param, f"got status {response.status_code} from its server")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _unavailable(param, "is sent compressed, unasked")
        self._check_size(int(response.headers.get("content-length", 0)), param)
        file = File(_media_type(response.headers.get("content-type", "")))
        async for piece in response.aiter_raw():
            file.add(piece)
            self._check_size(file.size, param)
            if not budget.take(times * len(piece) * 4 // 3):
                raise _unavailable(param, "makes the request larger than MAX_BODY_MB")
        return file

    def _check_size(self, size: int, param: str) -> None:
        if size > self._limits.max_bytes:
            limit = f"{self._limits.max_bytes / 1024 / 1024:g} MiB (MEDIA_FETCH_MAX_MB)"
            raise _unavailable(param, f"is larger than {limit}")

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        """Made for the first URL: certificates take some 20 ms to read."""
        # The environment may name other certificates (SSL_CERT_FILE), but no proxy.
        return httpx.AsyncClient(
            transport=self._transport() if self._transport else None,
            verify=httpx.create_ssl_context(),
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={
                "user-agent": f"vllm-sidecar/{__version__}",
                "accept": "*/*",
                "accept-encoding": "identity",
            },
        )


def _media_type(content_type: str) -> str:
    """What the server calls it, where that is a picture, a video or a sound."""
    name = content_type.partition(";")[0].strip().lower()
    plain = name.startswith(_MODALITIES) and set(name) <= _TYPE_CHARS
    return name if plain and name != _FRAMES else _ANY_TYPE


def _unavailable(param: str, what: str) -> MediaUnavailable:
    return MediaUnavailable(f"{param} {what}.", param=param)
