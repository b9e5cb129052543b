"""`python3 -m proxy`: exit codes, the server, signals; nothing else.

Exit codes: 0 stopped by a signal, 1 the engine failed (`ON_ENGINE_FAILURE=exit`) or the
port is taken, 2 a variable is wrong.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys

import uvloop

from proxy.app import Sidecar
from proxy.errors import SettingsError
from proxy.server import Server, allow_many_connections, listen
from proxy.settings import OnEngineFailure, Settings
from proxy.telemetry import logs

_log = logging.getLogger("proxy")

# Objects made before the garbage collector looks for cycles. A request makes few of them;
# Python's 700 would have it look after every second request.
GC_THRESHOLD = 20_000


def main() -> int:
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    allow_many_connections()
    try:
        sockets = listen(settings.host, (settings.port, settings.port_health or settings.port))
    except OSError as error:
        print(f"cannot listen on {settings.host}: {error.strerror}", file=sys.stderr)
        return 1
    # What is there now stays for good: no collection need ever look at it again.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    return uvloop.run(_serve(settings, sockets))


async def _serve(settings: Settings, sockets: list[socket.socket]) -> int:
    """Run until a signal comes or the engine is given up."""
    sidecar = Sidecar(settings)
    server = Server(sidecar, max_message_bytes=settings.max_body_bytes)
    serving = asyncio.create_task(server.serve(sockets))
    stop = _stop_signal()
    engine = sidecar.start()
    waiting = {serving, stop}
    if settings.on_engine_failure is OnEngineFailure.EXIT:
        waiting.add(engine)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        # Where nobody was sent here yet, no load balancer has to be waited for.
        delay = settings.drain_delay_seconds if sidecar.service.ready else 0
        sidecar.announce_stop()
        await asyncio.sleep(delay)
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


if __name__ == "__main__":
    sys.exit(main())
