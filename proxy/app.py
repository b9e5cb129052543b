"""The only place where the parts meet."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.access.admission import Admission
from proxy.access.cors import Cors
from proxy.access.door import Door
from proxy.access.hosts import Hosts
from proxy.access.keys import CREDENTIALS
from proxy.access.poison import PoisonGuard
from proxy.access.routes import GENERATING, Route, RouteTable
from proxy.api.service import Service
from proxy.engine.attached import AttachedEngine
from proxy.engine.lifecycle import Engine
from proxy.engine.phase import Phase
from proxy.engine.progress_bar import ProgressBar, can_be_drawn
from proxy.engine.state import EngineState, Snapshot
from proxy.errors import CutOff
from proxy.machine.disk_meter import DiskMeter
from proxy.machine.gpu_meter import GpuMeter
from proxy.machine.hardware import Hardware
from proxy.media.intake import intake
from proxy.models.fetch import data_directory, model_cache
from proxy.models.preset_choice import warnings_about_presets
from proxy.own_pages import own_pages
from proxy.protocols.generate import Generate
from proxy.protocols.named import named_protocols
from proxy.relay.endpoint import Limits, Relay
from proxy.relay.flights import Flights
from proxy.relay.passage import Passage
from proxy.relay.upstream import Upstream
from proxy.relay.websocket import WebSocketRelay
from proxy.server.dispatch import Dispatch
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.telemetry.logs import log_flights, log_request
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record
from proxy.vllm.command import warnings_about
from proxy.vllm.engine_meter import EngineMeter
from proxy.vllm.probe import Probe

if TYPE_CHECKING:  # it imports what most do without
    from proxy.telemetry.spans import Spans

_log = logging.getLogger("proxy")

_SERVING = (Phase.READY, Phase.DEGRADED)
_DEAD = (Phase.RESTARTING, Phase.FAILED)


class Sidecar:
    """All parts of one sidecar; `dispatch` answers requests."""

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
        withheld = CREDENTIALS if settings.needs_key else frozenset[bytes]()
        relay = Relay(self._upstream, passage, limits, self._media, protocols, withheld)
        self._websockets = WebSocketRelay(
            authority,
            passage,
            max_message_bytes=settings.max_body_bytes,
            withheld=withheld,
            retry_after=retry_after,
        )
        paths = [path for protocol in named for path in protocol.paths]
        routes = RouteTable(settings.extra_routes, paths)
        cors = Cors(settings.cors_origins)
        self.service = Service(settings, self._state, self._metrics, self._probe, self._hardware)
        own, scraped = own_pages(self.service, routes.described)
        self.dispatch = Dispatch(
            routes,
            Hosts(settings.allowed_hosts, settings.cors_origins),
            cors,
            self._door,
            relay,
            self._websockets,
            own,
            scraped,
            settings,
        )

    def start(self) -> asyncio.Task[None]:
        """Start the engine; the task ends when it cannot be started any more."""
        self.announce_settings()
        self._door.start()
        self._metrics.gauges.loop_lag.start()
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
        self._door.charge(record.payer, record.charged_tokens)
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
