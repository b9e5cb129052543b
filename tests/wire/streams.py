"""Streams whose every byte is known, to be written by the engine as they are."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = 'data: {"id":"c","choices":[{"index":0,"delta":{"content":"füchs 狐🦊"}}]}\n\n'.encode()
FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = (
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":14,"total_tokens":16,'
    b'"completion_tokens":2}}\n\n'
)
DONE = b"data: [DONE]\n\n"

# What differs between two runs of the same request.
_VARYING = re.compile(rb'"(created|created_at|completed_at)"[ \t]*:[ \t]*[\d.]+|[0-9a-f]{16,32}')
# vLLM names it on the very last chunk only: that is the usage event where there is one.
_FINGERPRINT = re.compile(rb'[ \t]*,[ \t]*"system_fingerprint"[ \t]*:[ \t]*"[^"]*"')


def raw(data: bytes, **more: Any) -> dict[str, Any]:
    """The script that writes these bytes."""
    return {"raw": base64.b64encode(data).decode(), **more}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(pieces: Iterable[bytes]) -> bytes:
    """An event stream in these chunks, ended as it should be."""
    return CHUNKED + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


def sized(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A JSON answer with a declared length."""
    lines = [b"HTTP/1.1 " + status, b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


def steady(body: bytes) -> bytes:
    """A body without what differs between two runs."""
    return _VARYING.sub(b"*", body)


def nameless(body: bytes) -> bytes:
    """The same without the fingerprint, which goes with the usage event."""
    return _FINGERPRINT.sub(b"", steady(body))
