"""Finds values in a JSON text of any size, without making objects of the others.

A scan is a generator: between two of its yields it does a bounded amount of work, so that an event
loop can serve others meanwhile (`in_slices`). What is not asked for is passed over by functions of
`bytes` in windows of 32 KiB; the checks there are those that the way through needs, so a text that
is no JSON may pass for some. A text that is JSON is read as Python's own `json` reads it, `NaN`,
half a surrogate pair and doubled keys (the last one counts) included.
"""

from __future__ import annotations

import asyncio
import json
import re
from array import array
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import NamedTuple, TypeVar

# Work is counted in bytes that are looked at one by one, which take up to 40 ns each.
SLICE_WORK = 64 * 1024
WINDOW_BYTES = 32 * 1024
_STEP_WORK = 128
# A search for one byte is that many times faster.
_SEARCH_BYTES, _SEARCH_SPEED = 1024 * 1024, 16
_FIRST_WINDOW_BYTES, _SPACE_BYTE = 256, 32
MAX_VALUES = 20_000
MAX_DEPTH = 200

_QUOTE, _BACKSLASH, _COMMA, _COLON, _BRACKET, _OPENING_BRACE, _CLOSING_BRACE = b'"\\,:[{}'
_CLOSING = {_BRACKET: ord("]"), _OPENING_BRACE: _CLOSING_BRACE}
# No key that is asked for is longer, each of its characters an escape.
_MAX_KEY_BYTES = 200
_KEY = re.compile(rb'"([^"\\]{0,64}+)"[ \t\n\r]{0,64}+:')
_SPACE = re.compile(rb"[ \t\n\r]*+")
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_LITERAL = rb"true|false|null|NaN|-?Infinity|" + _NUMBER
_SCALAR = re.compile(_LITERAL)
_MORE_OF_A_NUMBER = re.compile(rb"[-+.0-9eE]*+")
_STRING = rb'"[^"\\]*+"'
_CONTAINER = rb'[\[{][^"\[\]{}]*+(?:(?:%b)[^"\[\]{}]*+)*+[\]}]'
_FLAT = _CONTAINER % _STRING
_NESTED = _CONTAINER % (_STRING + b"|" + _CONTAINER % (_STRING + b"|" + _FLAT))
# A value without escapes, nested not deeply, that ends soon; most values are like this.
_PLAIN_VALUE = re.compile(rb"(?>%b|%b|%b)(?=[ \t\n\r]{0,64}+[,\]}])" % (_STRING, _NESTED, _LITERAL))
_PLAIN_BYTES = 1024
_TOKEN = re.compile(rb'"[^"]*+"?|([\[{])|([\]}])')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTHS = bytes(255 if byte in b"]}" else 1 for byte in range(256))

Result = TypeVar("Result")
Scan = Generator[int, None, Result]
"""Yields how much work it has done since the last time."""
Text = bytes | bytearray
Path = tuple[str | int, ...]


class Malformed(ValueError):
    """This is no JSON."""


class TooManyValues(ValueError):
    """There are more values than are looked at, or they are nested too deeply."""


@dataclass(eq=False, slots=True)
class Shape:
    """What is looked for in a value: in the members of an object, in the elements of an array.
    `takes` holds the first characters of the values that are taken themselves."""

    members: Mapping[bytes, Shape] = field(default_factory=dict)
    elements: Shape | None = None
    takes: bytes = b""


class Leaf(NamedTuple):
    """A value that was looked for, from its first byte to behind its last one."""

    path: Path
    start: int
    end: int


class Leaves(NamedTuple):
    """The values in their order, and where the object ends that is the whole text."""

    leaves: list[Leaf]
    end: int


def find(text: Text, shape: Shape, start: int = 0, max_values: int = MAX_VALUES) -> Scan[Leaves]:
    """The values that `shape` names in the object that is the whole text from `start` on.

    Raises:
        Malformed: it is no JSON object.
        TooManyValues: more than `max_values` members and elements had to be looked at.
    """
    try:
        return (yield from _Scanner(text).find(shape, start, max_values))
    except IndexError:
        raise Malformed("it ends too early") from None


def exceeds(text: Text, max_values: int, max_containers: int, max_escapes: int) -> Scan[bool]:
    """Whether a JSON text has more values, more arrays and objects, or more backslashes."""
    return _Scanner(text).exceeds(max_values, max_containers, max_escapes)


def contains(text: Text, pattern: re.Pattern[bytes], longest: int) -> Scan[bool]:
    """Whether a match of at most `longest` bytes is anywhere in the text."""
    for at in range(0, len(text), WINDOW_BYTES):
        if pattern.search(text, at, at + WINDOW_BYTES + longest):
            return True
        yield WINDOW_BYTES
    return False


