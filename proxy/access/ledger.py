"""What keys have used, in a small database that survives a restart and that sidecars may share.

Whoever writes adds what it has seen used since the last time, in one transaction, and takes over
what others have added. The file may be on a network volume: it has a rollback journal, as
write-ahead logs need shared memory, and is opened for each access, beside the work, in a thread, at
most once a second. What is wrong with it stops nobody: limits then hold from zero after a restart,
and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from proxy.access.account import Charge, Used
from proxy.access.accounts import Accounts

WRITE_SECONDS = 1.0
# How long another sidecar, or somebody who looks, may hold the file.
_BUSY_SECONDS = 2.0
# For the last write of all: a volume that has gone must not hold up the end.
_LAST_WRITE_SECONDS = 3.0
_TABLE = """
create table if not exists used (
  label text primary key, requests real, tokens real, wall real,
  day_ends integer, day_tokens integer
) without rowid
"""
# The columns are the fields of `Used`, in their order.
_SELECT = "select label, requests, tokens, wall, day_ends, day_tokens from used"
_INSERT = """
insert or replace into used (label, requests, tokens, wall, day_ends, day_tokens)
values (?, ?, ?, ?, ?, ?)
"""

_log = logging.getLogger("proxy.ledger")


class Ledger:
    """One file for all sidecars that have its volume and listen on the same port."""

    def __init__(self, path: Path, accounts: Accounts) -> None:
        self._path = path
        self._accounts = accounts
        self._has_warned = False
        # What is still to be written, as it was taken.
        self._taken: deque[Charge] = deque()
        # The same by label. Only a thread that writes touches it: one whose task is cancelled goes
        # on, so nobody else can tell whether it has written.
        self._charges: dict[str, Charge] = {}
        # When the file was last written, as it was when it was last read.
        self._read_version: tuple[int, int] | None = None
        # The last write of all may come while one is under way.
        self._lock = threading.RLock()

    async def load(self) -> None:
        """Give the accounts what they had used."""
        try:
            self._accounts.adopt(await asyncio.to_thread(self._read))
        except (sqlite3.Error, OSError, TypeError) as error:
            _log.warning("%s cannot be read, so all limits begin anew: %s", self._path, error)

    async def keep(self) -> None:
        """Go on from what was used before a restart, and write down what changes, for good."""
        await self.load()
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Add what was used since the last time to the file; what cannot be written, later. Take
        over what others have added."""
        self._taken.extend(self._accounts.take_charges())
        try:
            kept = await asyncio.to_thread(self._write)
        except (sqlite3.Error, OSError, TypeError) as error:
            if not self._has_warned:
                _log.warning("what keys have used is not kept: %s: %s", self._path, error)
            self._has_warned = True
        else:
            self._has_warned = False
            self._accounts.adopt(kept)

    async def close(self) -> None:
        """The last write."""
        try:
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self.write()
        except TimeoutError:
            _log.warning("what keys have used is not kept: %s does not answer", self._path)

    def _read(self) -> list[Used]:
        """What is new in the file."""
        version = self._version()
        if version in (None, self._read_version):
            return []
        with closing(self._open()) as database:
            kept = _rows(database)
        wall = self._accounts.wall()
        if any(used != used.as_of(wall) for used in kept):
            kept = self._add(())  # else it would come back on each day until then
        self._read_version = version
        return kept

    def _write(self) -> list[Used]:
        """Add what is to be written; returns what is new in the file."""
        with self._lock:
            while self._taken:
                charge = self._taken.popleft()
                before = self._charges.get(charge.used.label)
                charge = charge if before is None else before.and_then(charge)
                self._charges[charge.used.label] = charge
            if not self._charges:
                return self._read()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._add(self._charges.values())
            self._charges = {}
            return kept

    def _add(self, charges: Collection[Charge]) -> list[Used]:
        """Add them; returns what is in the file then that others have written too."""
        with self._lock, closing(self._open()) as database:
            database.execute("begin immediate")
            database.execute(_TABLE)
            before = {used.label: used for used in _rows(database)}
            wall = self._accounts.wall()
            kept = {label: used.as_of(wall) for label, used in before.items()}
            for charge in charges:
                label = charge.used.label
                kept[label] = charge.added_to(kept.get(label))
            changed = [used for label, used in kept.items() if used != before.get(label)]
            database.executemany(_INSERT, changed)
            database.execute("commit")
            self._read_version = self._version()
        ours = {charge.used for charge in charges}
        return [used for used in kept.values() if used not in ours]

    def _version(self) -> tuple[int, int] | None:
        """Another one after each write; None where there is no file."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)


def _rows(database: sqlite3.Connection) -> list[Used]:
    return [Used(*row) for row in database.execute(_SELECT)]
