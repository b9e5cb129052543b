"""Authentication and rate limits of a request: all that its head can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy.access.accounts import Accounts
from proxy.access.admission import WaitingRoom
from proxy.access.keys import Keys, warnings_about_keys
from proxy.access.ledger import Ledger
from proxy.settings import Settings
from proxy.settings.allowance import KeyLimits
from proxy.tasks import spawn


class AccessControl:
    """Where `guarded` is false every request is admitted, and nothing need be checked."""

    def __init__(
        self, settings: Settings, ledger: Path, on_labels_changed: Callable[[tuple[str, ...]], None]
    ) -> None:
        """`on_labels_changed` gets the labels of the good keys, at once and after each change.

        Raises:
            SettingsError: the file of keys cannot be read.
        """
        self._settings = settings
        self._needs_key = settings.needs_key
        self._on_labels_changed = on_labels_changed
        self._keys = Keys(settings)
        self._accounts = Accounts(settings.key_limits or KeyLimits())
        self.admit = self._accounts.admit
        """One request of a key, for the engine: lines for the head of its answer."""
        self.admit_load = self._accounts.admit_load
        """One load of a model that a request of a key brings about."""
        self._ledger = Ledger(ledger, self._accounts)
        self._tasks: list[asyncio.Task[None]] = []
        # Those whose places depend on the keys.
        self._rooms: list[WaitingRoom] = []
        self._keys.when_changed = self._keys_changed
        self._keys_changed()

    @property
    def warnings(self) -> tuple[str, ...]:
        return warnings_about_keys(self._settings, self._keys.all)

    def start(self) -> None:
        """Go on from what was used before a restart, and follow the file of keys."""
        if self._settings.needs_key or self._accounts.limited:
            self._tasks = [
                spawn(self._keys.reread(), name="keys file"),
                spawn(self._ledger.keep(), name="ledger"),
            ]

    async def stop(self) -> None:
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await self._ledger.close()

    def identify(self, named: Mapping[bytes, bytes]) -> str | None:
        """The label of the key in a request's headers; None where none is needed.

        Raises:
            Unauthorized: it has no good key.
        """
        return self._keys.owner(named) if self._needs_key else None

    def make_waiting_room(self) -> WaitingRoom:
        """The places that there are at the engine."""
        return self._waiting_room(self.places_of_only(self._settings))

    def places_of_only(self, model: Settings) -> int | None:
        """At the engine of a single model, which has those of all keys together too."""
        limits = (model.max_in_flight, self._accounts.all_in_flight)
        return min(filter(None, limits), default=None)

    def make_waiting_room_of_all(self) -> WaitingRoom:
        """What the keys may have at all engines together; each engine has its own places."""
        return self._waiting_room(self._accounts.all_in_flight)

    def _waiting_room(self, places: int | None) -> WaitingRoom:
        limit_of = self._accounts.in_flight if self.guarded else None
        room = WaitingRoom(places, self._settings.max_waiting, limit_of, self._max_wait)
        self._rooms.append(room)
        return room

    def make_waiting_room_of(self, model: Settings) -> WaitingRoom:
        """The places at the engine of one of several models."""
        return WaitingRoom(model.max_in_flight, model.max_waiting, max_seconds=self._max_wait)

    @property
    def _max_wait(self) -> float | None:
        # A request that waits longer than it may take in all has nothing left to do.
        limits = (self._settings.waiting_timeout, self._settings.request_timeout)
        return min(filter(None, limits), default=None)

    def charge(self, key: str | None, tokens: int) -> None:
        """Tokens of a request that is over."""
        if tokens and self._accounts.limited:
            self._accounts.charge(key, tokens)

    def _keys_changed(self) -> None:
        self._on_labels_changed(self._keys.labels)
        self._accounts.set_keys(self._keys.all)
        self.guarded = self._settings.needs_key or self._accounts.limited
        for room in self._rooms:
            room.grant()
