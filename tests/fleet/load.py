"""Clients that never stop asking a router, and note when, and what became of each request."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

import httpx

from tests.fake_engine import x_fake

PATH = "/v1/chat/completions"
TOKENS, INTERVAL_MS = 20, 10
_TIMEOUT_SECONDS = 60.0
_PAUSE_SECONDS = 0.05


class End(StrEnum):
    """What a client was told."""

    WHOLE = "whole"
    TOLD = "told"
    """An error event in its stream, or the sidecar's or the engine's error instead of an answer."""
    REFUSED = "refused"
    """503: never begun."""
    UNREACHED = "unreached"
    """The router's own error, which is no JSON: nobody was there."""
    CUT = "cut"
    """A stream that ended in the middle: nobody was left to say so."""


@dataclass(frozen=True)
class Asked:
    """One request: from when to when (monotonic seconds), and its end."""

    request_id: str
    began: float
    ended: float
    end: End
    stream: bool


@dataclass
class Load:
    """All requests, in the order of their ends."""

    url: str
    model: str = "tiny"
    asked: list[Asked] = field(default_factory=list)
    stopping: bool = False

    def since(self, began: float) -> list[Asked]:
        """Those that began after a moment."""
        return [each for each in tuple(self.asked) if each.began >= began]

    def between(self, began: float, ended: float) -> list[Asked]:
        """Those that began in a window."""
        return [each for each in self.since(began) if each.began < ended]

    async def run(self, clients: int) -> None:
        """So many clients, until `stopping`."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url, timeout=_TIMEOUT_SECONDS, trust_env=False, limits=limits
        ) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(clients)))

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        choice = random.Random(number)
        while not self.stopping:
            stream = choice.random() < 0.5
            request_id, began = uuid4().hex, time.monotonic()
            end = await self._ask(http, request_id, stream=stream)
            self.asked.append(Asked(request_id, began, time.monotonic(), end, stream))
            await asyncio.sleep(0 if end is End.WHOLE else _PAUSE_SECONDS)

    async def _ask(self, http: httpx.AsyncClient, request_id: str, *, stream: bool) -> End:
        messages = [{"role": "user", "content": "tell me more"}]
        body = {"model": self.model, "messages": messages, "stream": stream, "max_tokens": TOKENS}
        headers = {"x-request-id": request_id}
        headers |= x_fake(tokens=TOKENS, interval_ms=INTERVAL_MS)
        try:
            answer = await http.post(PATH, json=body, headers=headers)
        except httpx.RemoteProtocolError:
            return End.CUT
        return judged(answer, stream=stream)


def judged(answer: httpx.Response, *, stream: bool) -> End:
    """What an answer told its client; an answer of any other kind is an AssertionError."""
    text = answer.text
    if answer.status_code == 200 and not stream:
        assert json.loads(text)["usage"]["completion_tokens"] == TOKENS
        return End.WHOLE
    if answer.status_code == 200:
        if not text.endswith("data: [DONE]\n\n"):
            return End.CUT
        return End.TOLD if '"error":' in text.split("\n\n")[-3] else End.WHOLE
    assert answer.status_code in (500, 502, 503), (answer.status_code, text)
    # Not the content type: the router says "text/event-stream" of whatever answers a stream.
    if not text.startswith("{"):
        return End.UNREACHED
    assert json.loads(text)["error"]["message"]
    return End.REFUSED if answer.status_code == 503 else End.TOLD


@contextmanager
def under_load(load: Load, clients: int) -> Iterator[None]:
    """The clients in a thread of their own, until the block is left; raises what they raised."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: asyncio.run(load.run(clients)))
        try:
            yield
        finally:
            load.stopping = True
            running.result(2 * _TIMEOUT_SECONDS)


def ends(asked: list[Asked]) -> dict[str, int]:
    """How many ended how."""
    return dict(Counter(str(each.end) for each in asked))
