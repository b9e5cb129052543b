"""The endpoint that is measured: one request after the other, read as the relay reads streams.

Times and tokens are noted by the relay's own reader in the log's own record, so that a time of
`bench` and one of the log mean the same. The clock starts when a connection is there and the
first byte goes out; connecting is not in it.
"""

from __future__ import annotations

import os
import re
from time import monotonic
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from proxy.access.routes import Route
from proxy.bench.plan import Plan
from proxy.bench.result import Sample
from proxy.errors import BenchFailure
from proxy.relay.event import EVENT_READERS
from proxy.relay.stream import EventStream, data_of
from proxy.telemetry.record import Record

_CONNECT_SECONDS = 10.0
_LIST_SECONDS = 30.0
# Servers close idle connections after seconds of their own; vLLM after 5.
_KEEP_ALIVE_SECONDS = 2.0
_MAX_ANSWER_BYTES = 1024 * 1024
_MAX_MESSAGE = 300
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]+")


class _Models(msgspec.Struct):
    data: list[_Model]


class _Model(msgspec.Struct):
    id: str


class Endpoint:
    """`async with Endpoint(plan) as endpoint`. No proxy, no redirect and no cookie is followed."""

    def __init__(self, plan: Plan) -> None:
        self._url = plan.url
        self._key = plan.key
        self._read = EVENT_READERS[Route.CHAT]

    async def __aenter__(self) -> Self:
        headers = {
            "user-agent": "vllm-sidecar-bench",
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        clock = aiohttp.TraceConfig()
        clock.on_connection_create_end.append(_start_clock)
        clock.on_connection_reuseconn.append(_start_clock)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            trace_configs=[clock],
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def first_model(self) -> str:
        """The first that `/v1/models` lists.

        Raises:
            BenchFailure: it cannot be asked, or lists none.
        """
        url = f"{self._url}/v1/models"
        timeout = aiohttp.ClientTimeout(total=_LIST_SECONDS)
        try:
            async with self._session.get(url, allow_redirects=False, timeout=timeout) as response:
                data, status = await _start_of(response), response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BenchFailure(f"{url}: {self._reason(error)}") from None
        if status != 200:
            text = self._message(data) or "no word why"
            raise BenchFailure(f"{url}: {status}: {text}{self._hint(status)}")
        try:
            models = msgspec.json.decode(data, type=_Models).data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = "the answer is no list of models"
            raise BenchFailure(f"{url}: {text}; is this an OpenAI endpoint?") from None
        if not models:
            raise BenchFailure(f"{url}: no model is listed; name one by --model")
        return models[0].id

    async def ask(self, body: bytes, sample: Sample) -> None:
        """One streamed chat; what became of it is noted in `sample`."""
        record, url = sample.record, f"{self._url}/v1/chat/completions"
        try:
            async with self._session.post(
                url, data=body, allow_redirects=False, trace_request_ctx=record
            ) as response:
                record.status = response.status
                if response.status != 200:
                    text = self._message(await _start_of(response)) or "no word why"
                    sample.error = str(response.status), text + self._hint(response.status)
                elif response.content_type != "text/event-stream":
                    sample.error = "no stream", f"the answer is {response.content_type}"
                else:
                    stream = EventStream(self._read, record, withhold_usage=False)
                    async for chunk in response.content.iter_any():
                        passed = stream.feed(chunk, monotonic())
                        if stream.error is not None and sample.error is None:
                            events = passed.split(b"\n\n")
                            texts = (self._message(data_of(one + b"\n\n")) for one in events)
                            text = next(filter(None, texts), stream.error)
                            sample.error = "error in the stream", text
                    stream.close()
                    if sample.error is None and not (stream.finished or record.finish_reason):
                        sample.error = "broken stream", "it ended without [DONE]"
                    elif sample.error is None and not record.generated_events:
                        text = "the stream ended well, and nothing was generated"
                        sample.error = "no token", text
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            kind = "no answer" if record.status is None else "broken stream"
            if isinstance(error, _NOT_CONNECTED):
                kind = "no connection"
            sample.error = sample.error or (kind, self._reason(error))
        record.finish()

    def _message(self, data: bytes | None) -> str:
        """The message of an error object or, where there is none, the text itself, as one line."""
        try:
            answer = msgspec.json.decode(data or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._one_line((data or b"").decode(errors="replace"))
        error = answer.get("error", answer) if isinstance(answer, dict) else answer
        if isinstance(error, dict):
            error = error.get("message") or error.get("detail") or ""
        return self._one_line(str(error))

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, aiohttp.ClientConnectorError):
            error = error.os_error
        number = error.errno if isinstance(error, OSError) else None
        if number is not None and number > 0:
            return os.strerror(number)
        return self._one_line(str(error) or type(error).__name__)

    def _one_line(self, text: str) -> str:
        """Safe for a terminal, and without the key, which an endpoint may send back."""
        if self._key is not None:
            text = text.replace(self._key, "***")
        text = " ".join(_UNPRINTABLE.sub(" ", text).split())
        return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]} …"

    def _hint(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        if self._key is None:
            return "; give a key by OPENAI_API_KEY or --key-file"
        return "; is this the right key?"


async def _start_clock(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: Any
) -> None:
    """A connection is there: the next thing to happen is that the first byte is sent."""
    if isinstance(context.trace_request_ctx, Record):
        context.trace_request_ctx.started = monotonic()


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a bound."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) >= _MAX_ANSWER_BYTES:
            break
    return bytes(data)
