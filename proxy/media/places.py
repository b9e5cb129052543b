"""Where in a JSON body the URLs stand that the engine would fetch.

Read with Python's own `json`, piece by piece: it is the engine's reader, so a body means here what
it means there, down to doubled keys (the last one counts), `NaN` and half a surrogate pair. The
text is taken as Latin-1, so that a place in it is a place in the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import chain
from typing import NamedTuple

from proxy.edge.routes import Route
from proxy.errors import MediaRefused

# A string that begins like a URL, or an escape that may hide one. A body without either has none.
_MAY_BE_URL = re.compile(rb'"(?!data:)[A-Za-z][A-Za-z0-9+.-]{0,30}+:')
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_URL = re.compile(r"(?!data:)[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)
_SPACE = re.compile(r"[ \t\n\r]*")
# What reading a body may cost: a value that is skipped takes about 0.1 µs, and one that is looked
# at 3 µs. Long texts have many commas.
_MAX_TOKENS = 500_000
_MAX_STEPS = 20_000

_TOO_ODD = "The body may point at media by URL, and {problem}. Send data URLs, or a plainer body."
_MANY = "has too many values to look through"
_decoder = json.JSONDecoder()


class Place(NamedTuple):
    """One URL: how it is called, and from where to where its string reaches, quotes included."""

    param: str
    url: str
    start: int
    end: int


class Found(NamedTuple):
    """A body in UTF-8, and its URLs in their order."""

    body: bytes | bytearray
    places: list[Place]


def may_hold_urls(route: str, body: bytes | bytearray) -> bool:
    """False where there can be none; costs a search for quotes."""
    if route not in _ROOTS:
        return False
    if not body.startswith(b"{") or body.startswith(b"{\0"):  # it may be in UTF-16 or UTF-32
        return True
    # Looking for one byte is many times faster than for more.
    hides = b"\\" in body and _ESCAPED_ASCII.search(body) is not None
    return hides or _MAY_BE_URL.search(body) is not None


def find(route: str, body: bytes | bytearray) -> Found:
    """All URLs that the engine would fetch for this body; none where it cannot read it.

    Raises:
        MediaRefused: it cannot be told, because the body is nested too deeply or has too many
            values.
    """
    encoding = json.detect_encoding(body)
    offset = 0
    if encoding == "utf-8-sig":
        offset = 3
    elif encoding != "utf-8":
        try:
            body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return Found(body, [])
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_TOKENS:
        raise MediaRefused(_TOO_ODD.format(problem=_MANY))
    reader = _Reader(body.decode("latin-1"))
    try:
        return Found(body, reader.read(offset, _ROOTS[Route(route)]))
    except RecursionError:
        raise MediaRefused(_TOO_ODD.format(problem="is nested too deeply to read")) from None
    except (ValueError, IndexError):
        return Found(body, [])


def rewritten(found: Found, values: Mapping[str, list[bytes]]) -> list[bytes]:
    """The body with each URL that is in `values` replaced by a string of these pieces."""
    pieces: list[bytes] = []
    at = 0
    for place in found.places:
        if place.url in values:
            pieces += [bytes(found.body[at : place.start]), b'"', *values[place.url], b'"']
            at = place.end
    return [*pieces, bytes(found.body[at:])]


# Takes the place of a value and its name; returns where the value ends, and the URLs in it.
_Walk = Callable[["_Reader", int, str], tuple[int, list[Place]]]


class _Reader:
    """Walks through a JSON text; what is not asked for is skipped by `json` itself."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._steps = 0

    def read(self, at: int, walks: Mapping[str, _Walk]) -> list[Place]:
        """The URLs in the object that is the whole text, in their order.

        Raises:
            ValueError, IndexError: this is no JSON.
        """
        end, places = self.object(self._space(at), "", walks)
        if self._space(end) != len(self._text):
            raise ValueError("more than one value")
        # Of two equal keys the last one counts, at the place in a dict of the first one.
        return sorted(places, key=lambda place: place.start)

    def object(self, at: int, name: str, walks: Mapping[str, _Walk]) -> tuple[int, list[Place]]:
        """The URLs in an object; `walks` says which of its keys are looked at, and how."""
        found: dict[str, list[Place]] = {}
        at = self._opened(at, "{")
        while self._text[at] != "}":
            if self._text[at] != '"':
                raise ValueError("no key")
            key, at = _decoder.raw_decode(self._text, at)
            at = self._space(self._after(self._space(at), ":"))
            if walk := walks.get(key):
                at, found[key] = walk(self, at, f"{name}.{key}" if name else key)
            else:
                at = self.skipped(at)
            at = self._next(at, "}")
        return at + 1, list(chain.from_iterable(found.values()))

    def array(self, at: int, name: str, walk: _Walk) -> tuple[int, list[Place]]:
        """The URLs in the values of an array."""
        found: list[Place] = []
        at = self._opened(at, "[")
        number = 0
        while self._text[at] != "]":
            at, more = walk(self, at, f"{name}[{number}]")
            found += more
            number += 1
            at = self._next(at, "]")
        return at + 1, found

    def string(self, at: int, name: str) -> tuple[int, list[Place]]:
        """A string that may be a URL."""
        end = self.skipped(at)
        literal = self._text[at:end].encode("latin-1").decode("utf-8", "surrogatepass")
        url = json.loads(literal)
        return end, [Place(name, url, at, end)] if _URL.match(url) else []

    def skipped(self, at: int) -> int:
        """Where a value ends that is not looked at."""
        end: int = _decoder.raw_decode(self._text, at)[1]
        return end

    def kind(self, at: int) -> str:
        """The first character of a value."""
        return self._text[at]

    def _opened(self, at: int, bracket: str) -> int:
        return self._space(self._after(at, bracket))

    def _next(self, at: int, closing: str) -> int:
        """To the next member or element, or to the end."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise MediaRefused(_TOO_ODD.format(problem=_MANY))
        at = self._space(at)
        if self._text[at] == closing:
            return at
        at = self._space(self._after(at, ","))
        if self._text[at] == closing:
            raise ValueError("a comma too many")
        return at

    def _after(self, at: int, expected: str) -> int:
        if self._text[at] != expected:
            raise ValueError(f"no {expected}")
        return at + 1

    def _space(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at


# Where the engine looks (vllm/renderers/chat_utils.py, entrypoints/*/protocol.py and
# anthropic/serving.py of the pinned version). A part is taken by its keys, as the engine does where
# it has a `uuid`; its `type` may say anything.


def _url(reader: _Reader, at: int, name: str) -> tuple[int, list[Place]]:
    """`"http..."`, or `{"url": "http..."}`."""
    match reader.kind(at):
        case '"':
            return reader.string(at, name)
        case "{":
            return reader.object(at, name, _URL_OBJECT)
        case _:
            return reader.skipped(at), []


def _urls(reader: _Reader, at: int, name: str) -> tuple[int, list[Place]]:
    """Any number of URLs."""
    return reader.array(at, name, _urls) if reader.kind(at) == "[" else _url(reader, at, name)


def _nodes(reader: _Reader, at: int, name: str) -> tuple[int, list[Place]]:
    """Messages, parts, and what parts hold, at any depth."""
    match reader.kind(at):
        case "[":
            return reader.array(at, name, _nodes)
        case "{":
            return reader.object(at, name, _NODE)
        case _:
            return reader.skipped(at), []


def _string(reader: _Reader, at: int, name: str) -> tuple[int, list[Place]]:
    return reader.string(at, name) if reader.kind(at) == '"' else (reader.skipped(at), [])


def _source(reader: _Reader, at: int, name: str) -> tuple[int, list[Place]]:
    """Where an image of the Anthropic API is; as a string it is where a search result is from."""
    return _url(reader, at, name) if reader.kind(at) == "{" else (reader.skipped(at), [])


_URL_OBJECT: dict[str, _Walk] = {"url": _string}
_NODE: dict[str, _Walk] = {
    **dict.fromkeys(("image_url", "video_url", "audio_url"), _url),
    "source": _source,
    **dict.fromkeys(("content", "output"), _nodes),
}
_MESSAGES: dict[str, _Walk] = {"messages": _nodes, "system": _nodes}
_POOLED: dict[str, _Walk] = {"messages": _nodes, "input": _nodes}
_SCORED: dict[str, _Walk] = dict.fromkeys(
    ("query", "queries", "documents", "items", "data_1", "data_2", "text_1", "text_2"), _nodes
)
# Routes that only EXTRA_ROUTES opens: /v1/systemone, /v2/embed, /cohere/v2/chat, ...
_ANY: dict[str, _Walk] = {
    **_MESSAGES,
    **_POOLED,
    **_SCORED,
    "inputs": _nodes,
    **dict.fromkeys(("images", "audio", "videos"), _urls),
}
_ROOTS: dict[str, dict[str, _Walk]] = {
    Route.CHAT: _MESSAGES,
    Route.MESSAGES: _MESSAGES,
    Route.COUNT_TOKENS: _MESSAGES,
    Route.TOKENIZE: _MESSAGES,
    Route.RESPONSES: {"input": _nodes},
    Route.EMBEDDINGS: _POOLED,
    Route.POOLING: _POOLED,
    Route.CLASSIFY: _POOLED,
    Route.SCORE: _SCORED,
    Route.RERANK: _SCORED,
    Route.EXTRA: _ANY,
}
