"""`build`: the only place where the parts meet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.access.admission import Admission
from proxy.access.cors import Cors
from proxy.access.door import Door
from proxy.access.hosts import Hosts
from proxy.access.keys import CREDENTIALS
from proxy.access.poison import PoisonGuard
from proxy.access.routes import GENERATING, Route, RouteTable
from proxy.api.built_in import built_in_endpoints
from proxy.api.service import Service
from proxy.engine.attached import AttachedEngine
from proxy.engine.lifecycle import Engine
from proxy.engine.phase import Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.engine.supervisor import Drained, Supervisor
from proxy.errors import CutOff
from proxy.idle import PodIdle
from proxy.machine.disk_meter import DiskMeter
from proxy.machine.gpu_meter import GpuMeter
from proxy.machine.hardware import Hardware
from proxy.media.intake import intake
from proxy.models.fetch import data_directory, model_cache
from proxy.preflight.vllm_server import VllmServer
from proxy.protocols.generate import Generate
from proxy.protocols.named import named_protocols
from proxy.protocols.protocol import Protocol
from proxy.relay.endpoint import Limits, Relay
from proxy.relay.in_flight import InFlightRequests
from proxy.relay.lifecycle import RequestLifecycle
from proxy.relay.upstream import Upstream
from proxy.relay.websocket import WebSocketRelay
from proxy.server.dispatch import Dispatch
from proxy.settings import Settings
from proxy.telemetry.logs import log_in_flight, log_request
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record
from proxy.vllm.engine_meter import EngineMeter
from proxy.vllm.probe import Probe

if TYPE_CHECKING:  # it imports what most do without
    from proxy.telemetry.spans import Spans

_log = logging.getLogger("proxy")

_SERVING = (Phase.READY, Phase.DEGRADED)
_DEAD = (Phase.RESTARTING, Phase.FAILED)


@dataclass(frozen=True)
class Meters:
    """What reads gauges every few seconds."""

    engine: EngineMeter
    gpu: GpuMeter
    disk: DiskMeter


@dataclass(frozen=True)
class Sidecar:
    """All parts of one sidecar, ready to start; `proxy.lifecycle` starts and ends them."""

    settings: Settings
    dispatch: Dispatch
    """Answers every request."""
    service: Service
    """What the sidecar's own endpoints read."""
    door: Door
    admission: Admission
    upstream: Upstream
    websockets: WebSocketRelay
    engine: Supervisor
    probe: Probe
    meters: Meters
    pod_idle: PodIdle
    spans: Spans | None


def build(settings: Settings, spans: Spans | None = None) -> Sidecar:
    """Make the parts and connect them. Nothing runs yet.

    Raises:
        SettingsError: the file of keys or a protocol's module cannot be used.
    """
    metrics = Metrics(GENERATING)
    state = EngineState()
    host, port = _engine_address(settings)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    door = Door(settings, _ledger_path(settings), metrics.keys.set_labels)
    room = door.waiting_room()
    metrics.gauges.waiting = lambda: room.waiting
    admission = Admission(state.refusal, state.wait_until_ready, _hold_seconds(settings), room)

    poison = PoisonGuard(enabled=settings.poison_guard)
    in_flight = InFlightRequests(poison)
    state.listen(partial(_count_change, metrics))
    state.listen(partial(_tell_lost_requests, in_flight, poison))

    upstream = Upstream(host, port, authority, retry_after=state.retry_after)
    probe = Probe(f"http://{authority}")

    async def drained(seconds: float) -> bool:
        """Wait for running requests; cut those that still run then."""
        is_drained = await admission.emptied(seconds)
        if not is_drained:
            failure = CutOff("This server was shut down before the answer was whole.")
            upstream.cut(failure)
            websockets.cut(failure)
        return is_drained

    engine, hardware = _engine(settings, state, probe, drained, in_flight)
    service = Service(settings, state, metrics, probe, hardware)
    meters = Meters(EngineMeter(probe, state), GpuMeter(), DiskMeter(model_cache(settings)))
    metrics.gauges.engine = meters.engine.reading
    metrics.gauges.gpus = meters.gpu.readings
    metrics.gauges.disk = meters.disk.reading
    metrics.gauges.price_per_hour = settings.gpu_price_per_hour

    lifecycle = RequestLifecycle(
        admission,
        in_flight,
        on_start=(spans.start, metrics.request_started)
        if spans is not None
        else (metrics.request_started,),
        on_end=_observers(spans, metrics, service, door),
    )
    withheld = CREDENTIALS if settings.needs_key else frozenset[bytes]()
    named = named_protocols(settings)
    relay = Relay(
        upstream, lifecycle, limits_of(settings), intake(settings), (Generate(), *named), withheld
    )
    websockets = WebSocketRelay(
        authority,
        lifecycle,
        max_message_bytes=settings.max_body_bytes,
        withheld=withheld,
        retry_after=state.retry_after,
    )
    dispatch = _dispatch(settings, service, door, relay, websockets, named)
    return Sidecar(
        settings,
        dispatch,
        service,
        door,
        admission,
        upstream,
        websockets,
        engine,
        probe,
        meters,
        PodIdle(settings, partial(_idle_seconds, admission, state)),
        spans,
    )