async def in_slices(scan: Scan[Result]) -> Result:
    """The result of a scan; the event loop gets a turn between any two slices of it."""
    while True:
        try:
            next(scan)
        except StopIteration as end:
            result: Result = end.value
            return result
        await asyncio.sleep(0)


class _Frame:
    """An array or object that the scan is in."""

    __slots__ = ("by_key", "closing", "in_order", "key", "shape")

    def __init__(self, shape: Shape, closing: int) -> None:
        self.shape = shape
        self.closing = closing
        self.key: str | int = -1
        # Of two equal keys the last one counts.
        self.by_key: dict[str | int, list[Leaf]] = {}
        self.in_order: list[Leaf] = []

    def add(self, leaves: list[Leaf]) -> None:
        if self.closing == _CLOSING_BRACE:
            self.by_key[self.key] = leaves
        else:
            self.in_order += leaves

    def leaves(self) -> list[Leaf]:
        return self.in_order or list(chain.from_iterable(self.by_key.values()))


class _Scanner:
    def __init__(self, text: Text) -> None:
        self._text = text
        self._work = 0  # since the last yield

    def find(self, wanted: Shape | None, at: int, max_values: int) -> Scan[Leaves]:
        """`wanted` is what is looked for in the value that begins at `at`; None: nothing."""
        text, frames = self._text, list[_Frame]()
        at = yield from self._after_spaces(at)
        if text[at] != _OPENING_BRACE:
            raise Malformed("no object")
        for _ in range(max_values):
            # A value begins here.
            first = text[at]
            is_inside = wanted is not None and (
                (first == _OPENING_BRACE and bool(wanted.members))
                or (first == _BRACKET and wanted.elements is not None)
            )
            if is_inside:
                assert wanted is not None
                if len(frames) == MAX_DEPTH:
                    raise TooManyValues("nested too deeply")
                frames.append(_Frame(wanted, _CLOSING[first]))
                end = at + 1
            else:
                if match := _PLAIN_VALUE.match(text, at, at + _PLAIN_BYTES):
                    end = match.end()
                else:
                    end = yield from self._value_end(at)
                if wanted is not None:
                    takes = first in wanted.takes
                    path = tuple(frame.key for frame in frames) if takes else ()
                    frames[-1].add([Leaf(path, at, end)] if takes else [])
            at = end
            while True:
                if at < len(text) and text[at] <= _SPACE_BYTE:
                    at = yield from self._after_spaces(at)
                if text[at] != frames[-1].closing:
                    break
                frame = frames.pop()
                at += 1
                if not frames:
                    end = yield from self._after_spaces(at)
                    if end != len(text):
                        raise Malformed("more than one value")
                    return Leaves(sorted(frame.leaves(), key=lambda leaf: leaf.start), at)
                frames[-1].add(frame.leaves())
                is_inside = False
            # Another member or element begins here.
            frame = frames[-1]
            if not is_inside:
                if text[at] != _COMMA:
                    raise Malformed("no comma")
                at += 1
                if text[at] <= _SPACE_BYTE:
                    at = yield from self._after_spaces(at)
            if frame.closing == _CLOSING_BRACE:
                if match := _KEY.match(text, at):
                    key, at = match[1], match.end()
                else:
                    key, at = yield from self._key(at)
                if text[at] <= _SPACE_BYTE:
                    at = yield from self._after_spaces(at)
                wanted = frame.shape.members.get(key)
                if wanted is not None:
                    frame.key = key.decode()
            else:
                frame.key = int(frame.key) + 1
                wanted = frame.shape.elements
            self._work += _STEP_WORK
            if self._work >= SLICE_WORK:
                yield from self._worked(0)
        raise TooManyValues("too many values")

    def exceeds(self, max_values: int, max_containers: int, max_escapes: int) -> Scan[bool]:
        escapes = 0
        for at in range(0, len(self._text), WINDOW_BYTES):
            escapes += self._text.count(b"\\", at, at + WINDOW_BYTES)
            if escapes > max_escapes:
                return True
            yield from self._worked(WINDOW_BYTES // 2)
        at = values = containers = 0
        while at < len(self._text):
            window = self._window(at, WINDOW_BYTES)
            parts = window.split(b'"')
            outside = b"".join(parts[::2])
            opened = outside.count(b"[") + outside.count(b"{")
            containers += opened
            values += opened + outside.count(b",")
            if values > max_values or containers > max_containers:
                return True
            at += len(window)
            yield from self._worked(len(window))
            if len(parts) % 2 == 0:
                try:
                    at = yield from self._string_end(at)
                except Malformed:
                    break
        return False

    def _worked(self, work: int) -> Scan[None]:
        self._work += work
        if self._work >= SLICE_WORK:
            work, self._work = self._work, 0
            yield work

    def _after_spaces(self, at: int) -> Scan[int]:
        while True:
            end = _match_spaces(self._text, at, at + WINDOW_BYTES).end()
            if end < at + WINDOW_BYTES:
                return end
            yield from self._worked(WINDOW_BYTES)
            at = end

    def _key(self, at: int) -> Scan[tuple[bytes, int]]:
        """A key that is long or has escapes, and what is behind its colon."""
        text = self._text
        if text[at] != _QUOTE:
            raise Malformed("no key")
        end = yield from self._string_end(at + 1)
        key = bytes(text[at:end]) if end - at <= _MAX_KEY_BYTES else b'""'
        if b"\\" in key:
            try:
                plain: str = json.loads(key.decode(errors="replace"))
            except ValueError:
                raise Malformed("no escape") from None
            key = b'"%b"' % plain.encode(errors="replace")
        at = yield from self._after_spaces(end)
        if text[at] != _COLON:
            raise Malformed("no colon")
        return key[1:-1], at + 1

    def _value_end(self, at: int) -> Scan[int]:
        """Where a value ends that is not looked into."""
        first = self._text[at]
        if first == _QUOTE:
            return (yield from self._string_end(at + 1))
        if first in _CLOSING:
            return (yield from self._container_end(at + 1))
        match = _SCALAR.match(self._text, at, at + WINDOW_BYTES)
        if match is None:
            raise Malformed("no value")
        end = match.end()
        while end > at + WINDOW_BYTES // 2:  # a long number: where the window cut it is not known
            yield from self._worked(WINDOW_BYTES)
            at, end = end, _match_digits(self._text, end, end + WINDOW_BYTES).end()
        return end

    def _string_end(self, at: int) -> Scan[int]:
        """Behind a string's closing quote; `at` is in the string, and not behind a backslash that
        escapes what is there."""
        text, start = self._text, at
        while (quote := text.find(b'"', at, at + _SEARCH_BYTES)) < 0:
            at += _SEARCH_BYTES
            if at >= len(text):
                raise Malformed("a string does not end")
            yield from self._worked(_SEARCH_BYTES // _SEARCH_SPEED)
        if text[quote - 1] != _BACKSLASH or quote == start:
            return quote + 1
        # A quote behind an odd number of backslashes is escaped.
        unescaped = quote
        while unescaped > start:
            begin = max(start, unescaped - WINDOW_BYTES)
            kept = len(text[begin:unescaped].rstrip(b"\\"))
            unescaped = begin + kept
            if kept:
                break
            yield from self._worked(WINDOW_BYTES)
        if (quote - unescaped) % 2 == 0:
            return quote + 1
        at, size = quote + 1, _FIRST_WINDOW_BYTES
        while True:
            window = self._window(at, size)
            if (quote := window.find(b'"')) >= 0:
                return at + quote + 1
            yield from self._worked(len(window))
            at, size = at + len(window), min(size * 2, WINDOW_BYTES)

    def _container_end(self, at: int) -> Scan[int]:
        """Behind the bracket that closes what was opened before `at`."""
        depth, size, is_near = 1, _FIRST_WINDOW_BYTES, False
        while True:
            window = self._window(at, size)
            parts = window.split(b'"')
            brackets = b"".join(parts[::2]).translate(None, _NO_BRACKETS)
            brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
            closing = brackets.count(b"}") + brackets.count(b"]")
            yield from self._worked(_STEP_WORK + len(window))
            if (
                closing >= depth
                and depth + min(accumulate(array("b", brackets.translate(_DEPTHS)))) <= 0
            ):
                if size <= _FIRST_WINDOW_BYTES:
                    for match in _TOKEN.finditer(window):
                        if match[1]:
                            depth += 1
                        elif match[2]:
                            depth -= 1
                            if depth == 0:
                                return at + match.end()
                    raise AssertionError("no bracket closes it")
                size, is_near = size // 2, True
                continue
            depth += len(brackets) - 2 * closing
            at += len(window)
            if len(parts) % 2 == 0:
                at = yield from self._string_end(at)
            if not is_near:
                size = min(size * 2, WINDOW_BYTES)

    def _window(self, at: int, size: int) -> bytes:
        """The next bytes, in which no backslash escapes what is behind them; escapes of quotes and
        of backslashes are blanks."""
        window = bytes(self._text[at : at + size])
        if b"\\" in window:
            if (len(window) - len(window.rstrip(b"\\"))) % 2:
                window = window[:-1]
            window = window.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        if not window:
            raise Malformed("it ends too early")
        return window


_match_spaces: Callable[[Text, int, int], re.Match[bytes]] = _SPACE.match  # type: ignore[assignment]
_match_digits: Callable[[Text, int, int], re.Match[bytes]] = _MORE_OF_A_NUMBER.match  # type: ignore[assignment]
