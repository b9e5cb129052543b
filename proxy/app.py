"""The only place where the parts meet."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from proxy.api.service import Service
from proxy.edge.admission import Admission
from proxy.edge.cors import Cors
from proxy.edge.door import Door
from proxy.edge.poison import PoisonGuard
from proxy.edge.routes import GENERATING, Route, RouteTable
from proxy.engine.attached import AttachedEngine
from proxy.engine.command import warnings_about
from proxy.engine.disk_meter import DiskMeter
from proxy.engine.engine_meter import EngineMeter
from proxy.engine.gpu_meter import GpuMeter
from proxy.engine.hardware import Hardware
from proxy.engine.lifecycle import Engine
from proxy.engine.model.fetch import data_directory, model_cache
from proxy.engine.phase import Phase
from proxy.engine.probe import Probe
from proxy.engine.progress_bar import ProgressBar, can_be_drawn
from proxy.engine.state import EngineState, Snapshot
from proxy.errors import CutOff, RequestFailure, UnknownRoute
from proxy.media.intake import intake
from proxy.own_pages import OwnPages, own_pages
from proxy.presets.choice import warnings_about_presets
from proxy.protocols.generate import Generate
from proxy.protocols.named import named_protocols
from proxy.relay.client import ADDED_HEADERS, ADDED_LINES, FAILURE, KEY
from proxy.relay.endpoint import Limits, Relay
from proxy.relay.flights import Flights
from proxy.relay.headers import Header
from proxy.relay.passage import Passage
from proxy.relay.upstream import Upstream
from proxy.relay.websocket import WebSocketRelay
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.telemetry.logs import log_flights, log_request
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record

if TYPE_CHECKING:  # it imports what most do without
    from proxy.telemetry.spans import Spans

_log = logging.getLogger("proxy")

_SERVING = (Phase.READY, Phase.DEGRADED)
_DEAD = (Phase.RESTARTING, Phase.FAILED)


class Sidecar:
    """The ASGI app and, beside it, the engine.

    Relayed paths are taken before any router: FastAPI's costs as much as the relay itself.
    """

    def __init__(self, settings: Settings, spans: Spans | None = None) -> None:
        self.settings = settings
        self._spans = spans
        self._metrics = Metrics(GENERATING)
        self._state = EngineState()
        self._state.listen(self._engine_changed)
        ledger = data_directory(settings) / f"used-{settings.port}.sqlite3"
        self._door = Door(settings, ledger, self._metrics.keys.know)
        room = self._door.waiting_room()
        self._metrics.waiting(lambda: room.waiting)
        self._admission = Admission(
            self._state.refusal, self._state.wait_until_ready, _hold_seconds(settings), room
        )
        host, port = _engine_address(settings)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._probe = Probe(f"http://{authority}")
        self._poison = PoisonGuard(enabled=settings.poison_guard)
        self._flights = Flights(self._poison)
        self._engine = self._make_engine()
        self._engine_task: asyncio.Task[None] | None = None
        self._bar_task: asyncio.Task[None] | None = None
        self._engine_meter = EngineMeter(self._probe, self._state)
        self._engine_meter_task: asyncio.Task[None] | None = None
        self._gpu_meter = GpuMeter()
        self._metrics.gauges.engine = self._engine_meter.reading
        self._metrics.gauges.gpus = self._gpu_meter.readings
        self._disk_meter = DiskMeter(model_cache(settings))
        self._metrics.gauges.disk = self._disk_meter.reading
        self._metrics.gauges.price_per_hour = settings.gpu_price_per_hour
        retry_after = self._state.retry_after
        self._upstream = Upstream(host, port, authority, retry_after=retry_after)
        limits = limits_of(settings)
        passage = Passage(self._admission, self, self._flights)
        self._media = intake(settings)
        named = named_protocols(settings)
        protocols = (Generate(), *named)
        self._relay = Relay(self._upstream, passage, limits, self._media, protocols)
        self._websockets = WebSocketRelay(
            authority,
            passage,
            max_message_bytes=settings.max_body_bytes,
            retry_after=retry_after,
        )
        paths = [path for protocol in named for path in protocol.paths]
        self._routes = RouteTable(settings.extra_routes, paths)
        self._pages = Cors(settings.cors_origins)
        self._cors = self._pages if settings.cors_origins else None
        self.service = Service(settings, self._state, self._metrics, self._probe, self._hardware)
        self._own, self._scraped = own_pages(self.service, self._routes.described)
        self._metrics_port = settings.port_of_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._without_slash(scope)
        own, route = self._own, self._routes.find(scope["raw_path"])
        if self._metrics_port is not None and scope["server"][1] == self._metrics_port:
            own, route = self._scraped, None
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, route, own)
            return
        failure = scope.get(FAILURE)
        if self._cors is not None and failure is None:
            if (preflight := self._cors.preflight(scope)) is not None:
                await _answer_empty(send, preflight)
                return
            scope[ADDED_HEADERS] = self._cors.headers(scope)
        if failure is None and self._door.guarded:
            failure = self._check_in(scope, route, own)
        if failure is not None:
            await self._relay.refuse(scope, receive, send, failure, route or Route.UNKNOWN)
        elif route is not None:
            await self._relay(scope, receive, send, route)
        elif scope["path"] in own.paths:
            await own(scope, receive, send)
        else:
            text = f"There is no route {scope['method']} {scope['path'][:200]} here."
            await self._relay.refuse(scope, receive, send, UnknownRoute(text))

    def _without_slash(self, scope: Scope) -> None:
        """Pages and routes are found with a slash at their end, too."""
        raw_path: bytes = scope["raw_path"]
        if not raw_path.endswith(b"/"):
            return
        bare = scope["path"][:-1]
        if bare in self._own.paths or bare in self._scraped.paths:
            scope["path"], scope["raw_path"] = bare, raw_path[:-1]
        elif (listed := self._routes.canonical(raw_path)) != raw_path:
            scope["path"], scope["raw_path"] = bare, listed

    def _check_in(self, scope: Scope, route: Route | None, own: OwnPages) -> RequestFailure | None:
        """Why a request may not come in; else note who it is."""
        if route is None and scope["path"] in own.open_paths:
            return None
        try:
            scope[KEY], scope["headers"] = self._door.identify(scope["headers"])
            if route is not None:
                scope[ADDED_LINES] = self._door.admit(scope[KEY])
        except RequestFailure as failure:
            return failure
        return None

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, route: Route | None, own: OwnPages
    ) -> None:
        # Where a key is needed no page comes in: it can send none with a handshake.
        failure = None if self.settings.needs_key else self._pages.foreign(scope)
        if failure is None and self._door.guarded:
            failure = self._check_in(scope, route, own)
        if failure is None and route not in (Route.REALTIME, Route.EXTRA):
            failure = UnknownRoute(f"There is no WebSocket session at {scope['path'][:200]} here.")
        if failure is None and route is not None:
            await self._websockets(scope, receive, send, route)
        elif failure is not None:
            await self._websockets.refuse(scope, receive, send, failure, route or Route.UNKNOWN)

    def start(self) -> asyncio.Task[None]:
        """Start the engine; the task ends when it cannot be started any more."""
        self.announce_settings()
        self._door.start()
        if can_be_drawn(sys.stderr, os.environ):
            bar = ProgressBar(sys.stderr, lambda: self._state.snapshot)
            self._bar_task = spawn(bar.run(), name="progress bar")
        self._engine_meter_task = spawn(self._engine_meter.run(), name="engine meter")
        self._gpu_meter.start()
        if self.settings.upstream_url is None:  # else models are kept elsewhere
            self._disk_meter.start()
        self._engine_task = spawn(self._engine.run(), name="engine")
        return self._engine_task

    def announce_settings(self) -> None:
        """Log where clients come in, what a preset gave, and what looks wrong."""
        if self.settings.outside_url is not None:
            port, url = self.settings.port, self.settings.outside_url
            _log.info("port %d is reached from outside at %s", port, url)
        if self.settings.preset is not None:
            _log.info("preset: %s", self.settings.preset.sentence())
        presets = warnings_about_presets(self.settings)
        for warning in (*presets, *warnings_about(self.settings), *self._door.warnings):
            _log.warning(warning)

    def announce_stop(self) -> None:
        """Say "not ready" from now on, but go on taking requests."""
        self.service.stopping = True
        self._admission.count_anew()

    def hurry(self) -> None:
        """Do not wait for running requests any longer."""
        self._admission.hurry()

    @property
    def drained(self) -> tuple[int, int]:
        """Requests that have finished since the stop was announced, and those that were cut."""
        return self._admission.drained

    async def stop(self) -> None:
        """Take no more requests, let the running ones finish, end the engine."""
        self._admission.close()
        if self._bar_task is not None:
            self._bar_task.cancel()
        if self._engine_task is not None:
            self._engine_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._engine_task
        if self._engine_meter_task is not None:
            self._engine_meter_task.cancel()
        self._gpu_meter.stop()
        self._disk_meter.stop()
        self._upstream.close()
        await self._probe.close()
        await self._media.close()

    async def settle(self) -> None:
        """The last request is over, those that were cut too: write down what they have used."""
        await self._door.stop()

    def began(self, record: Record) -> None:
        if self._spans is not None:
            self._spans.began(record)
        self._metrics.began(record)

    def ended(self, record: Record) -> None:
        if self._spans is not None:
            self._spans.ended(record, self._metrics.model_label(record.model))
        self._metrics.ended(record)
        self.service.recent.add(record)
        self._door.charge(record.key, record.charged_tokens)
        log_request(record)

    def _make_engine(self) -> Engine | AttachedEngine:
        kind = AttachedEngine if self.settings.upstream_url else Engine
        return kind(self.settings, self._state, self._probe, self._emptied, self._flights)

    async def _emptied(self, seconds: float) -> bool:
        """Wait for running requests; those that still run then are cut off, in our own name."""
        emptied = await self._admission.emptied(seconds)
        if not emptied:
            failure = CutOff("This server was shut down before the answer was whole.")
            self._upstream.cut(failure)
            self._websockets.cut(failure)
        return emptied

    def _hardware(self) -> Hardware:
        return self._engine.hardware if isinstance(self._engine, Engine) else Hardware()

    def _engine_changed(self, before: Snapshot, after: Snapshot) -> None:
        self._metrics.served_models = after.served_names
        if after.phase is not before.phase:
            self._metrics.engine_phase(after.phase)
            self._metrics.engine_phase_seconds(before.phase, after.phase_seconds[before.phase])
        if before.phase in _SERVING and after.phase in _DEAD:
            self._engine_died()
        if after.restarts > before.restarts and after.last_restart_cause is not None:
            self._metrics.engine_restarted(after.last_restart_cause)
        if after.downloaded_bytes is not None:
            self._metrics.model_downloaded(after.downloaded_bytes)

    def _engine_died(self) -> None:
        lost = self._flights.take_lost()
        log_flights([record for record, _ in lost])
        refused = self._poison.died(print_ for _, print_ in lost if print_ is not None)
        for record, print_ in lost:
            if print_ in refused:
                _log.warning(
                    "the engine has died of this request again: refused for ten minutes",
                    extra={"fields": {"request_id": record.request_id}},
                )


def limits_of(settings: Settings) -> Limits:
    # Our own engine is told to; of one that someone else runs nobody knows what it was told.
    kept_alive = () if settings.upstream_url else (Route.CHAT, Route.COMPLETIONS)
    return Limits(
        settings.max_body_bytes,
        settings.request_timeout,
        settings.stream_idle_timeout,
        settings.sse_keep_alive_seconds,
        settings.json_heartbeat_seconds,
        kept_alive,
    )


def _hold_seconds(settings: Settings) -> float:
    """A request that is held longer than it may take in all has nothing left to do."""
    return min(settings.hold_seconds, settings.request_timeout or settings.hold_seconds)


def _engine_address(settings: Settings) -> tuple[str, int]:
    if settings.upstream_url is None:
        return "127.0.0.1", settings.upstream_port
    url = urlsplit(settings.upstream_url)
    return url.hostname or "127.0.0.1", url.port or 80


async def _answer_empty(send: Send, headers: Sequence[Header]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": list(headers)})
    await send({"type": "http.response.body"})
