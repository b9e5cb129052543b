"""Where in a JSON body the URLs stand that the engine would fetch.

They are found by `proxy.json_scan`, which reads as the engine's reader does, down to doubled keys
(the last one counts), `NaN` and half a surrogate pair, and whose places are places in the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from proxy.access.routes import ROUTES, Route
from proxy.errors import MediaRefused
from proxy.json_scan import SLICE_WORK, Leaf, Path, Scan, Shape, TooManyValues, contains
from proxy.json_scan import find as find_values

# A string that begins like a URL, or an escape that may hide one. A body without either has none.
_MAY_BE_URL = re.compile(rb'"(?!data:)[A-Za-z][A-Za-z0-9+.-]{0,30}+:')
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_MAY_HOLD_URL = re.compile(_MAY_BE_URL.pattern + b"|" + _ESCAPED_ASCII.pattern)
_LONGEST_SIGN = 40
_URL = re.compile(r"(?!data:)[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)
# Searching and decoding hold up every stream meanwhile: up to 2 ms for this much.
_MAX_SMALL_BYTES = 64 * 1024
_MAX_URL_BYTES = 64 * 1024
_LEAF_WORK = 128

_TOO_ODD = "The body may point at media by URL, and {problem}. Send data URLs, or a plainer body."
_TOO_LONG = "{name} is longer than {most} KiB and no data URL; URLs must be shorter."
Text = bytes | bytearray


class UrlSpan(NamedTuple):
    """One URL: how it is called, and from where to where its string reaches, quotes included."""

    param: str
    url: str
    start: int
    end: int


class ScanResult(NamedTuple):
    """A body in UTF-8, and its URLs in their order."""

    body: Text
    urls: list[UrlSpan]


def might_contain_urls(route: str, body: Text) -> bool:
    """False where there can be none; costs a search for quotes, of a small body only."""
    if _roots(route) is None:
        return False
    if len(body) > _MAX_SMALL_BYTES:
        return True
    if not body.startswith(b"{") or body.startswith(b"{\0"):  # it may be in UTF-16 or UTF-32
        return True
    # Looking for one byte is many times faster than for more.
    hides = b"\\" in body and _ESCAPED_ASCII.search(body) is not None
    return hides or _MAY_BE_URL.search(body) is not None


def find_urls(route: str, body: Text) -> Scan[ScanResult]:
    """All URLs that the engine would fetch for this body; none where it cannot read it.

    Raises:
        MediaRefused: it cannot be told, because the body is nested too deeply, has too many
            values or is long and not in UTF-8, or a URL is too long.
    """
    roots = _roots(route)
    if roots is None:
        return ScanResult(body, [])
    encoding = json.detect_encoding(body[:4])
    start = 0
    if encoding == "utf-8-sig":
        start = 3
    elif encoding != "utf-8":
        if len(body) > _MAX_SMALL_BYTES:
            raise MediaRefused(_TOO_ODD.format(problem="is long and not in UTF-8"))
        try:
            body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return ScanResult(body, [])
    try:
        leaves = (yield from find_values(body, roots, start)).leaves
        spans, work = [], 0
        for leaf in leaves:
            span = _url_span(body, leaf)
            if span is not None:
                spans.append(span)
            work += _LEAF_WORK + min(leaf.end - leaf.start, _MAX_URL_BYTES - _LEAF_WORK)
            if work >= SLICE_WORK:
                yield work
                work = 0
    except TooManyValues as error:
        if (yield from contains(body, _MAY_HOLD_URL, _LONGEST_SIGN)) and (
            yield from contains(body, _MAY_BE_KEY, _LONGEST_KEY)
        ):
            raise MediaRefused(_TOO_ODD.format(problem=f"has {error}")) from None
        spans = []
    except ValueError:
        spans = []
    return ScanResult(body, spans)


def replace_urls(scan: ScanResult, values: Mapping[str, list[bytes]]) -> list[bytes | memoryview]:
    """The body with each URL that is in `values` replaced by a string of these pieces."""
    view = memoryview(scan.body)
    pieces: list[bytes | memoryview] = []
    at = 0
    for span in scan.urls:
        if span.url in values:
            pieces += [view[at : span.start], b'"', *values[span.url], b'"']
            at = span.end
    return [*pieces, view[at:]]


def _url_span(body: Text, leaf: Leaf) -> UrlSpan | None:
    """A string that is a URL; None for any other.

    Raises:
        MediaRefused: it is long, and may be one.
        ValueError: this is no JSON.
    """
    start = bytes(body[leaf.start : min(leaf.end, leaf.start + _LONGEST_SIGN)])
    # Of a data URL no more than its first bytes are looked at.
    if b"\\" not in start and not _URL.match(start[1:].decode("latin-1")):
        return None
    if leaf.end - leaf.start > _MAX_URL_BYTES:
        name = _name(leaf.path)
        text = _TOO_LONG.format(name=name, most=_MAX_URL_BYTES // 1024)
        raise MediaRefused(text, param=name)
    literal = bytes(body[leaf.start : leaf.end])
    url = json.loads(literal.decode("utf-8", "surrogatepass"))
    return UrlSpan(_name(leaf.path), url, leaf.start, leaf.end) if _URL.match(url) else None


def _name(path: Path) -> str:
    """`messages[0].image_url`"""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)[1:]


# Where the engine looks (vllm/renderers/chat_utils.py, entrypoints/*/protocol.py and
# anthropic/serving.py of the pinned version). A part is taken by its keys, as the engine does where
# it has a `uuid`; its `type` may say anything.

_KEYS_OF_URLS = ("image_url", "video_url", "audio_url")
_LISTS_OF_URLS = ("images", "audio", "videos")
# A URL stands below one of these keys, as it is or with escapes: a body without them has none.
_KEYS = "|".join(("url", *_KEYS_OF_URLS, *_LISTS_OF_URLS)).encode()
_ESCAPED_KEY = rb"(?:[a-z_]{0,8}+\\u00(?:5[fF]|[67][0-9a-fA-F])){1,9}+[a-z_]{0,8}+"
_MAY_BE_KEY = re.compile(rb'"(?:%b|%b)"' % (_KEYS, _ESCAPED_KEY))
_LONGEST_KEY = 64  # nine letters, each escaped

_STRING = Shape(takes=b'"')
# "http..." or {"url": "http..."}
_ONE_URL = Shape({b"url": _STRING}, takes=b'"')
_URLS = Shape({b"url": _STRING}, takes=b'"')
_URLS.elements = _URLS
# Messages, parts, and what parts hold, at any depth. A `source` is where an image of the Anthropic
# API is; as a string it is where a search result is from.
_NODES = Shape()
_NODES.elements = _NODES
_NODES.members = {
    **dict.fromkeys(map(str.encode, _KEYS_OF_URLS), _ONE_URL),
    b"source": Shape({b"url": _STRING}),
    **dict.fromkeys((b"content", b"output"), _NODES),
}


_FIELDS: dict[str, dict[bytes, Shape]] = {
    spec.route: {
        name.encode(): _URLS if name in _LISTS_OF_URLS else _NODES for name in spec.media_fields
    }
    for spec in ROUTES
}
_ROOTS = {route: Shape(fields) if fields else None for route, fields in _FIELDS.items()}


def _roots(route: str) -> Shape | None:
    """A route that is not declared is judged by every field that any other has."""
    return _ROOTS.get(route, _ROOTS[Route.EXTRA])
