"""A PostgreSQL server with LiteLLM's tables, and how LiteLLM reaches it.

LiteLLM talks to its database through Prisma's client for Python and Prisma's query engine. PyPI has
the client. The engine as an executable is on Prisma's own server only, but npm has the same commit
of it built for WebAssembly: query-engine.mjs puts that in the place of the executable. Prisma's
*schema* engine, which would make the tables, is not there: psql applies LiteLLM's own migrations.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.engine.service import wait_until
from tests.patience import PATIENCE
from tests.peers import installed
from tests.ports import free_ports

_ENGINE = Path(__file__).with_name("query-engine.mjs")
_PROGRAMS = ("initdb", "postgres", "psql")
_USER = _DATABASE = "litellm"
# Tests do not need what they have written to survive the machine; the adapter wants times in UTC.
_SETTINGS = {"fsync": "off", "unix_socket_directories": "", "timezone": "UTC"}


class Postgres:
    """`with Postgres() as database:`; the server and all its files are gone at the end."""

    def __init__(self) -> None:
        """Skips the test where something is not installed."""
        self._bin = _programs()
        self._prisma = installed("prisma")
        self._migrations = _migrations()
        (self._port,) = free_ports(1)
        self._user = _server_user()
        self._folder: Path
        self._process: subprocess.Popen[bytes]

    @property
    def environ(self) -> dict[str, str]:
        """What LiteLLM needs."""
        return {
            "DATABASE_URL": f"postgresql://{_USER}@127.0.0.1:{self._port}/{_DATABASE}",
            "DISABLE_SCHEMA_UPDATE": "true",  # the tables are there, and the schema engine is not
            "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/false",
            "PRISMA_BINARY_CACHE_DIR": str(self._prisma),
            "PRISMA_QUERY_ENGINE_BINARY": str(_ENGINE),
            # LiteLLM asks Prisma's CLI, in vain: npm's starts 5 seconds sooner than Python's.
            "PATH": f"{self._prisma}/node_modules/.bin:{os.environ['PATH']}",
            "CHECKPOINT_DISABLE": "1",
        }

    def __enter__(self) -> Self:
        # Not pytest's folder: the server's user, another one where we are root, may not enter it.
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-db-"))
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        try:
            wait_until(self._is_ready, PATIENCE, "PostgreSQL is ready")
            self._psql("postgres", "--command", f"CREATE DATABASE {_DATABASE}")
            files = [word for file in self._migrations for word in ("--file", str(file))]
            self._psql(_DATABASE, *files)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def rows(self, select: str) -> list[list[str]]:
        """What a query finds, as text."""
        text = self._psql(_DATABASE, "--tuples-only", "--no-align", "--command", select)
        return [line.split("|") for line in text.splitlines()]

    def _start(self) -> None:
        data = self._folder / "data"
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._as_user(
            ["initdb", "--pgdata", str(data), "--auth=trust", f"--username={_USER}", "--no-sync"]
        )
        settings = [word for pair in _SETTINGS.items() for word in ("-c", "=".join(pair))]
        place = ["-D", str(data), "-h", "127.0.0.1", "-p", str(self._port)]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", *place, *settings],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _as_user(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            [self._bin / command[0], *command[1:]],
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _psql(self, database: str, *words: str) -> str:
        place = ["-h", "127.0.0.1", "-p", str(self._port), "-U", _USER, "-d", database]
        quiet = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        done = subprocess.run(
            [self._bin / "psql", *place, *quiet, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()[-4000:]
        with suppress(AssertionError):
            self._psql("postgres", "--command", "SELECT 1")
            return True
        return False

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once: it does not wait for its clients
        self._process.wait()
        shutil.rmtree(self._folder)


def _programs() -> Path:
    """Debian keeps the server's out of PATH, each version by itself."""
    found = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if elsewhere := shutil.which("initdb"):
        found.insert(0, Path(elsewhere).resolve().parent)
    whole = [folder for folder in found if all((folder / name).exists() for name in _PROGRAMS)]
    if not whole:
        pytest.skip("no PostgreSQL here: bench/install-peers.sh postgresql")
    return whole[-1]


def _migrations() -> list[Path]:
    folders = [*installed("litellm").glob("lib/python3*/site-packages/litellm_proxy_extras")]
    return sorted(folders[0].glob("migrations/*/migration.sql"))


def _server_user() -> str | None:
    """PostgreSQL does not run as root; the package has made a user for it."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"
