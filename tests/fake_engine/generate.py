"""A generation request: refused as vLLM would, or planned and streamed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from . import chat, completions, messages, refusals, responses, sse
from .body import Body
from .deliver import EVENT_STREAM, Reply, forever
from .engine import Engine, State
from .metrics import Times
from .plan import Plan, Stream, short_id

if TYPE_CHECKING:
    from .exchange import Exchange


_CRASH = re.compile(rb'"content"\s*:\s*"crash"')


class Api(NamedTuple):
    """One of the four ways to ask for text."""

    stream: Callable[[Plan], Stream]
    answer: Callable[..., dict[str, Any]]
    required: str
    chunks_options: bool
    """`stream_options` means something here."""


APIS = {
    "/v1/chat/completions": Api(chat.ChatStream, chat.answer, "messages", True),
    "/v1/completions": Api(completions.CompletionStream, completions.answer, "prompt", True),
    "/v1/messages": Api(messages.MessageStream, messages.answer, "messages", False),
    "/v1/responses": Api(responses.ResponseStream, responses.answer, "input", False),
}


def check(engine: Engine, path: str, body: Body) -> None:
    """vLLM's own 4xx, in its order."""
    api, limit = APIS[path], body.limit
    if not body.has(api.required):
        raise refusals.missing(api.required)
    if api.chunks_options and body.stream_options is not None and not body.streams:
        raise refusals.stream_options_without_stream()
    if body.model not in (None, "crash", *engine.options.served_names):
        raise refusals.unknown_model(body.model or "", engine.options.served_names, path)
    if limit is not None and limit > engine.options.max_model_len:
        raise refusals.too_many_tokens(limit, engine.options.max_model_len)


def alive(engine: Engine, path: str) -> None:
    """500 from an engine that is dead, or scripted to fail."""
    if engine.state is State.DEAD:
        text = refusals.ENGINE_DEAD
    elif engine.scenario.generation == "fail":
        text = "CUDA error: device-side assert triggered"
    else:
        return
    raise refusals.Refusal(500, refusals.error(500, text, path=path))


class Generation:
    """One generation in flight: its plan, its counts, its place in the scheduler."""

    def __init__(self, engine: Engine, exchange: Exchange, body: Body) -> None:
        self._engine = engine
        self._exchange = exchange
        self._api = APIS[exchange.path]
        self._seated = self._running = False
        self._times = Times(exchange.arrived)
        self.plan = Plan(
            script=msgspec.structs.replace(exchange.script, text="?")
            if engine.has_changed
            else exchange.script,
            body=body,
            model=engine.model,
            request_id=exchange.header("x-request-id") or short_id(),
            parser=exchange.script.reasoning > 0,
        )
        self.stream = self._api.stream(self.plan)

    def reply(self) -> Reply:
        """The answer, streamed or not."""
        if self.plan.body.streams:
            events = self.stream.events()
            reply = Reply(200, EVENT_STREAM, events, streams=True)
        else:
            events = iter((sse.Event(self._json(None), 0.0, self._tokens()),))
            reply = Reply(200, events=events)
        reply.gate = self._scheduled
        reply.working = self._engine.until_awake
        reply.on_tokens = self._on_tokens
        return reply

    def _tokens(self) -> int:
        return self.plan.tokens * self.plan.choices

    def _json(self, finish_reason: str | None) -> bytes:
        return sse.dumps(self._api.answer(self.plan, finish_reason), self.plan.script.space)

    async def _scheduled(self) -> None:
        """Until there is a seat and, for a whole answer, until it is generated."""
        await self._engine.take_seat()
        self._seated = True
        await self._engine.until_awake()
        self._running = True
        self._times.scheduled = time.monotonic()
        self._engine.metrics.running += 1
        self._engine.metrics.prompt_tokens += self.plan.prompt_tokens
        if not self.plan.body.streams:
            await asyncio.sleep(self.plan.total_seconds)
            await self._engine.until_awake()

    def _on_tokens(self, count: int) -> None:
        self._engine.metrics.tokens(self._times, count)
        self._exchange.record.tokens += count
        self._engine.metrics.generation_tokens += count

    def close(self, *, finished: bool) -> None:
        """Give the seat back; count what became of it (a client's leaving is no success)."""
        if self._running:
            self._engine.metrics.running -= 1
        if self._seated:
            self._engine.leave_seat()
        if finished:
            self._engine.metrics.finished(self._times)
            self._engine.metrics.success[self.plan.finish_reason] += self.plan.choices

    def stopped(self) -> list[bytes]:
        """The rest of a stream, or the whole answer, when the engine is stopped."""
        if not self.plan.body.streams:
            return [self._json("abort")]
        return [event.data for event in self.stream.cut_short(self._exchange.record.tokens)]


def parse(exchange: Exchange) -> Body:
    """The JSON body; vLLM's refusals where it is none."""
    if not exchange.header("content-type").lower().startswith("application/json"):
        raise refusals.invalid("Unsupported Media Type: Only 'application/json' is allowed", None)
    try:
        exchange.body.decode()
    except UnicodeDecodeError:
        raise refusals.Refusal(400, refusals.UNREADABLE) from None
    try:
        return msgspec.json.decode(exchange.body, type=Body)
    except msgspec.ValidationError as error:
        raise refusals.bad_json(str(error)) from None
    except msgspec.DecodeError:
        detail = "Expecting property name enclosed in double quotes"
        raise refusals.bad_json(detail) from None


async def begin(engine: Engine, exchange: Exchange, body: Body) -> Reply:
    """Check, perhaps die or hang, else plan."""
    check(engine, exchange.path, body)
    alive(engine, exchange.path)
    if engine.scenario.generation == "die" or _asks_for_crash(body, exchange.body):
        # The request that kills the engine is ended by its death like all the others.
        exchange.generation = Generation(engine, exchange, body)
        asyncio.get_running_loop().call_soon(engine.die)
        await forever()
    if engine.scenario.generation == "hang":
        await forever()
    exchange.generation = Generation(engine, exchange, body)
    return exchange.generation.reply()


def _asks_for_crash(body: Body, raw: bytes) -> bool:
    """Model "crash", or a prompt or message that is just that word."""
    if "crash" in (body.model, body.prompt, body.input):
        return True
    return _CRASH.search(raw, 0, 1 << 20) is not None
