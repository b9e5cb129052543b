"""What the engine is asked: a JSON body is held whole and read, any other one is piped, but for
forms where there are several models.

A small body is read with typed structs that skip what they do not name. In any other one the
few values that are asked for are found by `proxy.json_scan`, which makes no objects of the rest
and lets the event loop serve others meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import math
from codecs import BOM_UTF8
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote_plus

import msgspec

from proxy.access.routes import ALIASES, ROUTES, Route
from proxy.errors import InvalidRequest, RequestFailure
from proxy.json_scan import (
    MAX_VALUES,
    SLICE_WORK,
    Malformed,
    Scan,
    Shape,
    TooManyValues,
    find,
    in_slices,
)
from proxy.relay.connection import Connection, Parts
from proxy.relay.form import boundary_of, model_of_form
from proxy.relay.headers import UPGRADE
from proxy.relay.models import ModelsResponse
from proxy.relay.translation import Translation
from proxy.server.exchange import Exchange
from proxy.server.request import Headers
from proxy.telemetry.record import Record

# Reading with structs holds up every stream meanwhile: no more than this, nor than so many
# objects, each of which takes up to 100 ns.
_MAX_SMALL_BYTES = 512 * 1024
_MAX_SMALL_CONTAINERS = 8_000
_UNCOUNTED_BYTES = 16 * 1024
# At the top level of a body whose media are too many to count.
_MAX_FIELDS = 100_000
_MAX_VALUE_BYTES = 4096
_MAX_TYPE_BYTES = 128  # each letter escaped
_LEAVES_A_SLICE = 500


class Media(Protocol):
    """Judges the media URLs of a body, and may put what they lead to in their place."""

    def is_needed(self, route: str, body: bytes | bytearray) -> bool: ...

    async def resolve(
        self, route: str, body: bytes | bytearray, record: Record
    ) -> tuple[Sequence[bytes | memoryview], Callable[[], None]] | None:
        """The body with what they lead to, in pieces, and what gives back their memory."""


@dataclass(slots=True)
class UpstreamRequest:
    """One request, as the engine gets it. `length` is in bytes, None for a body without a declared
    one (it goes in chunks).

    `give_back` releases the memory of media. Call `close` when the request is over.
    """

    route: Route
    target: bytes
    headers: Headers
    length: int | None = None
    parts: Parts = ()
    pieces: AsyncGenerator[bytes | bytearray | memoryview, None] | None = None
    adds_usage: bool = False
    body: bytes | bytearray | None = None
    """As the client sent it, where it is held whole."""
    tail_bytes: int = 0
    """From its last brace to its end, where `adds_usage`."""
    # What identifies the request, where it is held whole: with media, as the client sent it.
    fingerprinted: Parts = ()
    give_back: Callable[[], None] | None = None
    upgrades: bool = False
    """It offers a WebSocket: `pieces` are its frames, for an engine that takes it."""

    def close(self) -> None:
        """The request is over: give back what it still holds."""
        if self.give_back is not None:
            self.give_back()

    async def resolve_media(self, exchange: Exchange, media: Media, record: Record) -> None:
        """Put what the media URLs of the body lead to in their place. A client that leaves ends
        the fetching.

        Raises:
            MediaRefused, MediaUnavailable: a URL in it is not for fetching, or leads to nothing.
            ClientClosed: the client has left.
        """
        assert self.body is not None
        left: list[RequestFailure] = []

        def leave(failure: RequestFailure) -> None:
            if not left:
                until.reschedule(asyncio.get_running_loop().time())
            left.append(failure)

        try:
            async with asyncio.timeout(None) as until:
                exchange.on_disconnect(leave)
                resolved = await media.resolve(self.route, self.body, record)
        except TimeoutError:
            raise left[0] from None  # nothing else in there lets one out
        finally:
            exchange.on_disconnect(None)
        if resolved is not None:
            whole, self.give_back = resolved
            parts = self.with_option(whole)
            self.length, self.parts, self.fingerprinted = sum(map(len, parts)), (), (self.body,)
            self.pieces = _let_go(deque(parts), self.give_back)

    def with_option(self, whole: Sequence[bytes | bytearray | memoryview]) -> Parts:
        """A body in pieces, with the usage option where it is to be added."""
        if not self.adds_usage:
            return whole
        return (*whole[:-1], *with_usage_option(whole[-1], self.tail_bytes))

    def framing(self) -> Headers:
        if self.upgrades:
            return UPGRADE
        if self.length is not None:
            return [(b"content-length", b"%d" % self.length)]
        return [(b"transfer-encoding", b"chunked")] if self.pieces is not None else []

    async def send(self, connection: Connection, record: Record) -> None:
        """Send what was not there yet when the request began.

        Runs beside the answer: an engine may answer before it has read everything.
        """
        assert self.pieces is not None
        try:
            async with aclosing(self.pieces) as pieces:
                async for piece in pieces:
                    if self.length is not None or self.upgrades:
                        await connection.send_body((piece,))
                    else:
                        await connection.send_body((b"%x\r\n" % len(piece), piece, b"\r\n"))
            if self.give_back is None:
                record.body_read = monotonic()
            if self.length is None and not self.upgrades:
                await connection.send_body((b"0\r\n\r\n",))
        except RequestFailure as failure:
            connection.abort(failure)
        else:
            # Else the engine answered before the end, or only the engine was waited for.
            if connection.first_byte is None and self.give_back is None:
                record.sent = monotonic()
            connection.request_sent()


async def upstream_request(
    exchange: Exchange,
    out: Exchange | Translation | ModelsResponse,
    route: Route,
    limit_bytes: int,
    record: Record,
    *,
    is_routed: bool = False,
) -> UpstreamRequest:
    """Take in a JSON body whole, to inspect it; let any other flow. `out` is what takes the
    response: it may ask the engine for something else than the client has. With `is_routed` the
    request says which model it is for: a form is taken in whole too, as its last field may do so.

    Raises:
        BodyTooLarge, ClientClosed, MalformedRequest: see `Exchange.whole_body`.
        InvalidRequest: see `scan`, and `Translation.whole_body`.
    """
    request = exchange.request
    if isinstance(out, Translation):
        body: bytes | bytearray = await out.whole_body(limit_bytes)
        asked = UpstreamRequest(out.route, out.target, out.headers)
    else:
        if isinstance(out, ModelsResponse):
            target = out.target
        else:
            target = ALIASES.get(request.path, request.path)
            if request.query:
                target = b"%b?%b" % (target, request.query)
        asked = UpstreamRequest(route, target, request.headers)
        if exchange.is_session:
            asked.upgrades, asked.pieces = True, exchange.body(math.inf)
            if is_routed:
                record.model = _model_of_query(request.query)
            return asked
        length = request.named.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in request.named:
            record.body_read, record.stream = record.started + record.waited_seconds, False
            asked.length = request.declared_length
            return asked
        content_type = request.named.get(b"content-type", b"")
        if not content_type.lower().startswith(b"application/json"):
            record.audios = 1 if route is Route.AUDIO else 0
            boundary = boundary_of(content_type) if is_routed else None
            if boundary is None:
                asked.length = request.declared_length
                asked.pieces = exchange.body(limit_bytes)
            else:
                body = await exchange.whole_body(limit_bytes)
                record.body_read = monotonic()
                record.model = await in_slices(model_of_form(body, boundary))
                asked.length, asked.parts = len(body), (body,)
            return asked
        body = await exchange.whole_body(limit_bytes)
    record.body_read, record.bytes_in = monotonic(), exchange.received_bytes
    route = asked.route
    seen = peek(route, body)
    if seen is None:
        seen = await in_slices(scan(route, body))
    record.model, record.stream = seen.model, seen.stream
    record.images, record.videos, record.audios = seen.images, seen.videos, seen.audios
    record.media_counted = seen.is_counted
    asked.body, asked.adds_usage, asked.tail_bytes = body, seen.lacks_usage_option, seen.tail_bytes
    asked.parts = asked.fingerprinted = asked.with_option((body,))
    asked.length = sum(map(len, asked.parts))
    return asked


async def _let_go(
    parts: deque[bytes | bytearray | memoryview], give_back: Callable[[], None]
) -> AsyncGenerator[bytes | bytearray | memoryview, None]:
    """Hold no part that the engine has read, and no memory of media when it has read all."""
    while parts:
        yield parts.popleft()
    give_back()


def _model_of_query(query: bytes) -> str | None:
    # It may have more fields than can be taken apart while others wait.
    value = (b"&" + query).partition(b"&model=")[2].partition(b"&")[0]
    return unquote_plus(value[:_MAX_VALUE_BYTES].decode("latin-1")) or None


class _Part(msgspec.Struct, gc=False):
    """One part of a message; `content` is what a tool result nests."""

    type: str = ""
    content: str | list[_Part] | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    type: str = ""


class _Options(msgspec.Struct, gc=False):
    """Any object."""


class _Request(msgspec.Struct, gc=False):
    """What all JSON bodies of the engine's routes may hold, as nearly all clients write it."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _Options | None = None


