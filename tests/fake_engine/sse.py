"""Server-sent events as vLLM writes them: compact JSON, raw UTF-8, one blank line after each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from .script import Script

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Event(NamedTuple):
    """One event on its way out: its bytes, the wait before it, the tokens it carries."""

    data: bytes
    delay_seconds: float = 0.0
    tokens: int = 0


def _wide(value: Any) -> str:
    """JSON with blanks wherever JSON allows them: `{ "choices" :\t[ ] }`."""
    if isinstance(value, dict):
        pairs = " , ".join(f"{_wide(key)} :\t{_wide(item)}" for key, item in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[ {' , '.join(map(_wide, value))} ]"
    return json.dumps(value, ensure_ascii=False)


def dumps(value: Any, space: str = "") -> bytes:
    """JSON in the spacing a script asks for."""
    if space == "json":
        return json.dumps(value, ensure_ascii=False).encode()
    if space == "wide":
        return _wide(value).encode()
    return msgspec.json.encode(value)


class Encoder:
    """Objects to events, in the style of one script."""

    def __init__(self, script: Script) -> None:
        self._space = script.space
        self._prefix = b"data:" if script.space == "none" else b"data: "
        self._event_bytes = script.event_bytes

    def event(self, value: Any, *, name: str = "") -> bytes:
        """`event: NAME` (where there is one) and `data: JSON`."""
        head = f"event: {name}\n".encode() if name else b""
        return head + self._prefix + dumps(value, self._space) + b"\n\n"

    def sized(self, build: Callable[[str], Any], text: str, *, name: str = "") -> bytes:
        """The event of `build(text)`, its text padded until the event has `event_bytes`."""
        data = self.event(build(text), name=name)
        missing = self._event_bytes - len(data)
        return data if missing <= 0 else self.event(build(text + "x" * missing), name=name)


def framed(data: bytes, newline: str) -> bytes:
    """Line ends as a script wants them. JSON has no raw line feed, so only the framing changes."""
    return data if newline == "lf" else data.replace(b"\n", _ENDS[newline])
