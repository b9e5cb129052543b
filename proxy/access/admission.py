"""May a request be sent to the engine now? And are there any left that were?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from proxy.errors import (
    EngineFailed,
    EngineUnavailable,
    Overloaded,
    RateLimited,
    RequestFailure,
    draining,
)

# None where the engine takes work; else why not, and when to ask again.
Refusal = Callable[[], EngineUnavailable | None]
# Returns when the engine takes work, or never will.
WaitUntilSettled = Callable[[], Awaitable[None]]

# The death of an engine is noticed within this time.
_NOTICE_SECONDS, _NOTICE_LOOKS = 3.0, 100
# Calls back when a client leaves; None ends the watch.
Watch = Callable[[Callable[[RequestFailure], None] | None], None]
# Requests that a key may have at the engine at once; None is no limit.
LimitOf = Callable[[str | None], int | None]
_Place = asyncio.Future[None]

_MAX_RETRY_SECONDS = 30


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
    ) -> None:
        """At most `max_held` requests wait for the engine; None is no limit. `on_hold` is called
        with the key of a request before it waits, or would wait if `hold_seconds` were not 0; it
        may refuse it. `on_wait` is called when one begins or ends to wait for it."""
        self._max_held = max_held
        self.is_open = False
        """The engine takes work: `refusal` need not be asked."""
        self._on_hold = on_hold
        self._on_wait = on_wait
        self.on_empty: Callable[[], None] | None = None
        """Called when none is inside any more."""
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
        self._holds_inside = 0
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
        is_open = (self.is_open or self._refusal() is None) and not self._closed
        if not is_open or not self._room.admit(key):
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

    async def wait_for_engine(self, key: str | None, watch: Watch | None) -> None:
        """Wait for the engine alone, as far as `enter` would.

        Raises:
            RequestFailure: as `enter`.
        """
        await self._until_ready(key, watch, monotonic())

    @property
    def at_engine(self) -> int:
        """Requests inside, but for those that wait for the engine again."""
        return self.in_flight - self._holds_inside

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
        self._holds_inside += 1
        try:
            await self._until_ready(key, watch, began)
        finally:
            self._holds_inside -= 1
        return monotonic() - began

    def leave(self, key: str | None = None) -> None:
        self._room.leave(key)
        self.in_flight -= 1
        self.last_request = monotonic()
        self._left += 1
        if self.in_flight == 0:
            self._empty.set()
            if self.on_empty is not None:
                self.on_empty()

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
        self._left = self._cut = 0

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


class WaitingRoom:
    """Places at the engine, and who waits for one: fair between keys, first come first served
    within a key. Where no limit is set every request has its place at once.

    Invariant, kept by `grant`: while a place is free, each waiter is blocked only by the limit of
    its own key.

    `max_places` for all together, None for no limit; at most `max_waiting` wait for one, each
    for `max_seconds` at most."""

    def __init__(
        self,
        max_places: int | None = None,
        max_waiting: int = 0,
        limit_of: LimitOf | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self._max_places = max_places
        self._max_waiting = max_waiting
        self._limit_of = limit_of
        self.max_seconds = max_seconds
        self._taken = 0
        self._taken_by: dict[str | None, int] = {}
        # By key, the one that is served next first.
        self._queues: dict[str | None, deque[_Place]] = {}
        self.waiting = 0

    def admit(self, key: str | None) -> bool:
        """Take a place, if there is one now."""
        if self._is_full() or not self._may_have_more(key):
            return False
        self._take(key)
        return True

    def resize(self, max_places: int | None) -> None:
        """So many places from now on. Who is inside stays, and waiters get what is new."""
        self._max_places = max_places
        self.grant()

    async def wait(self, key: str | None, watch: Watch | None = None) -> None:
        """Wait until a place is given.

        Raises:
            Overloaded: too many wait already, or there was no place in all the time that one may
                wait.
            RateLimited: the same where the key has all the places it may have.
            RequestFailure: that of `watch`, or of `close`.
        """
        if self.waiting >= self._max_waiting:
            # Who has the most waiting gives way to others: one key cannot fill the room for all.
            longest = max(self._queues, key=lambda each: len(self._queues[each]), default=key)
            own = self._queues.get(key, ())
            if not self._max_waiting or len(self._queues[longest]) <= len(own) + 1:
                raise self._refusal(key)
            newest = self._queues[longest][-1]
            self._remove(longest, newest)
            _reject(newest, self._refusal(longest))
        place: _Place = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(place)
        self.waiting += 1
        if watch is not None:
            watch(partial(_reject, place))
        try:
            async with asyncio.timeout(self.max_seconds):
                await place
        except BaseException as error:
            if place.cancelled() or place.exception() is not None:
                self._remove(key, place)
            else:  # it was given in the very moment in which nobody wanted it any more
                self.leave(key)
            if isinstance(error, TimeoutError):
                raise self._refusal(key) from None
            raise
        finally:
            if watch is not None:
                watch(None)

    def leave(self, key: str | None) -> None:
        """Give a place back; who waits gets it."""
        self._taken -= 1
        self._taken_by[key] -= 1
        if not self._taken_by[key]:
            del self._taken_by[key]
        self.grant()

    def grant(self) -> None:
        """Give free places to who waits, in turn each key that may have more. To be called when
        the limit of a key has changed."""
        while self._queues and not self._is_full():
            keys = [each for each in self._queues if self._may_have_more(each)]
            if not keys:
                return
            queue = self._queues[keys[0]]
            place = queue[0]
            self._remove(keys[0], place)
            if queue:  # its turn comes again after that of all others
                self._queues[keys[0]] = self._queues.pop(keys[0])
            if not place.done():
                self._take(keys[0])
                place.set_result(None)

    def close(self, failure: RequestFailure) -> None:
        """Send away all who wait."""
        for key, queue in list(self._queues.items()):
            for place in list(queue):
                self._remove(key, place)
                _reject(place, failure)

    def _is_full(self) -> bool:
        return self._max_places is not None and self._taken >= self._max_places

    def _may_have_more(self, key: str | None) -> bool:
        if self._limit_of is None or (limit := self._limit_of(key)) is None:
            return True
        return self._taken_by.get(key, 0) < limit

    def _take(self, key: str | None) -> None:
        self._taken += 1
        self._taken_by[key] = self._taken_by.get(key, 0) + 1

    def _remove(self, key: str | None, place: _Place) -> None:
        queue = self._queues.get(key)
        if queue is not None and place in queue:
            queue.remove(place)
            self.waiting -= 1
            if not queue:
                del self._queues[key]

    def _refusal(self, key: str | None) -> RequestFailure:
        if self._limit_of is not None and not self._may_have_more(key):
            text = f"{key} has {self._limit_of(key)} requests running, all it may have at once"
            return RateLimited(f"{text} (in_flight). Try again.", retry_after_seconds=1)
        # About one more round of those who are inside for each round that waits.
        rounds = 1 + self.waiting // (self._max_places or 1)
        text = "This server has as much work as it may take (MAX_IN_FLIGHT, MAX_WAITING, "
        text += "WAITING_TIMEOUT)."
        return Overloaded(f"{text} Try again.", retry_after_seconds=min(rounds, _MAX_RETRY_SECONDS))


def _reject(place: _Place, failure: RequestFailure) -> None:
    if not place.done():
        place.set_exception(failure)