class _Chat(_Request, gc=False):
    messages: list[_Message] = []


class _Responses(_Request, gc=False):
    input: str | list[_Message] = ""


_STRUCTS: dict[str | None, type[_Request]] = {
    None: _Request,
    "messages": _Chat,
    "input": _Responses,
}
_DECODERS: dict[Route, msgspec.json.Decoder[_Request]] = {
    spec.route: msgspec.json.Decoder(_STRUCTS[spec.messages_field]) for spec in ROUTES
}

# The same for a scan.
_VALUE = Shape(takes=bytes(range(256)))
_FIELDS = {name.encode(): _VALUE for name in _Request.__struct_fields__}
_PARTS = Shape()
_PARTS.elements = Shape({b"content": _PARTS, b"type": Shape(takes=b'"')})
_WITHOUT_MEDIA = Shape(_FIELDS)
_WITH_MEDIA = {
    spec.route: Shape({**_FIELDS, spec.messages_field.encode(): _PARTS})
    for spec in ROUTES
    if spec.messages_field is not None
}

_MODALITY_OF_TYPE = {
    "image_url": "image",
    "image": "image",
    "image_embeds": "image",
    "image_pil": "image",
    "input_image": "image",
    "video_url": "video",
    "video": "video",
    "input_video": "video",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "input_audio": "audio",
}
# The engine reads booleans as pydantic does.
_TRUE_WORDS = frozenset({"true", "1", "yes", "y", "on", "t"})
_WITH_USAGE_OPTION = tuple(spec.route for spec in ROUTES if spec.takes_usage_option)
_USAGE_OPTION = b',"stream_options":{"include_usage":true}'


