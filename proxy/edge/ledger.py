"""What keys have used, in a small database that survives a restart.

It is read and written beside the work, in a thread, at most once a second. What is wrong with it
stops nobody: limits then hold from zero after a restart, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from proxy.edge.account import Used
from proxy.edge.accounts import Accounts

WRITE_SECONDS = 1.0
# How long another process may hold the file; it is ours alone, but for somebody who looks.
_BUSY_SECONDS = 2.0
# For the last write of all: a volume that has gone must not hold up the end.
_LAST_WRITE_SECONDS = 3.0
_TABLE = """
create table if not exists used (
  label text primary key, requests real, tokens real, wall real,
  day_ends integer, day_tokens integer
) without rowid
"""

_log = logging.getLogger("proxy.ledger")


class Ledger:
    """One file for one sidecar."""

    def __init__(self, path: Path, accounts: Accounts) -> None:
        self._path = path
        self._accounts = accounts
        self._told = False
        # Before that, what is there must not be written over.
        self._is_read = False
        # What is still to be written, by label.
        self._rows: dict[str, Used] = {}
        # The last write of all may come while one is under way.
        self._lock = threading.Lock()

    async def load(self) -> None:
        """Give the accounts what they had used."""
        self._accounts.restore(await asyncio.to_thread(self._read))
        self._is_read = True

    def _read(self) -> list[Used]:
        try:
            if not self._path.exists():
                return []
            with closing(self._open()) as database:
                return [Used(*row) for row in database.execute("select * from used")]
        except (sqlite3.Error, OSError, TypeError) as error:
            _log.warning("%s cannot be read, so all limits begin anew: %s", self._path, error)
            return []

    async def keep(self) -> None:
        """Go on from what was used before a restart, and write down what changes, for good."""
        await self.load()
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write down what has changed since the last time; what cannot be written, later."""
        self._rows |= {used.label: used for used in self._accounts.take_changed()}
        if self._rows:
            rows, self._rows = self._rows, {}
            if not await asyncio.to_thread(self._write, list(rows.values())):
                self._rows = rows | self._rows

    async def close(self) -> None:
        """The last write."""
        try:
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                if not self._is_read:
                    await self.load()
                await self.write()
        except TimeoutError:
            _log.warning("what keys have used is not kept: %s does not answer", self._path)

    def _write(self, rows: list[Used]) -> bool:
        """Whether they are written now."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, closing(self._open()) as database, database:
                database.execute(_TABLE)
                database.executemany("insert or replace into used values (?,?,?,?,?,?)", rows)
            self._told = False
            return True
        except (sqlite3.Error, OSError) as error:
            if not self._told:
                _log.warning("what keys have used is not kept: %s: %s", self._path, error)
            self._told = True
            return False

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
