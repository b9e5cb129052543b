"""Choices read off the front of some bytes, so that a fuzzer of bytes can make choices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

_MAX_CUTS = 6


class Source:
    """Reads one choice after the other; where the bytes are used up, each is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        self._at += 1
        return self._data[self._at - 1] % below if self._at <= len(self._data) else 0

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.number(len(values))]

    def cuts(self) -> list[int]:
        """Up to six numbers below 65,536."""
        return [self.number(256) << 8 | self.number(256) for _ in range(self.number(_MAX_CUTS + 1))]

    def rest(self, words: Sequence[bytes]) -> bytes:
        """What is left: as it is, or one of `words` for every byte of it."""
        is_spelled = self.number(2)
        rest = self._data[self._at :]
        return b"".join(words[byte % len(words)] for byte in rest) if is_spelled else rest


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in pieces; a place beyond its end counts from the beginning again."""
    inside = sorted(place % len(data) for place in places) if data else []
    return [piece for piece in _pieces(data, inside) if piece]


def _pieces(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]
