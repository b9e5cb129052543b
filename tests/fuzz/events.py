"""The event stream, fed with any bytes in any pieces, against a reference of its own.

The reference reads the whole stream at once, line by line as the standard has it, and
judges payloads with `json`. What comes out must be what went in without the usage events;
nothing but an unfinished event may be held, and little of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

from proxy.access.routes import Route
from proxy.relay import stream
from proxy.relay.event import EVENT_READERS
from proxy.relay.stream import EventStream
from proxy.telemetry.record import Record
from tests.fuzz.seeds import TOKENS
from tests.fuzz.source import Source, cut

# The second is small, so that small inputs are long events.
HELD_BYTES = (stream.MAX_HELD_BYTES, 48)
_ERROR_EVENT = b'data: {"error": {}}\n\n'
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_COUNTS = (
    *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
    *("cached_tokens", "reasoning_tokens", "cache_read_input_tokens"),
)
_DETAILS = (
    *("prompt_tokens_details", "completion_tokens_details"),
    *("input_tokens_details", "output_tokens_details"),
)


class Verdict(Enum):
    """What becomes of a part of the stream."""

    PASSED = "passed"
    WITHHELD = "withheld"
    EITHER = "either"
    """Nobody can mind: blank lines beside a withheld event, a payload that is not JSON to all
    readers, line ends of two kinds in one event, an event too long to be read."""


class Part(NamedTuple):
    """An event with its blank line, or a blank line alone."""

    data: bytes
    verdict: Verdict


def run(data: bytes) -> None:
    """The target: choices first, then the stream."""
    source = Source(data)
    held_bytes, withhold_usage = source.one_of(HELD_BYTES), source.number(8) > 0
    places = source.cuts()
    check(
        cut(source.rest(TOKENS["events"]), places),
        withhold_usage=withhold_usage,
        held_bytes=held_bytes,
    )


def check(
    pieces: Sequence[bytes], *, withhold_usage: bool = True, held_bytes: int = HELD_BYTES[0]
) -> bytes:
    """Everything that holds for any bytes; returns what came out."""
    whole = b"".join(pieces)
    parts = list(parts_of(whole, held_bytes)) if withhold_usage else [Part(whole, Verdict.PASSED)]
    with _held_at_most(held_bytes):
        out = b"".join(_fed(pieces, parts, held_bytes, withhold_usage=withhold_usage))
        _check_end_of_broken(pieces, withhold_usage=withhold_usage)
    assert len(out) in ends(out, parts)
    return out


def _fed(
    pieces: Sequence[bytes], parts: Sequence[Part], held_bytes: int, *, withhold_usage: bool
) -> Iterator[bytes]:
    """What comes out, piece by piece; what is held meanwhile is bounded."""
    events = _new_stream(withhold_usage=withhold_usage)
    withheld = sum(len(part.data) for part in parts if part.verdict is not Verdict.PASSED)
    fed = passed = 0
    for piece in pieces:
        out = events.feed(piece, 0.0)
        fed, passed = fed + len(piece), passed + len(out)
        assert fed - passed <= held_bytes + withheld
        yield out
    yield events.close()


def _check_end_of_broken(pieces: Sequence[bytes], *, withhold_usage: bool) -> None:
    """Where a stream breaks off, the error that follows is an event of its own."""
    events = _new_stream(withhold_usage=withhold_usage)
    out = b"".join(events.feed(piece, 0.0) for piece in pieces)
    seen = list(events_of(out + events.cut_off() + _ERROR_EVENT))
    assert seen[-1] == [_ERROR_EVENT.strip()]


def _new_stream(*, withhold_usage: bool) -> EventStream:
    record = Record("POST", "/", Route.CHAT)
    return EventStream(EVENT_READERS[Route.CHAT], record, withhold_usage=withhold_usage)


@contextmanager
def _held_at_most(held_bytes: int) -> Iterator[None]:
    before, stream.MAX_HELD_BYTES = stream.MAX_HELD_BYTES, held_bytes
    try:
        yield
    finally:
        stream.MAX_HELD_BYTES = before


def ends(out: bytes, parts: Sequence[Part]) -> set[int]:
    """Where in `out` the stream may end, if every part is treated as it must be."""
    places = {0}
    for data, verdict in parts:
        after = {place + len(data) for place in places if out.startswith(data, place)}
        match verdict:
            case Verdict.PASSED:
                places = after
            case Verdict.EITHER:
                places |= after
    return places


# The reference ---------------------------------------------------------------------------------


def parts_of(data: bytes, held_bytes: int) -> Iterator[Part]:
    parts = [Part(part, _verdict(lines, part, held_bytes)) for lines, part in _split(data)]
    parts = list(_with_usage_of_the_engines(parts))
    beside = [False] * len(parts)
    for order in (range(len(parts)), reversed(range(len(parts)))):
        near = False
        for at in order:
            is_blank = not parts[at].data.strip(b"\r\n")
            near = (near and is_blank) or parts[at].verdict is not Verdict.PASSED
            beside[at] |= near and is_blank
    for part, free in zip(parts, beside, strict=True):
        yield Part(part.data, Verdict.EITHER) if free else part


def _with_usage_of_the_engines(parts: Sequence[Part]) -> Iterator[Part]:
    """Where usage stands in an event before, the engine may give it to everybody."""
    doubtful = False
    for part in parts:
        withheld = part.verdict is Verdict.WITHHELD
        yield Part(part.data, Verdict.EITHER) if doubtful and withheld else part
        doubtful |= not withheld and (b"usage" in part.data or b"\\u" in part.data)


def events_of(data: bytes) -> Iterator[list[bytes]]:
    """The lines of every event, as a client sees them."""
    return (lines for lines, _ in _split(data) if lines)


def _split(data: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """(lines, bytes with the blank line) of each event; no lines for a blank line alone."""
    lines: list[bytes] = []
    start = 0
    for found in _LINE.finditer(data):
        if found[1]:
            lines.append(found[1])
        elif found[2]:
            yield lines, data[start : found.end()]
            lines, start = [], found.end()
    if start < len(data):
        yield lines, data[start:]


def _verdict(lines: Sequence[bytes], part: bytes, held_bytes: int) -> Verdict:
    payload = [line[5:] for line in lines if line.startswith(b"data:")]
    text = b"\n".join(payload)
    kinds = {found[2] for found in _LINE.finditer(part) if found[2]}
    sure = _is_usage(text) if payload else False
    if sure is False and len(kinds) <= 1:
        return Verdict.PASSED
    if sure is None or len(kinds) > 1 or len(part) > held_bytes:
        return Verdict.EITHER
    return Verdict.WITHHELD


def _is_usage(text: bytes) -> bool | None:
    """Whether a payload is what the usage option causes; None where readers may differ."""
    said = _loaded(text)
    if not isinstance(said, dict):
        return None if said is _UNSURE else False
    if said.get("choices") != [] or not isinstance(said.get("usage"), dict):
        return None if b"\\u" in text else False
    # Keys may be doubled, or written with escapes; strings need not be text.
    doubtful = any(text.count(b'"%b"' % key) != 1 for key in (b"choices", b"usage"))
    if doubtful or b"\\u" in text or not _is_plain_usage(said["usage"]):
        return None
    return None if _is_odd(text) else True


_UNSURE = object()


def _loaded(text: bytes) -> Any:
    try:
        # Blanks to some readers; `_is_odd` keeps such a payload from being judged.
        blank = text.replace(b"\x0b", b" ").replace(b"\x0c", b" ")
        return json.loads(blank.decode(errors="replace"))
    except json.JSONDecodeError:
        return None
    except (ValueError, RecursionError):
        return _UNSURE


def _is_odd(text: bytes) -> bool:
    """NaN and Infinity are JSON to some, so is what is no text; and some blanks are blank."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return b"NaN" in text or b"Infinity" in text or b"\x0b" in text or b"\x0c" in text


def _is_plain_usage(usage: dict[str, Any]) -> bool:
    """Counts are whole numbers or absent, once each."""
    details = [usage.get(name) for name in _DETAILS]
    if not all(one is None or isinstance(one, dict) for one in details):
        return False
    holders = [usage, *(one for one in details if one)]
    counts = [holder.get(name) for holder in holders for name in _COUNTS]
    return all(one is None or type(one) is int for one in counts)