@dataclass(slots=True)
class Peek:
    """What a body holds. Empty where it could not be read: the engine will refuse it."""

    model: str | None = None
    """No more of it than a name may have: the last requests are kept for the dashboard."""
    stream: bool | None = None
    lacks_usage_option: bool = False
    images: int = 0
    videos: int = 0
    audios: int = 0
    is_counted: bool = True
    """False where images, videos and audios are too many values to look through."""
    tail_bytes: int = field(default=0, compare=False)
    """From the body's last brace to its end; only where it lacks the usage option."""


def peek(route: Route, body: bytes | bytearray) -> Peek | None:
    """Read a small JSON body as far as this project needs to.

    Returns None where that could hold up others, or it is not as one expects: then `scan` reads it.
    """
    if len(body) > _UNCOUNTED_BYTES and (
        len(body) > _MAX_SMALL_BYTES or body.count(b"{") + body.count(b"[") > _MAX_SMALL_CONTAINERS
    ):
        return None
    text = memoryview(body)[len(BOM_UTF8) :] if body.startswith(BOM_UTF8) else body
    try:
        request = _DECODERS[route].decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    counts = {"image": 0, "video": 0, "audio": 0}
    if isinstance(request, _Chat):
        _count_media(request.messages, counts)
    elif isinstance(request, _Responses) and isinstance(request.input, list):
        _count_media(request.input, counts)
    has_options = request.stream_options is not None
    seen = _peek(route, request.model, request.stream is True, has_options, counts)
    if seen.lacks_usage_option:
        seen.tail_bytes = len(body) - body.rindex(b"}")
    return seen


