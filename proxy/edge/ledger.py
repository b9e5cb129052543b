"""What keys have used, in a small database that survives a restart.

It is written beside the work, in a thread, at most once a second. What is wrong with it stops
nobody: limits then hold from zero after a restart, and the log says so.
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
        # What is still to be written, by label.
        self._rows: dict[str, Used] = {}
        # The last write of all may come while one is under way.
        self._lock = threading.Lock()

    def load(self) -> None:
        """Give the accounts what they had used."""
        try:
            if not self._path.exists():
                return
            with closing(self._open()) as database:
                rows = database.execute("select * from used").fetchall()
            self._accounts.restore(Used(*row) for row in rows)
        except (sqlite3.Error, OSError, TypeError) as error:
            _log.warning("%s cannot be read, so all limits begin anew: %s", self._path, error)

    async def keep(self) -> None:
        """Write down what changes, for good."""
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