def _engine(
    settings: Settings, state: EngineState, probe: Probe, drained: Drained, work: InFlightRequests
) -> tuple[Supervisor, Callable[[], Hardware]]:
    """What takes care of the engine, and the machine it runs on, as far as that is ours."""
    if settings.upstream_url:
        return AttachedEngine(settings, state, probe, drained, work), Hardware
    server = VllmServer(settings, state, probe)
    return Engine(settings, state, server, drained, work), lambda: server.hardware


def _dispatch(
    settings: Settings,
    service: Service,
    door: Door,
    relay: Relay,
    websockets: WebSocketRelay,
    named: Sequence[Protocol],
) -> Dispatch:
    """`named` are the protocols of PROTOCOLS."""
    routes = RouteTable(
        settings.extra_routes, [path for protocol in named for path in protocol.paths]
    )
    own, scraped = built_in_endpoints(service, routes.listed)
    hosts, cors = Hosts(settings.allowed_hosts, settings.cors_origins), Cors(settings.cors_origins)
    return Dispatch(routes, hosts, cors, door, relay, websockets, own, scraped, settings)


def _observers(
    spans: Spans | None, metrics: Metrics, service: Service, door: Door
) -> tuple[Callable[[Record], None], ...]:
    """What is done with each record that is finished, in this order."""

    def end_span(record: Record) -> None:
        assert spans is not None
        spans.end(record, metrics.model_label(record.model))

    def charge(record: Record) -> None:
        door.charge(record.payer, record.charged_tokens)

    observers = (metrics.request_ended, service.recent.add, charge, log_request)
    return (end_span, *observers) if spans is not None else observers


def _count_change(metrics: Metrics, before: Snapshot, after: Snapshot) -> None:
    """Count a change of the engine's state."""
    metrics.served_models = after.served_names
    if after.phase is not before.phase:
        metrics.engine_phase(after.phase)
        metrics.engine_phase_seconds(before.phase, after.phase_seconds[before.phase])
    if after.restarts > before.restarts and after.last_restart_cause is not None:
        metrics.engine_restarted(after.last_restart_cause)
    if after.downloaded_bytes is not None:
        metrics.model_downloaded(after.downloaded_bytes)


def _tell_lost_requests(
    in_flight: InFlightRequests, poison: PoisonGuard, before: Snapshot, after: Snapshot
) -> None:
    """The engine has died: log the requests that it has lost, and suspect them."""
    if not (before.phase in _SERVING and after.phase in _DEAD):
        return
    lost = in_flight.pop_lost()
    log_in_flight([record for record, _ in lost])
    refused = poison.died(fingerprint for _, fingerprint in lost if fingerprint is not None)
    for record, fingerprint in lost:
        if fingerprint in refused:
            _log.warning(
                "the engine has died of this request again: refused for ten minutes",
                extra={"fields": {"request_id": record.request_id}},
            )


def _idle_seconds(admission: Admission, state: EngineState) -> float:
    """How long there has been no request, 0 while the engine starts."""
    snapshot, idle_since = state.snapshot, admission.idle_since()
    if idle_since is None or snapshot.phase not in (*_SERVING, Phase.FAILED):
        return 0.0
    return monotonic() - max(idle_since, snapshot.since)


def limits_of(settings: Settings) -> Limits:
    # Our own engine has the flag for it; the flags of one that someone else runs are not known.
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


def _ledger_path(settings: Settings) -> Path:
    return data_directory(settings) / f"used-{settings.port}.sqlite3"


def _engine_address(settings: Settings) -> tuple[str, int]:
    if settings.upstream_url is None:
        return "127.0.0.1", settings.upstream_port
    url = urlsplit(settings.upstream_url)
    return url.hostname or "127.0.0.1", url.port or 80