def scan(route: Route, body: bytes | bytearray) -> Scan[Peek]:
    """Read a JSON body of any size and kind as far as this project needs to.

    Raises:
        InvalidRequest: it has so many fields at its top level that they are not looked through.
    """
    start = len(BOM_UTF8) if body.startswith(BOM_UTF8) else 0
    is_counted = True
    try:
        try:
            shape = _WITH_MEDIA.get(route, _WITHOUT_MEDIA)
            leaves, end = yield from find(body, shape, start, MAX_VALUES)
        except TooManyValues:
            is_counted = False
            leaves, end = yield from find(body, _WITHOUT_MEDIA, start, _MAX_FIELDS)
    except Malformed:
        return Peek()
    except TooManyValues:
        text = f"body: has more than {_MAX_FIELDS} fields at its top level, the most that is read"
        raise InvalidRequest(text, param="body") from None
    fields: dict[str | int, bytes] = {}
    counts = {"image": 0, "video": 0, "audio": 0}
    for number, leaf in enumerate(leaves):
        if number % _LEAVES_A_SLICE == _LEAVES_A_SLICE - 1:
            yield SLICE_WORK
        if len(leaf.path) == 1:
            # Or its beginning: no name and no option is that long.
            end_read = min(leaf.end, leaf.start + _MAX_VALUE_BYTES)
            fields[leaf.path[0]] = bytes(body[leaf.start : end_read])
        elif leaf.end - leaf.start <= _MAX_TYPE_BYTES:
            modality = _MODALITY_OF_TYPE.get(_text(bytes(body[leaf.start : leaf.end])) or "")
            if modality is not None:
                counts[modality] += 1
    has_options = fields.get("stream_options", b"null") != b"null"
    stream = _is_true(fields.get("stream", b""))
    seen = _peek(route, _text(fields.get("model", b"")), stream, has_options, counts)
    seen.is_counted = is_counted
    if seen.lacks_usage_option:
        seen.tail_bytes = len(body) - end + 1
    return seen


def with_usage_option(
    body: bytes | bytearray | memoryview, tail_bytes: int
) -> Sequence[bytes | memoryview]:
    """A body, or the end of one, with `include_usage` added before its last brace, which is
    `tail_bytes` before its end; the rest is not copied.

    Of two equal keys the engine takes the last, so this also stands where the client
    wrote `"stream_options": null`.
    """
    view = memoryview(body)
    end = len(view) - tail_bytes
    return view[:end], _USAGE_OPTION, view[end:]


def _peek(
    route: Route, model: str | None, stream: bool, has_options: bool, counts: dict[str, int]
) -> Peek:
    return Peek(
        model=None if model is None else model[:_MAX_VALUE_BYTES],
        stream=stream,
        lacks_usage_option=stream and not has_options and route in _WITH_USAGE_OPTION,
        images=counts["image"],
        videos=counts["video"],
        audios=counts["audio"],
    )


def _count_media(parts: Sequence[_Message | _Part], counts: dict[str, int]) -> None:
    for part in parts:
        if modality := _MODALITY_OF_TYPE.get(part.type):
            counts[modality] += 1
        if isinstance(part.content, list):
            _count_media(part.content, counts)


def _text(literal: bytes) -> str | None:
    """A string's text as it can be written to a log: half a character becomes a question mark."""
    if not literal.startswith(b'"'):
        return None
    if b"\\" not in literal:
        return literal[1:].removesuffix(b'"').decode(errors="replace")
    value = _value(literal)
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _is_true(literal: bytes) -> bool:
    if literal == b"true":
        return True
    if not literal or literal[0] not in b'"-0123456789':
        return False
    value = _value(literal)
    if isinstance(value, str):
        return value.lower() in _TRUE_WORDS
    return isinstance(value, int | float) and value == 1


def _value(literal: bytes) -> Any:
    """A string or a number; None where its end was cut off."""
    with suppress(ValueError):
        return json.loads(literal.decode("utf-8", "surrogatepass"))
    return None
