"""The accounts of all keys, and the one of all together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic, time

from proxy.access.account import Account, Charge, Used
from proxy.errors import MAX_HEEDED_SECONDS, QuotaExceeded, RateLimited
from proxy.settings.allowance import ALL, NOTHING, KeyLimits
from proxy.settings.keys import ApiKey


class Accounts:
    """Knows who may use how much; `limited` is false where nobody has a limit."""

    def __init__(self, limits: KeyLimits) -> None:
        self._limits = limits
        self._of: dict[str, Account] = {}
        self._all: Account | None = None
        self._changed: set[Account] = set()
        if limits.all != NOTHING:
            self._all = Account(ALL, "All keys together have used", limits.all, monotonic(), time())
        # What a request counts against: of a key with an account its own first, of all others.
        self._of_all = () if self._all is None else (self._all,)
        self._of_one: dict[str | None, tuple[Account, ...]] = {}

    @property
    def limited(self) -> bool:
        return bool(self._of) or self._all is not None

    @property
    def all_in_flight(self) -> int | None:
        """Requests of all keys together."""
        return self._limits.all.in_flight

    def set_keys(self, keys: Iterable[ApiKey]) -> None:
        """These keys are good now; who has an account already keeps what has been used."""
        now, wall = monotonic(), time()
        for key in keys:
            ours = self._limits.by_label.get(key.label, NOTHING).or_else(self._limits.each)
            allowance = key.allowance.or_else(ours)
            if (account := self._of.get(key.label)) is not None:
                account.allow(allowance, now)
            elif allowance != NOTHING:
                whose = f"{key.label} has used"
                self._of[key.label] = Account(key.label, whose, allowance, now, wall)
        self._of_one = {label: (own, *self._of_all) for label, own in self._of.items()}

    def admit(self, label: str | None) -> bytes:
        """Let one request of a key in; `x-ratelimit-*` for its answer, as lines of a head.

        Raises:
            RateLimited, QuotaExceeded: with these headers too.
        """
        accounts = self._of_one.get(label, self._of_all)
        if not accounts:
            return b""
        now, wall = monotonic(), time()
        for account in accounts:
            if not account.has_room(now, wall):
                full = [each for each in accounts if not each.has_room(now, wall)]
                failure = _longest([each.refusal(now, wall) for each in full])
                for line in _lines(accounts, now, wall).splitlines():
                    name, _, value = line.partition(b": ")
                    failure.headers += ((name, value),)
                raise failure
        for account in accounts:
            account.take_request(now, wall)
        self._changed.update(accounts)
        return _lines(accounts, now, wall)

    def admit_load(self, label: str | None) -> None:
        """Count one load of a model that a request of a key brings about. A restart forgets it.

        Raises:
            RateLimited: the key, or all together, have had what they may have in an hour.
        """
        accounts, now = self._of_one.get(label, self._of_all), monotonic()
        if refusals := [each for account in accounts if (each := account.load_refusal(now))]:
            raise _longest(refusals)
        for account in accounts:
            account.take_load(now)

    def in_flight(self, label: str | None) -> int | None:
        """Requests that a key may have at once; None is no limit."""
        own = self._of.get(label) if label is not None else None
        return None if own is None else own.allowance.in_flight

    def charge(self, label: str | None, tokens: int) -> None:
        """Tokens of a request that is over."""
        accounts = self._of_one.get(label, self._of_all)
        now, wall = monotonic(), time()
        for account in accounts:
            account.charge(tokens, now, wall)
        self._changed.update(accounts)

    def wall(self) -> float:
        """The time that accounts go by, in seconds since 1970."""
        return time()

    def take_charges(self) -> list[Charge]:
        """Of the accounts that have changed since the last time."""
        changed, self._changed = self._changed, set()
        now, wall = monotonic(), time()
        return [account.take_charge(now, wall) for account in changed]

    def adopt(self, kept: Iterable[Used]) -> None:
        """Count what is kept too, from before a restart and of others; it holds all charges that
        were taken."""
        now, wall = monotonic(), time()
        for used in kept:
            account = self._all if used.label == ALL else self._of.get(used.label)
            if account is not None:
                account.adopt(used, now, wall)


def _longest(refusals: Sequence[RateLimited | QuotaExceeded]) -> RateLimited | QuotaExceeded:
    """A wait of minutes is told in two or three parts: clients try twice more."""
    failure = max(refusals, key=lambda each: each.retry_after_seconds or 0)
    if isinstance(failure, RateLimited):
        failure.retry_after_seconds = min(failure.retry_after_seconds or 0, MAX_HEEDED_SECONDS)
    return failure


def _lines(accounts: tuple[Account, ...], now: float, wall: float) -> bytes:
    """Those of the key itself, where it has a limit."""
    for account in accounts:
        if lines := account.lines(now, wall):
            return lines
    return b""
