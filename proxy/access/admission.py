"""May a request be sent to the engine now? And are there any left that were?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

from proxy.access.waiting_room import WaitingRoom, Watch
from proxy.errors import EngineFailed, EngineUnavailable, RequestFailure, draining

# None where the engine takes work; else why not, and when to ask again.
Refusal = Callable[[], EngineUnavailable | None]
# Returns when the engine takes work, or never will.
WaitUntilSettled = Callable[[], Awaitable[None]]

# The death of an engine is noticed within this time.
_NOTICE_SECONDS, _NOTICE_LOOKS = 3.0, 100


async def _never() -> None:
    """Where no engine is waited for."""


class Admission:
    """Counts the requests that are inside, and keeps others out where they cannot be served."""

    def __init__(
        self,
        refusal: Refusal = lambda: None,
        wait_until_settled: WaitUntilSettled = _never,
        hold_seconds: float = 0,
        room: WaitingRoom | None = None,
        max_held: int | None = None,
        on_hold: Callable[[str | None], None] = lambda key: None,
        on_wait: Callable[[], None] = lambda: None,
        on_empty: Callable[[], None] = lambda: None,
    ) -> None:
        """At most `max_held` requests wait for the engine; None is no limit. `on_hold` is called
        with the key of a request before it waits, or would wait if `hold_seconds` were not 0; it
        may refuse it. `on_wait` is called when one begins or ends to wait for it, `on_empty` when
        none is inside any more."""
        self._max_held = max_held
        self._on_hold = on_hold
        self._on_wait = on_wait
        self._on_empty = on_empty
        self._refusal = refusal
        self._wait_until_settled = wait_until_settled
        self.hold_seconds = hold_seconds
        self._room = room or WaitingRoom()
        self._closed = self._waits_no_more = False
        self._farewell: Callable[[], RequestFailure] = draining
        self._holds: dict[asyncio.Timeout, float] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.in_flight = 0
        self.last_request = monotonic()
        """When the last one began or ended that was let in (monotonic seconds)."""
        self._left = 0
        self._cut = 0

    async def enter(self, key: str | None = None, watch: Watch | None = None) -> float:
        """Let a request in; returns the seconds it had to wait. `watch` tells of its client.

        Raises:
            Draining: the sidecar is about to stop; or what `close` was given.
            EngineUnavailable: the engine is not ready, also not after `HOLD_SECONDS`.
            Overloaded, RateLimited: there is no place for it, see `WaitingRoom`; or `on_hold`.
            ClientClosed: the client has left before its turn.
        """
        waited = 0.0
        if self._refusal() is not None or self._closed or not self._room.admit(key):
            began = monotonic()
            await self._until_ready(key, watch, began)
            if not self._room.admit(key):
                await self._room.wait(key, watch)
                try:  # it may have died meanwhile
                    await self._until_ready(key, watch, began)
                except BaseException:
                    self._room.leave(key)
                    raise
            waited = monotonic() - began
        self.in_flight += 1
        self.last_request = monotonic()
        self._empty.clear()
        return waited

    async def _until_ready(self, key: str | None, watch: Watch | None, began: float) -> None:
        """`began`: when the request came here."""
        if (refusal := self._refusal()) is not None and not self._waits_no_more:
            await self._hold(refusal, key, watch, began)
        if self._closed or (self._waits_no_more and self._refusal() is not None):
            raise self._farewell()

    async def engine_ready(self, key: str | None, watch: Watch | None) -> None:
        """Wait for the engine alone, as far as `enter` would.

        Raises:
            RequestFailure: as `enter`.
        """
        await self._until_ready(key, watch, monotonic())

    @property
    def places_waiting(self) -> int:
        """Requests that wait for a place at the engine."""
        return self._room.waiting

    @property
    def waiting(self) -> int:
        """Requests that wait for the engine, or for a place at it."""
        return len(self._holds) + self._room.waiting

    @property
    def oldest_wait(self) -> float | None:
        """When the oldest of them came that wait for the engine (monotonic seconds)."""
        return min(self._holds.values(), default=None)

    @property
    def holds(self) -> bool:
        """Requests wait for an engine that is not ready."""
        return bool(self.hold_seconds)

    async def hold_again(self, key: str | None = None, watch: Watch | None = None) -> float:
        """A request that is inside has found no engine to connect to: wait for the next one.

        Returns the seconds it had to wait. The death of the engine may be noticed a moment later.

        Raises:
            RequestFailure: as `enter`.
        """
        began = monotonic()
        for _ in range(_NOTICE_LOOKS):
            if self._refusal() is not None or self._closed:
                break
            await asyncio.sleep(_NOTICE_SECONDS / _NOTICE_LOOKS)
        await self._until_ready(key, watch, began)
        return monotonic() - began

    def leave(self, key: str | None = None) -> None:
        self._room.leave(key)
        self.in_flight -= 1
        self.last_request = monotonic()
        self._left += 1
        if self.in_flight == 0:
            self._empty.set()
            self._on_empty()

    def idle_since(self) -> float | None:
        """When the last request ended that was let in (monotonic seconds); None while there is one,
        or one that waits."""
        return None if self.in_flight or self._holds or self._room.waiting else self.last_request

    def close(self, farewell: Callable[[], RequestFailure] = draining) -> None:
        """Admit no more requests, nor those that are held: `farewell` makes what they get."""
        self._closed, self._farewell = True, farewell
        self.end_waiting()

    def end_waiting(self) -> None:
        """Send those away who wait. Who comes in now is let in where there is no need to wait."""
        self._waits_no_more = True
        self.end_holds()
        self._room.close(self._farewell())

    def end_holds(self) -> None:
        """Those who wait for the engine are let in or refused as of now."""
        for hold in self._holds:
            _end(hold)

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until every request that was let in is over; False where some are to be cut.

        They are after so many seconds, or after `cut_now`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        self._cut = self.in_flight
        return not self.in_flight

    def cut_now(self) -> None:
        """End the wait of `wait_idle`: what still runs is cut."""
        self._empty.set()

    def reset_drain_counters(self) -> None:
        """Let `drained` count from now on."""
        self._left = 0

    @property
    def drained(self) -> tuple[int, int]:
        """How many requests have finished, and how many were cut."""
        return max(0, self._left - self._cut), self._cut

    async def _hold(
        self, refusal: EngineUnavailable, key: str | None, watch: Watch | None, began: float
    ) -> None:
        is_full = self._max_held is not None and len(self._holds) >= self._max_held
        if is_full or isinstance(refusal, EngineFailed):
            raise refusal
        self._on_hold(key)
        if not self.hold_seconds:
            raise refusal
        hold = asyncio.timeout(self.hold_seconds)
        left: list[RequestFailure] = []

        def leave(failure: RequestFailure) -> None:
            left.append(failure)
            _end(hold)

        try:
            async with hold:
                self._holds[hold] = began
                self._on_wait()
                if watch is not None:
                    watch(leave)
                await self._wait_until_settled()
        except TimeoutError:
            if not left and not self._waits_no_more and (still := self._refusal()) is not None:
                raise still from None
        finally:
            self._holds.pop(hold, None)
            self._on_wait()
            if watch is not None:
                watch(None)
        if left:
            raise left[0]
        if isinstance(failed := self._refusal(), EngineFailed):
            raise failed


def _end(hold: asyncio.Timeout) -> None:
    if not hold.expired():
        hold.reschedule(asyncio.get_running_loop().time())
