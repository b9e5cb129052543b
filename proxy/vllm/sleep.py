"""vLLM's sleep mode at level 1: weights to the machine's memory, the KV cache thrown away.

An engine that was woken may be healthy and say nonsense. So a few greedy tokens are recorded after
each start, and must be the same after each wake. Routes and parameters follow vLLM 0.32
(`vllm/entrypoints/serve/dev/sleep`): parameters stand in the query, a body is ignored in silence.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import httpx

from proxy.engine.server import Sleeper, SleepFailed, WakeFailed
from proxy.machine.pinned_memory import PinnedMemory
from proxy.png import png
from proxy.vllm.engine_socket import EngineSocket
from proxy.vllm.warm_up import Question

_log = logging.getLogger("proxy.engine")

# A hundred GiB are copied in a minute; the first time they are pinned before.
SLEEP_SECONDS = 300.0
WAKE_SECONDS = 300.0
CANARY_SECONDS = 120.0
_TOKENS = 8
_PROMPT = "Count from one to ten in words, and name the colours that you see:"
_SIDE_PIXELS = 64
_MAX_QUOTED_CHARS = 200


@dataclass(frozen=True, slots=True)
class _Answer:
    """Tokens by their numbers, or, of an engine that does not give these, the text."""

    prompt: tuple[Any, ...]
    """A chat template may write the date into it."""
    tokens: tuple[Any, ...]

    def differs_from(self, other: _Answer) -> bool:
        return self.prompt == other.prompt and self.tokens != other.tokens


class VllmSleeper(Sleeper):
    """Sleeps and wakes one vLLM, of which `client` is a client."""

    def __init__(
        self, client: httpx.AsyncClient, name: str, pinned: PinnedMemory, socket: EngineSocket
    ) -> None:
        """`name` is that of the model in `pinned`, which all sleepers share."""
        self.weights_bytes: int | None = None
        """What it pins in the machine's memory when it sleeps: 0 without a GPU; None: not known."""
        self._client = client
        self._name = name
        self._pinned = pinned
        self._socket = socket
        self._canary: tuple[tuple[Question, _Answer], ...] = ()
        self._has_failed = False

    @property
    def may_sleep(self) -> bool:
        """Whether a sleep is tried at all: its tokens can be compared, and no wake has failed."""
        return bool(self._canary) and not self._has_failed

    def obstacle(self) -> str | None:
        if self._has_failed:
            return "a wake of it has failed"
        if not self._canary:
            return "it gave no tokens after its start that could be compared after a wake"
        if self.weights_bytes is None:
            return "the size of its weights is not known"
        return self._pinned.reserve(self._name, self.weights_bytes)

    def release(self) -> None:
        """Its process is gone, and with it all that it has pinned."""
        self._pinned.release(self._name)

    async def prepare(self, model: str) -> None:
        self._socket.protect()
        options = {
            "max_tokens": _TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,  # nosec B105
        }
        side = _SIDE_PIXELS
        rows = b"".join(  # with many colours
            b"\0" + bytes(v for x in range(side) for v in (x * 4 % 256, y * 4 % 256, x * y % 256))
            for y in range(side)
        )
        url = f"data:image/png;base64,{b64encode(png(side, rows)).decode()}"
        picture = {"type": "image_url", "image_url": {"url": url}}
        content = [{"type": "text", "text": _PROMPT}, picture]
        messages = [{"role": "user", "content": content}]
        questions = (  # with a picture, where the model takes one, and without
            Question("/v1/chat/completions", {"messages": messages, **options}),
            Question("/v1/completions", {"prompt": _PROMPT, **options}),
        )
        answers = [(question, await self._answer(question, model)) for question in questions]
        self._canary = tuple((question, answer) for question, answer in answers if answer)
        if not self._canary:
            _log.warning("the model is to sleep, but gives no tokens to compare after a wake")

    async def sleep(self) -> None:
        try:
            answer = await self._client.post("/sleep?level=1&mode=wait", timeout=SLEEP_SECONDS)
            _check(answer, SleepFailed)
            state = await self._client.get("/is_sleeping")
            is_asleep = _check(state, SleepFailed).get("is_sleeping")
        except httpx.HTTPError as error:
            raise SleepFailed(f"It was told to sleep: {type(error).__name__}.") from error
        if is_asleep is not True:
            raise SleepFailed("It was told to sleep, and says that it does not.")
        self._pinned.hold(self._name)

    async def wake(self, model: str) -> None:
        try:
            try:
                answer = await self._client.post("/wake_up", timeout=WAKE_SECONDS)
            except httpx.HTTPError as error:
                text = f"The engine was to wake: {type(error).__name__}."
                raise WakeFailed(text) from error
            if (status := _check(answer, WakeFailed).get("status")) != "awake":
                raise WakeFailed(f"The engine was to wake, and says that it is {status}.")
            for question, before in self._canary:
                now = await self._answer(question, model)
                if now is None:
                    text = f"The engine was woken, and does not answer {question.path}."
                    raise WakeFailed(text)
                if now.differs_from(before):
                    text = "The engine was woken, and answers with other tokens than before."
                    raise WakeFailed(text)
        except WakeFailed:
            self._has_failed = True
            raise

    async def _answer(self, question: Question, model: str) -> _Answer | None:
        """A greedy one; None where there is none."""
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                response = await question.ask(self._client, model)
            page = response.raise_for_status().json()
            choice = page["choices"][0]
            tokens = choice.get("token_ids") or choice.get("text") or choice["message"]["content"]
            prompt = choice.get("prompt_token_ids") or page.get("prompt_token_ids") or ()
            return _Answer(tuple(prompt), tuple(tokens)) if tokens else None
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, IndexError):
            return None


def _check(response: httpx.Response, failure: type[SleepFailed | WakeFailed]) -> dict[str, Any]:
    """What the engine says of itself. Raises `failure`."""
    path = response.url.path
    if response.status_code != 200:
        text = " ".join(response.text.split())[:_MAX_QUOTED_CHARS]
        raise failure(f"{path} answered {response.status_code}: {text}")
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise failure(f"{path} answered no JSON object.")
    return document
