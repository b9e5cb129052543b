"""What the relay is given: a set of one model, and who fetches media."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.access.admission import Admission
from proxy.relay.in_flight import InFlightRequests
from proxy.relay.upstream import Upstream


@dataclass
class OneModel:
    admission: Admission
    in_flight: InFlightRequests
    upstream: Upstream
    name: str = ""

    @property
    def only(self) -> OneModel:
        return self

    def find(self, name: str | None, key: str | None) -> OneModel:
        return self

    async def find_stored(self, path: str, key: str | None) -> OneModel:
        return self

    def listing(self, key: str | None) -> bytes:
        return b""


class FakeMedia:
    """Puts `pieces` in the place of every body; None: it fetches nothing."""

    def __init__(self, pieces: Sequence[bytes] | None = (b"{}",)) -> None:
        self._pieces = pieces
        self.given_back = 0

    def is_needed(self, route: str, body: bytes | bytearray) -> bool:
        return True

    async def resolve(self, *_: Any) -> tuple[Sequence[bytes], Callable[[], None]] | None:
        return None if self._pieces is None else (self._pieces, self._give_back)

    def _give_back(self) -> None:
        self.given_back += 1
