"""The translation between a client that speaks another protocol and an engine that speaks OpenAI's.

What is asked is translated as the body is read, and all that is written is translated back: the
engine's answer, and the sidecar's own refusals.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import msgspec

from proxy.access.routes import Route
from proxy.errors import (
    BodyTooLarge,
    InternalFailure,
    InvalidEngineResponse,
    InvalidRequest,
    MethodNotAllowed,
    RequestFailure,
)
from proxy.protocols.body import decoded
from proxy.protocols.openai import events_of_answer, events_of_stream
from proxy.protocols.protocol import Ask, Done, Error, Event, Protocol
from proxy.relay.answer import EVENT_STREAM
from proxy.relay.headers import OF_THE_BODY
from proxy.relay.refusal import error_event
from proxy.relay.stream import data_of
from proxy.server.exchange import Exchange
from proxy.server.request import Headers

_log = logging.getLogger("proxy.relay")

# Translating takes the whole in Python's objects, and holds up every stream meanwhile.
MAX_REQUEST_BYTES = 32 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_TARGETS: dict[Route, bytes] = {
    Route.CHAT: b"/v1/chat/completions",
    Route.COMPLETIONS: b"/v1/completions",
}
# An answer that is compressed could not be read.
_NOT_SENT = (b"content-type", b"content-encoding", b"accept-encoding")
# Whole events are all that comes here, so that no CR can be half of a CRLF.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r){2}")
_JSON = (b"content-type", b"application/json")
# All that the code of a protocol may raise: one that calls sys.exit ends nothing but its request.
_FAULTS = (Exception, SystemExit)


class Translation:
    """One request of a protocol, and its response.

    `route`, `target` and `headers` are what the engine is asked by; the first two of them are
    known once the body has been read.
    """

    def __init__(
        self, exchange: Exchange, route: Route, protocol: Protocol, request_id: str
    ) -> None:
        self._exchange = exchange
        self._protocol = protocol
        self._request_id = request_id
        request = exchange.request
        self._path = request.path.decode("latin-1")
        self._content_type = request.named.get(b"content-type", b"").lower()
        self.route = route
        self.target = request.target
        self.headers = [pair for pair in request.headers if pair[0] not in _NOT_SENT] + [_JSON]
        self._ask: Ask | None = None
        self._streaming = False
        self._status = 0
        self._head: Headers = []
        self._pieces: list[bytes] = []
        self._held_bytes = 0

    # An exchange's way to hand chunks over as they are: there is none.
    write_chunk = None

    async def whole_body(self, limit_bytes: int) -> bytes:
        """What the engine is to be asked; `route` and `target` are the engine's from now on.

        Raises:
            InvalidRequest, MethodNotAllowed: the protocol cannot take it.
            BodyTooLarge, ClientClosed, MalformedRequest: as for any body.
        """
        method = self._exchange.request.method
        if method != "POST":
            failure = MethodNotAllowed(f"{self._path} takes POST, not {method}.")
            failure.headers = ((b"allow", b"POST"),)
            raise failure
        if not self._content_type.startswith(b"application/json"):
            text = "content-type: must be application/json"
            raise InvalidRequest(text, param="content-type")
        body = await self._exchange.whole_body(limit_bytes)
        if len(body) > MAX_REQUEST_BYTES:
            most = MAX_REQUEST_BYTES // 1024 // 1024
            raise BodyTooLarge(f"The body is larger than {most} MiB, the most for {self._path}.")
        fields = await decoded(body, self._path)
        try:
            ask = self._protocol.request_in(self._path, fields)
            if ask.streams:
                ask.body.setdefault("stream_options", {"include_usage": True})
            target, asked = _TARGETS[ask.route], msgspec.json.encode(ask.body)
        except RequestFailure:
            raise
        except _FAULTS:
            raise self._broken() from None
        self._ask, self.route, self.target = ask, ask.route, target
        return asked

    def start(self, status: int, headers: Headers) -> None:
        """A stream's head goes out as any; that of another answer waits for its body."""
        kind = dict(reversed(headers)).get(b"content-type", b"")
        self._streaming = kind.lower().startswith(EVENT_STREAM)
        self._pieces, self._held_bytes = [], 0
        self._status, self._head = status, headers
        if self._streaming:
            self._exchange.start(status, self._headers(self._protocol.stream_type))

    def pad(self, headers: Headers) -> None:
        if self._protocol.answer_type.startswith("application/json"):
            self._exchange.pad(headers)

    def end(self, data: bytes) -> None:
        if not self._streaming:
            self._hold(data)
            whole = b"".join(self._pieces)
            try:
                events = events_of_answer(self._status, whole)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise InvalidEngineResponse("The engine's answer cannot be read.") from None
            content_type = self._protocol.answer_type
            try:
                body = self._rendered(events)
            except InternalFailure:
                if self._status < 400:
                    raise
                body, content_type = whole, "application/json"  # it cannot render an error either
            length = (b"content-length", b"%d" % len(body))
            self._exchange.start(self._status, [*self._headers(content_type), length])
            self._exchange.end(body)
            return
        try:
            last = self._translated(data.rstrip(b"\r\n") + b"\n\n")
        except RequestFailure as failure:
            error = Error(None, failure.message, failure.code, failure.param)
            try:
                last = self._rendered([error, Done()])
            except InternalFailure:  # it cannot render that either
                last = error_event(failure, self.route)
            self._exchange.end(last)
            raise
        self._exchange.end(last)

    def write(self, data: bytes) -> None:
        """Send bytes of the engine's answer, as the protocol has them."""
        if self._streaming:
            self._exchange.write(self._translated(data))
        else:
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_ANSWER_BYTES:
            most = MAX_ANSWER_BYTES // 1024 // 1024
            text = f"The engine's answer is larger than {most} MiB, and cannot be translated."
            raise InvalidEngineResponse(f"{text} Ask for less at a time, or for a stream.")

    def _translated(self, data: bytes) -> bytes:
        """Whole events of the engine's, as the protocol has them; comments stay as they are."""
        events: list[Event] = []
        comments = b""
        start = 0
        for match in _EVENT_END.finditer(data):
            event, start = data[start : match.end()], match.end()
            payload = data_of(event)
            if payload is not None:
                try:
                    events += events_of_stream(payload)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    text = "An event of the engine's cannot be read."
                    raise InvalidEngineResponse(text) from None
            elif event.startswith(b":") and self._protocol.stream_type.startswith(
                "text/event-stream"
            ):
                comments += event
        if data[start:].strip(b"\r\n"):
            raise InvalidEngineResponse("An event of the engine's is too long to be translated.")
        return comments + (self._rendered(events) if events else b"")

    def _rendered(self, events: Sequence[Event]) -> bytes:
        try:
            rendered: object = self._protocol.events_out(self._ask, events)
            if not isinstance(rendered, bytes):
                raise TypeError(f"events_out has returned {type(rendered).__name__}, not bytes")
            return rendered
        except _FAULTS:
            raise self._broken() from None

    def _broken(self) -> InternalFailure:
        name = type(self._protocol).__name__
        request = {"request_id": self._request_id}
        _log.exception("the protocol %s failed", name, extra=request)
        return InternalFailure(f"The protocol {name} failed.")

    def _headers(self, content_type: str) -> Headers:
        kept = [pair for pair in self._head if pair[0] not in OF_THE_BODY]
        return [*kept, (b"content-type", content_type.encode())]
