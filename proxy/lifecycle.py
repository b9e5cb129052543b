"""The order in which a sidecar starts and ends."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator

from proxy.app import Sidecar
from proxy.engine.progress_bar import describe
from proxy.models.preset_choice import warnings_about_presets
from proxy.server.listener import Server
from proxy.settings import OnEngineFailure, Settings
from proxy.tasks import spawn
from proxy.telemetry import logs
from proxy.terminal import LiveLine, can_rewrite_a_line
from proxy.vllm.command import warnings_about

_log = logging.getLogger("proxy")


class Lifecycle:
    """Starts the parts of one sidecar, and ends them."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._background: list[asyncio.Task[None]] = []

    async def run(self, sockets: list[socket.socket]) -> int:
        """Serve until a signal comes or the engine is given up; returns the exit code."""
        sidecar = self._sidecar
        settings = sidecar.settings
        server = Server(
            sidecar.dispatch,
            stall_seconds=settings.body_timeout or math.inf,
            request_seconds=settings.request_timeout,
        )
        await server.start(sockets)
        stop, hurry = _signals()
        engine = self.start()
        waiting: set[asyncio.Future[None]] = {stop}
        if settings.on_engine_failure is OnEngineFailure.EXIT:
            waiting.add(engine)
        idle = None
        if settings.pod_idle_seconds:
            idle = spawn(sidecar.pod_idle.run(), name="idle pod")
            waiting.add(idle)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            # Without traffic yet there is no load balancer to wait for.
            delay = settings.drain_delay_seconds if sidecar.service.ready else 0
            self.announce_stop()
            await asyncio.wait({hurry}, timeout=delay)
        hurry.add_done_callback(lambda _: sidecar.models.admission.cut_now())
        await self.shutdown(server)
        is_idle = idle is not None and idle.done()
        return 0 if stop.done() or is_idle else 1

    def start(self) -> asyncio.Task[None]:
        """Start the engine; the task ends when it cannot be started any more."""
        sidecar = self._sidecar
        self.announce_settings()
        sidecar.access.start()
        sidecar.service.metrics.gauges.loop_lag.start()
        sidecar.meters.gpu.start()
        if sidecar.settings.upstream_url is None:  # else models are kept elsewhere
            sidecar.meters.disk.start()
        if can_rewrite_a_line(sys.stderr, os.environ):
            line = LiveLine(sys.stderr, lambda: describe(sidecar.service.snapshot))
            self._background.append(spawn(line.run(), name="progress bar"))
        return sidecar.models.start()

    def announce_settings(self) -> None:
        """Log where clients come in, what a preset gave, and what looks wrong."""
        settings = self._sidecar.settings
        for name, url in addresses(settings):
            _log.info("%-9s  %s", name, url)
        if (idle := self._sidecar.pod_idle.announcement) is not None:
            _log.info(idle)
        for each in settings.models:
            if each.preset is not None:
                _log.info("preset: %s", each.preset.sentence())
        presets = warnings_about_presets(settings)
        for warning in (*presets, *warnings_about(settings), *self._sidecar.access.warnings):
            _log.warning(warning)

    def announce_stop(self) -> None:
        """Say "not ready" from now on, but go on taking requests."""
        self._sidecar.service.stopping = True
        self._sidecar.models.reset_drain_counters()

    async def shutdown(self, server: Server | None = None) -> None:
        """End everything, in this order. What fails is logged, and the rest ends all the same."""
        sidecar = self._sidecar
        models = sidecar.models
        admission = models.admission
        await _end("admission", admission.close)  # no more requests
        await _end("engine", models.stop)  # running requests finish, or are cut
        await _end("meters", self._end_meters)
        await _end("connections to the engine", models.close_clients)
        if server is not None:
            await _end("server", server.stop)  # answers that are still being written
        await _end("usage of keys", sidecar.access.stop)
        if sidecar.spans is not None:
            await _end("spans", sidecar.spans.stop)
        finished, cut = models.drained
        fields = {"finished": finished, "cut": cut}
        text = "stopped: %d requests finished, %d were cut"
        _log.info(text, finished, cut, extra={"fields": fields})

    def _end_meters(self) -> None:
        for task in self._background:
            task.cancel()
        self._sidecar.models.stop_meters()
        self._sidecar.meters.gpu.stop()
        self._sidecar.meters.disk.stop()


def addresses(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where the API, the dashboard and the metrics are, as an operator opens them."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    here = f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}"
    base = settings.outside_url or f"{here}:{settings.port}"
    yield "API", f"{base}/v1"
    yield "dashboard", f"{base}/dashboard"
    metrics_port = settings.port_of_metrics
    yield "metrics", f"{base if metrics_port is None else f'{here}:{metrics_port}'}/metrics"


async def _end(part: str, end: Callable[[], Awaitable[None] | None]) -> None:
    try:
        if (ending := end()) is not None:
            await ending
    except Exception:
        _log.exception("shutdown: %s failed to end", part)


def _signals() -> tuple[asyncio.Future[None], asyncio.Future[None]]:
    """Done at the first and at the second SIGTERM or SIGINT; a third one ends the process."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    hurry: asyncio.Future[None] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if not stop.done():
            _log.info("%s: draining", number.name)
            stop.set_result(None)
        elif not hurry.done():
            _log.warning("%s again: what still runs is cut now", number.name)
            hurry.set_result(None)
        else:
            logs.flush()
            os._exit(128 + number)  # the engine's guard sees us go and ends the engine

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop, hurry
