"""Clients that never stop asking, and judge what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from proxy.errors import MAX_HEEDED_SECONDS

TOKENS = 40
INTERVAL_MS = 10
_PAUSE_SECONDS = 0.1

WORDS = [{"role": "user", "content": "some words"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
# Real vLLM may end the last two before the last token: they do not take `ignore_eos`.
PATHS = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)


@dataclass
class Load:
    """`lies` names every answer that did not tell what had become of it; it should stay empty."""

    url: str
    models: tuple[str, ...] = ("tiny",)
    """Each request names one of them, by chance."""
    fake: bool = True
    key: str | None = None
    max_wait_seconds: float = 30.0
    """An answer that takes longer is a lie."""
    ends: Counter[str] = field(default_factory=Counter)
    lies: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    """Request id -> whether its client was told `whole`, `broken` or `refused`."""
    stopping: bool = False

    async def run(self, clients: int) -> None:
        """So many clients, until `stopping`."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url, timeout=self.max_wait_seconds, trust_env=False, limits=limits
        ) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(clients)))

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        choice = random.Random(number)
        while not self.stopping:
            path = choice.choice(PATHS if self.fake else PATHS[:2])
            stream = choice.random() < 0.7
            # Each is another request: what kills the engine here comes from outside, and one
            # that was in flight twice would be blamed for it.
            body = self._body(path, f"{number}-{choice.random()}", stream=stream)
            body["model"] = choice.choice(self.models)
            kind = f"{path.removeprefix('/v1/')} {'stream' if stream else 'whole'}"
            try:
                end = await self._ask(http, path, body)
            except (httpx.HTTPError, AssertionError, ValueError) as error:
                end = "lie"
                self.lies.append(f"{kind}: {type(error).__name__}: {error}"[:500])
            self.ends[end] += 1
            await asyncio.sleep(_PAUSE_SECONDS if end == "refused" else 0)

    def _body(self, path: str, tag: str, *, stream: bool) -> dict[str, Any]:
        asked: dict[str, dict[str, Any]] = {
            CHAT: {"messages": WORDS, "max_tokens": TOKENS},
            COMPLETIONS: {"prompt": "some words", "max_tokens": TOKENS},
            MESSAGES: {"messages": WORDS, "max_tokens": TOKENS},
            RESPONSES: {"input": "some words", "max_output_tokens": TOKENS},
        }
        more = {} if self.fake else {"ignore_eos": True}
        return {"stream": stream, "user": tag, **asked[path], **more}

    async def _ask(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> str:
        script = json.dumps({"tokens": TOKENS, "interval_ms": INTERVAL_MS})
        headers = {"x-fake": script} if self.fake else {}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        request = http.build_request("POST", path, json=body, headers=headers)
        answer = await http.send(request, stream=True)
        try:
            text = (await answer.aread()).decode()
        finally:
            await answer.aclose()
        end = _judged(path, answer, text, stream=body["stream"])
        self.told[answer.headers["x-request-id"]] = end
        return end


@contextmanager
def under_load(load: Load, clients: int) -> Iterator[None]:
    """So many clients ask while the block runs."""
    thread = threading.Thread(target=lambda: asyncio.run(load.run(clients)))
    thread.start()
    try:
        yield
    finally:
        load.stopping = True
        thread.join()


def _judged(path: str, answer: httpx.Response, text: str, *, stream: bool) -> str:
    if answer.status_code == 503:
        assert 1 <= int(answer.headers["retry-after"]) <= MAX_HEEDED_SECONDS
        assert "error" in json.loads(text)
        return "refused"
    if answer.status_code in (500, 502):
        assert "error" in json.loads(text)
        return "broken"
    assert answer.status_code == 200, f"{answer.status_code}: {text[:300]}"
    if not stream:
        assert _tokens(json.loads(text)["usage"]) == TOKENS, text[-300:]
        return "whole"
    return _judged_stream(path, text)


def _judged_stream(path: str, text: str) -> str:
    events = [part.partition("data: ")[2] for part in text.strip().split("\n\n")]
    if path in (CHAT, COMPLETIONS):
        assert events.pop() == "[DONE]", text[-300:]
    last = json.loads(events[-1])
    if last.get("type") == "error" or "error" in last:
        return "broken"
    match path:
        case "/v1/messages":
            assert last["type"] == "message_stop", text[-300:]
            assert _tokens(json.loads(events[-2])["usage"]) == TOKENS
        case "/v1/responses":
            assert last["type"] == "response.completed", text[-300:]
            assert _tokens(last["response"]["usage"]) == TOKENS
        case _:
            assert last["choices"][0]["finish_reason"] == "length", text[-300:]
    return "whole"


def _tokens(usage: dict[str, int]) -> int:
    return usage.get("completion_tokens", usage.get("output_tokens", 0))
