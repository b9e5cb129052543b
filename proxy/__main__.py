"""`python3 -m proxy`: exit codes, the server, signals; nothing else.

Exit codes: 0 stopped by a signal, 1 the engine failed (`ON_ENGINE_FAILURE=exit`) or the
port is taken, 2 a variable is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from proxy.app import Sidecar
from proxy.errors import SettingsError
from proxy.settings import OnEngineFailure, Settings
from proxy.telemetry import logs

_log = logging.getLogger("proxy")

# Longer than the idle time of the load balancers in front of us (60 s is common), so that
# they close a connection first and none is closed under a request.
KEEP_ALIVE_SECONDS = 75
# What is left after the drain is cut off; it has been told so by an error event.
_CUT_OFF_SECONDS = 3
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Uvicorn closes its listener on SIGTERM at once; here the drain comes first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> int:
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    try:
        sockets = _listen(settings)
    except OSError as error:
        print(f"cannot listen on {settings.host}: {error.strerror}", file=sys.stderr)
        return 1
    return uvloop.run(_serve(settings, sockets))


async def _serve(settings: Settings, sockets: list[socket.socket]) -> int:
    """Run until a signal comes or the engine is given up."""
    sidecar = Sidecar(settings)
    server = _Server(_server_config(sidecar))
    serving = asyncio.create_task(server.serve(sockets))
    stop = _stop_signal()
    engine = sidecar.start()
    waiting = {serving, stop}
    if settings.on_engine_failure is OnEngineFailure.EXIT:
        waiting.add(engine)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        sidecar.announce_stop()
        await asyncio.sleep(settings.drain_delay_seconds)
    await sidecar.stop()
    server.should_exit = True
    await serving
    return 0 if stop.done() else 1


def _stop_signal() -> asyncio.Future[None]:
    """Done at the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if stop.done():
            os._exit(128 + number)  # the engine's guard sees us go and ends the engine
        _log.info("%s: draining", number.name)
        stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _server_config(sidecar: Sidecar) -> uvicorn.Config:
    return uvicorn.Config(
        sidecar,
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=sidecar.settings.max_body_bytes,
        ws_ping_interval=None,  # pings are between the two ends of a session
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `client` in the log is the peer we really have
        server_header=False,
        date_header=False,  # the engine sends its own
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CUT_OFF_SECONDS,
        backlog=_BACKLOG,
    )


def _listen(settings: Settings) -> list[socket.socket]:
    """Listening sockets for PORT and, where it differs, PORT_HEALTH."""
    ports = dict.fromkeys((settings.port, settings.port_health or settings.port))
    sockets = []
    for port in ports:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
        except OSError as error:
            raise OSError(error.errno, f"port {port}: {error.strerror}") from None
        listener.listen(_BACKLOG)
        sockets.append(listener)
    return sockets


if __name__ == "__main__":
    sys.exit(main())
