"""What a request body says, and the usage option added to it.

Bodies are read with typed structs that skip what they do not name: megabytes of base64
are passed over, not turned into Python objects.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.edge.routes import Route


class _Part(msgspec.Struct):
    """One part of a message; `content` is what a tool result nests."""

    type: str = ""
    content: str | list[_Part] | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    type: str = ""


class _Request(msgspec.Struct):
    """What all JSON bodies of the engine's routes may hold."""

    model: Any = None
    stream: Any = None
    stream_options: Any = None


class _Chat(_Request):
    messages: list[_Message] = []


class _Responses(_Request):
    input: str | list[_Message] = ""


_SHAPES: dict[Route, type[_Request]] = {
    Route.CHAT: _Chat,
    Route.MESSAGES: _Chat,
    Route.RESPONSES: _Responses,
}
_DECODERS: dict[type[_Request], msgspec.json.Decoder[_Request]] = {
    shape: msgspec.json.Decoder(shape) for shape in (_Request, _Chat, _Responses)
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
_WITH_USAGE_OPTION = (Route.CHAT, Route.COMPLETIONS)
_USAGE_OPTION = b',"stream_options":{"include_usage":true}'
# Python's reader takes some 10 ms for a MiB, and holds up every stream meanwhile.
_MAX_READ_AGAIN_BYTES = 256 * 1024


@dataclass(slots=True)
class Peek:
    """What a body says of itself. Empty where it could not be read: the engine will tell."""

    model: str | None = None
    stream: bool | None = None
    lacks_usage_option: bool = False
    images: int = 0
    videos: int = 0
    audios: int = 0


def peek(route: Route, body: bytes | bytearray) -> Peek:
    """Read a JSON body as far as this project needs to."""
    request = _decode(route, body)
    if request is None:
        return Peek()
    counts = {"image": 0, "video": 0, "audio": 0}
    _count_media(_messages(request), counts)
    stream = _is_true(request.stream)
    return Peek(
        model=_text(request.model),
        stream=stream,
        lacks_usage_option=stream
        and route in _WITH_USAGE_OPTION
        and request.stream_options is None,
        images=counts["image"],
        videos=counts["video"],
        audios=counts["audio"],
    )


def with_usage_option(body: bytes | bytearray) -> Sequence[bytes | memoryview]:
    """The body with `include_usage` added before its last brace; the rest is not copied.

    Of two equal keys the engine takes the last, so this also stands where the client
    wrote `"stream_options": null`.
    """
    end = body.rindex(b"}")
    view = memoryview(body)
    return view[:end], _USAGE_OPTION, view[end:]


def _decode(route: Route, body: bytes | bytearray) -> _Request | None:
    """With media where the messages have the shape we know, else without, else not at all."""
    text = memoryview(body)[len(BOM_UTF8) :] if body.startswith(BOM_UTF8) else body
    shapes = (_SHAPES.get(route, _Request), _Request)
    for shape in shapes:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _DECODERS[shape].decode(text)
    if len(text) > _MAX_READ_AGAIN_BYTES:
        return None
    # The engine's own reader takes NaN, and half of a character that a client has cut in two.
    with suppress(ValueError, RecursionError):
        said = json.loads(str(text, "utf-8"))
        return _converted(said, shapes) if isinstance(said, dict) else None
    return None


def _converted(said: dict[str, Any], shapes: Iterable[type[_Request]]) -> _Request | None:
    for shape in shapes:
        # A key, too, may hold half a character: only those that are asked for are looked at.
        fields = {name: said[name] for name in shape.__struct_fields__ if name in said}
        with suppress(msgspec.MsgspecError, UnicodeEncodeError):
            return msgspec.convert(fields, shape)
    return None


def _messages(request: _Request) -> Sequence[_Message]:
    match request:
        case _Chat():
            return request.messages
        case _Responses() if isinstance(request.input, list):
            return request.input
        case _:
            return ()


def _count_media(parts: Sequence[_Message | _Part], counts: dict[str, int]) -> None:
    for part in parts:
        if modality := _MODALITY_OF_TYPE.get(part.type):
            counts[modality] += 1
        if isinstance(part.content, list):
            _count_media(part.content, counts)


def _text(value: Any) -> str | None:
    """What can be written to a log: half a character becomes a question mark."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _is_true(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in _TRUE_WORDS
    return isinstance(value, int | float) and value == 1
