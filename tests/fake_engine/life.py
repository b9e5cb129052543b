"""The life of the process: start-up, serving, death, stop; exit codes as real vLLM's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import log, sleeper
from .connection import Connection
from .endings import Interruption
from .engine import Engine, State
from .options import Options
from .scenario import Phase, Scenario
from .ticker import TickConnection, Ticker

BACKLOG = 2048
CHILD_POLL_SECONDS = 0.05
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Life:
    """One process, from its first line to its exit code."""

    def __init__(self, options: Options, scenario: Scenario) -> None:
        self._options = options
        self._scenario = scenario
        self._engine = Engine(options, scenario)
        self._child: subprocess.Popen[bytes] | None = None
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._stop_asked = asyncio.Event()
        self._over = asyncio.Event()

    # -- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start-up log and time; may exit."""
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text("vllm")
        self._bind()
        if self._options.serve:
            self._phases()
        elif self._scenario.fail:
            self._fail()
        elif self._scenario.children:
            self._spawn()

    def _phases(self) -> None:
        for phase in Phase:
            if phase is Phase.ENGINE:
                # One SIGTERM while the engine loads is swallowed, without a word.
                for number in SIGNALS:
                    signal.signal(number, lambda *_: None)
                self._spawn()
            log.phase(phase, self._options)
            if phase is Phase.CONFIG and self._scenario.fail:
                self._fail()
            if phase is self._scenario.hang_at:
                self._sleep(float("inf"))
            self._sleep(self._scenario.seconds(phase))

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 3600.0))
            if self._child is not None and self._child.poll() is not None:
                log.write("RuntimeError: Engine core initialization failed. See root cause above.")
                self._exit(1)

    def _fail(self) -> None:
        if self._scenario.fail_log is not None:
            for line in log.recorded(self._scenario.fail_log):
                log.write(line)
        self._exit(self._scenario.exit_code)

    def _spawn(self) -> None:
        if self._scenario.children and self._child is None:
            self._child = sleeper.spawn("VLLM::EngineCore", self._scenario.children - 1)
            pid = self._child.pid
            self._engine.is_core_stopped = lambda: _is_stopped(pid)

    def _bind(self) -> None:
        """Bound, not listening: until then every connect is refused."""
        if self._options.uds:
            Path(self._options.uds).unlink(missing_ok=True)
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unix.bind(self._options.uds)
            self._sockets.append(unix)
            if not self._options.also_tcp:
                return
        family = socket.AF_INET6 if ":" in self._options.host else socket.AF_INET
        tcp = socket.socket(family, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((self._options.host, self._options.port))
        except OSError as error:
            log.write(f"OSError: [Errno {error.errno}] {error.strerror}")
            self._exit(1)
        self._sockets.append(tcp)

    # -- serving ---------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Listen until the end."""
        self._engine.on_death = self._died
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled)
        await self._listen(loop)
        watch = loop.create_task(self._watch_child())
        stop = loop.create_task(self._stop_when_asked())
        await self._over.wait()
        watch.cancel()
        stop.cancel()
        self._exit(0)

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        ticker = Ticker(self._engine) if self._options.tick_ms else None

        def connect() -> asyncio.Protocol:
            if ticker is not None:
                return TickConnection(self._engine, ticker)
            return Connection(self._engine)

        if ticker is not None:
            ticker.start()
        for bound in self._sockets:
            listen = (
                loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
            )
            self._servers.append(await listen(connect, sock=bound, backlog=BACKLOG))
        if self._options.serve:
            log.write("INFO:     Application startup complete.")
        for bound in self._sockets:
            name = bound.getsockname()
            log.write(f"listening on {name if isinstance(name, str) else name[1]}")

    # -- the end ---------------------------------------------------------------------------------

    async def _watch_child(self) -> None:
        """The death of EngineCore is the death of the engine; stopped, it generates nothing."""
        while self._child is not None:
            await asyncio.sleep(CHILD_POLL_SECONDS)
            if not _is_stopped(self._child.pid):
                self._engine.awake.set()
            if self._child.poll() is not None and self._engine.state is State.SERVING:
                self._child = None
                self._engine.die()

    def _died(self) -> None:
        log.crashed(by_request=self._child is not None or not self._scenario.children)
        loop = asyncio.get_running_loop()
        # /health answers 503 for a moment, then connects are refused, then the process is gone.
        loop.call_later(self._scenario.crash_seconds / 2, self._close_listeners)
        loop.call_later(self._scenario.crash_seconds, self._over.set)

    def _close_listeners(self) -> None:
        for server in self._servers:
            server.close()

    def _signalled(self) -> None:
        if not self._scenario.ignore_term:
            self._stop_asked.set()

    async def _stop_when_asked(self) -> None:
        await self._stop_asked.wait()
        log.stopping()
        self._engine.state = State.STOPPING
        self._close_listeners()
        self._engine.interrupt(Interruption.STOPPED)
        await asyncio.sleep(self._scenario.term_seconds)
        log.stopped()
        self._over.set()

    def _exit(self, code: int) -> None:
        """Leave at once: open connections end with the process."""
        if self._child is not None and not self._scenario.orphans:
            self._kill_children(self._child)
        if self._options.uds:
            Path(self._options.uds).unlink(missing_ok=True)
        sys.stdout.flush()
        os._exit(code)

    def _kill_children(self, child: subprocess.Popen[bytes]) -> None:
        listing = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        with contextlib.suppress(OSError):
            for pid in map(int, listing.read_text().split()):
                os.kill(pid, signal.SIGKILL)
        child.kill()
        child.wait()


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False
