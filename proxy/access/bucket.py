"""A token bucket: what may be used fills up at a steady rate, up to a period's worth.

All it keeps is when it will be full again; how much is in it follows from that (the generic cell
rate algorithm). Times are seconds of the monotonic clock, given by who asks.
"""

from __future__ import annotations

PERIOD_SECONDS = 60.0
"""Unless another is said."""
# More than the clock's own error: a client that waits as long as `Retry-After` says must not come
# too early.
PRECISION_SECONDS = 1e-6


class Bucket:
    """Begins full. It may be overdrawn: what something costs is often known only afterwards."""

    __slots__ = ("capacity", "full_at", "period", "rate", "room")

    def __init__(self, capacity: float, now: float, period: float = PERIOD_SECONDS) -> None:
        """`period`: seconds in which an empty one is filled."""
        self.full_at, self.period = now, period
        self._size(capacity)

    def level(self, now: float) -> float:
        """What may be used now; less than 0 where it is overdrawn."""
        missing = self.full_at - now
        return self.capacity - missing * self.rate if missing > 0 else self.capacity

    def take(self, amount: float, now: float) -> None:
        self.full_at = (self.full_at if self.full_at > now else now) + amount / self.rate

    def seconds_until(self, level: float, now: float) -> float:
        """How long until it is filled up to `level`; 0 where it is."""
        return max(0.0, (min(level, self.capacity) - self.level(now)) / self.rate)

    def resize(self, capacity: float, now: float) -> None:
        """Another limit holds from now on; what has been used stays used."""
        used = self.capacity - self.level(now)
        self._size(capacity)
        self.full_at = now + used / self.rate

    def _size(self, capacity: float) -> None:
        self.capacity, self.rate = capacity, capacity / self.period
        # One more may be taken as long as it takes no longer than this to be full.
        self.room = (capacity - 1) / self.rate + PRECISION_SECONDS
