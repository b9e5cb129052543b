"""What one key, or all together, may use and have used."""

from __future__ import annotations

import math
from typing import NamedTuple

from proxy.access.bucket import PERIOD_SECONDS, PRECISION_SECONDS, Bucket
from proxy.errors import QuotaExceeded, RateLimited
from proxy.settings.allowance import Allowance

_DAY_SECONDS = 86_400
_HOUR_SECONDS = 3_600.0
_CLOCK_SECONDS = 0.001
_TOMORROW = ((b"x-should-retry", b"false"),)
# As OpenAI has them. Six headers cost twice as much as their lines in one piece.
_LINES = (
    b"x-ratelimit-limit-%(unit)b: %(limit)d\r\n"
    b"x-ratelimit-remaining-%(unit)b: %%d\r\n"
    b"x-ratelimit-reset-%(unit)b: %%b\r\n"
)


class Used(NamedTuple):
    """Usage that survives a restart. `requests` and `tokens` are what the buckets lack at `wall`,
    in seconds since 1970."""

    label: str
    requests: float
    tokens: float
    wall: float
    day_ends: int
    day_tokens: int

    def as_of(self, wall: float) -> Used:
        """The same where the clock of whoever wrote it was ahead: it was used today, and nobody
        knows how much of a minute's worth is still missing."""
        day_ends = min(self.day_ends, _end_of_day(wall))
        if self.wall > wall + PERIOD_SECONDS:
            return self._replace(wall=wall, day_ends=day_ends, requests=0.0, tokens=0.0)
        return self._replace(day_ends=day_ends)


class Charge(NamedTuple):
    """What an account has used since it was last asked (`requests`, `tokens`, `day_tokens`; the
    first of it at `since`), how it is by that, and what fills up a second (0 without a limit)."""

    used: Used
    since: float
    requests: float
    tokens: float
    day_tokens: int
    requests_rate: float
    tokens_rate: float

    def added_to(self, kept: Used | None) -> Used:
        """What is kept, which others may have written, and this on top of it."""
        used = self.used
        if kept is None:
            return used
        # Of two days the later one counts: one of them was written around midnight.
        later = max(kept, used, key=lambda each: each.day_ends)
        is_same_day = kept.day_ends == used.day_ends
        return used._replace(
            requests=max(
                self._added(kept.requests, kept.wall, self.requests, self.requests_rate),
                used.requests,
            ),
            tokens=max(
                self._added(kept.tokens, kept.wall, self.tokens, self.tokens_rate), used.tokens
            ),
            day_ends=later.day_ends,
            day_tokens=later.day_tokens + (self.day_tokens if is_same_day else 0),
        )

    def and_then(self, later: Charge) -> Charge:
        """This, which could not be written, and what came after it."""
        is_over = self.used.day_ends < later.used.day_ends
        return later._replace(
            since=self.since,
            requests=self.requests + later.requests,
            tokens=self.tokens + later.tokens,
            day_tokens=later.day_tokens + (0 if is_over else self.day_tokens),
        )

    def _added(self, missing: float, wall: float, amount: float, rate: float) -> float:
        """What is missing now, where so much was missing at `wall`."""
        added = _refilled(missing, self.since - wall, rate) + amount
        # Two clocks are never as exact as one: who writes alone must find what it wrote.
        return _refilled(added, self.used.wall - self.since + _CLOCK_SECONDS, rate)


