"""Reads of a request body what the sidecar needs, and adds the usage option.

A small body is read with typed structs that skip what they do not name. In any other one the
few values that are asked for are found by `proxy.json_scan`, which makes no objects of the rest
and lets the event loop serve others meanwhile.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proxy.access.routes import ROUTES, Route
from proxy.errors import InvalidRequest
from proxy.json_scan import (
    MAX_VALUES,
    SLICE_WORK,
    Malformed,
    Scan,
    Shape,
    TooManyValues,
    find,
)

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
