"""May a request be sent to the engine now? And are there any left that were?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.errors import Draining, EngineGivenUp, EngineUnavailable

# None where the engine takes work; else why not, and when to ask again.
Refusal = Callable[[], EngineUnavailable | None]
WaitUntilReady = Callable[[], Awaitable[None]]


class Admission:
    """Counts the requests that are inside, and keeps others out where they cannot be served."""

    def __init__(
        self, refusal: Refusal, wait_until_ready: WaitUntilReady, hold_seconds: float = 0
    ) -> None:
        self._refusal = refusal
        self._wait_until_ready = wait_until_ready
        self._hold_seconds = hold_seconds
        self._draining = False
        self._holds: set[asyncio.Timeout] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.in_flight = 0

    async def enter(self) -> None:
        """Let a request in.

        Raises:
            Draining: the sidecar is about to stop.
            EngineUnavailable: the engine is not ready, also not after `HOLD_SECONDS`.
        """
        if (refusal := self._refusal()) is not None and not self._draining:
            await self._hold(refusal)
        if self._draining:
            raise Draining(
                "This server is shutting down. Send the request again.", retry_after_seconds=1
            )
        self.in_flight += 1
        self._empty.clear()

    def leave(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self._empty.set()

    def close(self) -> None:
        """Let nobody in from now on, also none of those that are held."""
        self._draining = True
        now = asyncio.get_running_loop().time() if self._holds else 0
        for hold in self._holds:
            if not hold.expired():
                hold.reschedule(now)

    async def emptied(self) -> None:
        """Wait until every request that was let in is over."""
        await self._empty.wait()

    @property
    def draining(self) -> bool:
        return self._draining

    async def _hold(self, refusal: EngineUnavailable) -> None:
        if not self._hold_seconds or isinstance(refusal, EngineGivenUp):
            raise refusal
        hold = asyncio.timeout(self._hold_seconds)
        try:
            async with hold:
                self._holds.add(hold)
                await self._wait_until_ready()
        except TimeoutError:
            if not self._draining and (still := self._refusal()) is not None:
                raise still from None
        finally:
            self._holds.discard(hold)