class Account:
    """Counts against an allowance. Times are given: `now` by the monotonic clock, `wall` in
    seconds since 1970, which tells the day."""

    def __init__(
        self, label: str, whose: str, allowance: Allowance, now: float, wall: float
    ) -> None:
        self.label = label
        self._whose = whose
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._loads: Bucket | None = None
        self._day_tokens, self._day_ends = 0, _end_of_day(wall)
        # Since the last `take_charge`.
        self._new_since, self._new_requests, self._new_tokens, self._new_day_tokens = wall, 0, 0, 0
        self.allow(allowance, now)

    def allow(self, allowance: Allowance, now: float) -> None:
        """From now on so much; what has been used stays used."""
        self.allowance = allowance
        self._requests = _sized(self._requests, allowance.rpm, now)
        self._tokens = _sized(self._tokens, allowance.tpm, now)
        # None of `_buckets`: a request costs a load only where it brings one about.
        self._loads = _sized(self._loads, allowance.loads_per_hour, now, _HOUR_SECONDS)
        self._buckets = tuple(filter(None, (self._requests, self._tokens)))
        limits = ((b"requests", allowance.rpm), (b"tokens", allowance.tpm or allowance.tpd))
        self._lines = b"".join(
            _LINES % {b"unit": unit, b"limit": limit} for unit, limit in limits if limit
        )
        """With room for what is left and until when."""

    def has_room(self, now: float, wall: float) -> bool:
        """May one more request come in?"""
        if self.allowance.tpd is not None:
            if not self._day_ends - _DAY_SECONDS <= wall < self._day_ends:
                self._change_day(wall)
            if self._day_tokens >= self.allowance.tpd:
                return False
        for bucket in self._buckets:  # noqa: SIM110 - a generator would cost three times as much
            if bucket.full_at - now > bucket.room:
                return False
        return True

    def refusal(self, now: float, wall: float) -> RateLimited | QuotaExceeded:
        """Why there is no room, and for how long: of several reasons the one that lasts longest."""
        tpd = self.allowance.tpd
        if tpd is not None and self._day_tokens >= tpd:
            left = self._day_ends - wall
            text = f"{self._whose} {self._day_tokens} of {tpd} tokens a day (tpd). The day ends "
            text += f"at 00:00 UTC, in {duration(left).decode()}."
            used_up = QuotaExceeded(text, retry_after_seconds=math.ceil(left))
            used_up.headers = _TOMORROW  # hours, which no `Retry-After` that is heeded can say
            return used_up
        bucket = max(self._buckets, key=lambda each: each.seconds_until(1, now))
        wait = bucket.seconds_until(1, now)
        unit, name = ("tokens", "tpm") if bucket is self._tokens else ("requests", "rpm")
        text = f"{self._whose} all of {bucket.capacity:.0f} {unit} a minute ({name}). "
        text += f"Try again in {duration(wait).decode()}."
        limited = RateLimited(text, retry_after_seconds=math.ceil(wait - PRECISION_SECONDS))
        limited.type = unit
        return limited

    def load_refusal(self, now: float) -> RateLimited | None:
        """Why no further model may be loaded for it; None where one may."""
        bucket = self._loads
        if bucket is None or bucket.full_at - now <= bucket.room:
            return None
        wait = bucket.seconds_until(1, now)
        text = f"{self._whose} all of {bucket.capacity:.0f} loads of models an hour "
        text += "(loads_per_hour). Models that are loaded still answer; try this one again in "
        text += f"{duration(wait).decode()}."
        return RateLimited(text, retry_after_seconds=math.ceil(wait - PRECISION_SECONDS))

    def take_load(self, now: float) -> None:
        if self._loads is not None:
            self._loads.take(1, now)

    def take_request(self, now: float, wall: float) -> None:
        if self._requests is not None:
            self._requests.take(1, now)
            self._note_new(wall)
            self._new_requests += 1

    def charge(self, tokens: int, now: float, wall: float) -> None:
        """Tokens of a request that is over."""
        if not self._day_ends - _DAY_SECONDS <= wall < self._day_ends:
            self._change_day(wall)
        self._note_new(wall)
        self._day_tokens += tokens
        self._new_day_tokens += tokens
        if self._tokens is not None:
            self._tokens.take(tokens, now)
            self._new_tokens += tokens

    def lines(self, now: float, wall: float) -> bytes:
        """`x-ratelimit-*` as they stand in a head; those of tokens are the day's where only it has
        a limit, and none where there is no limit."""
        shown: list[float | bytes] = []
        for bucket in self._buckets:
            missing = bucket.full_at - now
            left = bucket.level(now) + 1e-6  # a bit of the clock's must not cost a whole one
            shown += (left if left > 0 else 0, duration(missing) if missing > 0 else b"0ms")
        if self._tokens is None and self.allowance.tpd is not None:
            left = self.allowance.tpd - self._day_tokens
            reset = self._day_ends - wall if self._day_tokens else 0.0
            shown += (left if left > 0 else 0, duration(reset))
        return self._lines % tuple(shown)

    def take_charge(self, now: float, wall: float) -> Charge:
        """What has been used since the last time."""
        requests, tokens = (
            0.0 if bucket is None else bucket.capacity - bucket.level(now)
            for bucket in (self._requests, self._tokens)
        )
        charge = Charge(
            Used(self.label, requests, tokens, wall, self._day_ends, self._day_tokens),
            min(self._new_since, wall),
            self._new_requests,
            self._new_tokens,
            self._new_day_tokens,
            0.0 if self._requests is None else self._requests.rate,
            0.0 if self._tokens is None else self._tokens.rate,
        )
        self._new_requests = self._new_tokens = self._new_day_tokens = 0
        return charge

    def adopt(self, kept: Used, now: float, wall: float) -> None:
        """Count what is kept too: used before a restart, or by others; the time since then has
        counted. It holds all that was taken by `take_charge`."""
        self._change_day(wall)
        if kept.day_ends >= self._day_ends:
            self._day_tokens = max(self._day_tokens, kept.day_tokens + self._new_day_tokens)
        for bucket, missing, new in (
            (self._requests, kept.requests, self._new_requests),
            (self._tokens, kept.tokens, self._new_tokens),
        ):
            if bucket is not None:
                missing = _refilled(missing, wall - kept.wall, bucket.rate) + new
                bucket.full_at = max(bucket.full_at, now + missing / bucket.rate)

    def _note_new(self, wall: float) -> None:
        if not (self._new_requests or self._new_tokens or self._new_day_tokens):
            self._new_since = wall

    def _change_day(self, wall: float) -> None:
        """Another day has begun, or the clock was ahead: then what was used was used today."""
        if wall >= self._day_ends:
            self._day_tokens = self._new_day_tokens = 0
        self._day_ends = _end_of_day(wall)


def _refilled(missing: float, seconds: float, rate: float) -> float:
    """What is missing after so long, by a clock that may have gone back."""
    return max(0.0, missing - max(0.0, seconds) * rate)


def _end_of_day(wall: float) -> int:
    """The midnight UTC that comes next, in seconds since 1970."""
    return (int(wall // _DAY_SECONDS) + 1) * _DAY_SECONDS


def _sized(
    bucket: Bucket | None, capacity: int | None, now: float, period: float = PERIOD_SECONDS
) -> Bucket | None:
    if capacity is None:
        return None
    if bucket is None:
        return Bucket(capacity, now, period)
    bucket.resize(capacity, now)
    return bucket


def duration(seconds: float) -> bytes:
    """As OpenAI writes them: `17ms`, `4.2s`, `6m0s`, `13h20m5s`; nothing less than 0."""
    exact = seconds - PRECISION_SECONDS
    if exact <= 0:
        return b"0ms"
    if seconds < 1:
        return b"%dms" % math.ceil(exact * 1000)
    if seconds < 60:
        return b"%.1fs" % seconds
    whole = math.ceil(exact)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, whole % 60)
    return b"%dm%ds" % (minutes, whole % 60)
