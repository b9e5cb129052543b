"""A set of one model, as the relay sees it."""

from __future__ import annotations

from dataclasses import dataclass

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
