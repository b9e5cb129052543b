"""Places at the engine, and who waits for one: fair between keys, first come first served within
a key. Where no limit is set every request has its place at once.

Invariant, kept by `leave`: while a place is free, each waiter is blocked only by the limit of its
own key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from proxy.errors import Overloaded, RateLimited, RequestFailure

# Calls back when a client leaves; None ends the watch.
Watch = Callable[[Callable[[RequestFailure], None] | None], None]
# Requests that a key may have at the engine at once; None is no limit.
LimitOf = Callable[[str | None], int | None]
_Place = asyncio.Future[None]

_MAX_RETRY_SECONDS = 30


def _no_limit(key: str | None) -> int | None:
    return None


class WaitingRoom:
    """`max_places` for all together, None for no limit; at most `max_waiting` wait for one, each
    for `max_seconds` at most."""

    def __init__(
        self,
        max_places: int | None = None,
        max_waiting: int = 0,
        limit_of: LimitOf = _no_limit,
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
        self._grant()

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
        self._grant()

    def _grant(self) -> None:
        """Give free places to who waits, in turn each key that may have more."""
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
        limit = self._limit_of(key)
        return limit is None or self._taken_by.get(key, 0) < limit

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
        if not self._may_have_more(key):
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
