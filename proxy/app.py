"""`build`: the only place where the parts meet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from proxy.access.access_control import AccessControl
from proxy.access.admins import Admins
from proxy.access.admission import Admission
from proxy.access.cors import Cors
from proxy.access.hosts import Hosts
from proxy.access.keys import CREDENTIALS
from proxy.access.routes import GENERATING, Route, RouteTable
from proxy.api.built_in import built_in_endpoints
from proxy.api.service import Service
from proxy.engine.state import Snapshot
from proxy.idle import PodIdle
from proxy.machine.meters import Meter, disk_meter, gpu_meter
from proxy.machine.reading import DiskReading, GpuReading
from proxy.media.resolver import media_resolver
from proxy.models.fetch import data_directory, model_cache
from proxy.models.preset_choice import load_settings
from proxy.models.several import names_of
from proxy.pool.metrics import LoadKind, TransitionMetrics, memory_of
from proxy.pool.model import ServedModel
from proxy.pool.pool import ModelPool
from proxy.pool.reload import Reload
from proxy.protocols.generate import Generate
from proxy.protocols.named import named_protocols
from proxy.relay.endpoint import Limits, Relay
from proxy.relay.lifecycle import RequestLifecycle
from proxy.server.dispatch import Dispatch
from proxy.settings import Settings
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record
from proxy.telemetry.request_log import log_request
from proxy.vllm.flags import value_of

if TYPE_CHECKING:  # it imports what most do without
    from proxy.telemetry.spans import Spans


@dataclass(frozen=True)
class Meters:
    """What reads the machine every few seconds."""

    gpu: Meter[tuple[GpuReading, ...]]
    disk: Meter[DiskReading]


@dataclass(frozen=True)
class Sidecar:
    """All parts of one sidecar, ready to start; `proxy.lifecycle` starts and ends them."""

    settings: Settings
    dispatch: Dispatch
    """Answers every request."""
    service: Service
    """What the sidecar's own endpoints read."""
    access: AccessControl
    models: ModelPool
    meters: Meters
    pod_idle: PodIdle
    spans: Spans | None


def build(
    settings: Settings, spans: Spans | None = None, environ: Mapping[str, str] = os.environ
) -> Sidecar:
    """Make the parts and connect them. Nothing runs yet. `environ` is what `settings` came from.

    Raises:
        SettingsError: the file of keys, a protocol's module or TMPDIR cannot be used.
    """
    metrics = Metrics(GENERATING, engines=())
    ledger_path = data_directory(settings) / f"used-{settings.port}.sqlite3"
    access = AccessControl(settings, ledger_path, metrics.keys.set_labels)

    is_set = is_set_of_models(settings)
    make_model = partial(_make_model, access, metrics, is_of_set=is_set)
    # Which engine is meant is known later: what keys may have is limited before that.
    admission = Admission(room=access.make_waiting_room_of_all()) if is_set else None
    models = ModelPool([make_model(each) for each in settings.models], admission)
    _follow_names(metrics, models)
    service = Service(settings, models, metrics)
    reload = Reload(
        models,
        partial(load_settings, environ),
        make_model,
        is_stopping=lambda: service.stopping,
        on_names=partial(_follow_names, metrics, models),
    )
    meters = Meters(gpu_meter(), disk_meter(model_cache(settings)))
    _connect_gauges(metrics, models)
    metrics.gauges.gpus = meters.gpu.reading
    metrics.gauges.disk = meters.disk.reading
    metrics.gauges.price_per_hour = settings.gpu_price_per_hour

    lifecycle = RequestLifecycle(
        models,
        begin_span=spans.begin if spans is not None else None,
        on_start=(metrics.requests.began,),
        on_end=tuple(_observers(spans, metrics, service, access, is_set)),
    )
    withheld = CREDENTIALS if settings.needs_key or settings.admin_keys else frozenset[bytes]()
    named = named_protocols(settings)
    folders = [value_of(each, "allowed-local-media-path") for each in settings.models]
    relay = Relay(
        models,
        lifecycle,
        limits_of(settings),
        media_resolver(settings, allow_local_files=any(folders)),
        (Generate(), *named),
        withheld,
    )
    routes = RouteTable(
        settings.extra_routes, [path for protocol in named for path in protocol.paths]
    )
    own, scraped = built_in_endpoints(service, reload, routes.listed)
    hosts, cors = Hosts(settings.allowed_hosts, settings.cors_origins), Cors(settings.cors_origins)
    admins = Admins(settings)
    dispatch = Dispatch(routes, hosts, cors, access, admins, relay, own, scraped, settings)
    pod_idle = PodIdle(settings, models.idle_seconds)
    return Sidecar(settings, dispatch, service, access, models, meters, pod_idle, spans)


def is_set_of_models(settings: Settings) -> bool:
    """Whether a request has to say which model it is for, and who asks."""
    return bool(settings.is_of_set or settings.model_keys)


def _make_model(
    access: AccessControl,
    metrics: Metrics,
    settings: Settings,
    *,
    is_of_set: bool,
) -> ServedModel:
    """All that is one model's own, and what counts it. Nothing runs yet."""
    if is_of_set:
        model = ServedModel(settings, access.make_waiting_room_of(settings), names_of(settings))
    else:
        model = ServedModel(settings, access.make_waiting_room())
        model.places_of = access.places_of_only
    model.state.listen(partial(_count_change, metrics, model.name))
    metrics.add_engine(model.name)
    if settings.upstream_url is None:
        kinds = LoadKind if settings.sleeps else (LoadKind.COLD,)
        TransitionMetrics(metrics.families).add_model(model.name, kinds)
        model.admit_load = access.admit_load
    return model


def _follow_names(metrics: Metrics, models: ModelPool) -> None:
    if models.only is None:  # else its engine says them
        # A request by a name that is dropped goes on until its engine ends.
        names = [name for each in models.all for name in each.names]
        before = [name for each in models.all for name in names_of(each.settings)]
        metrics.requests.served_models = tuple(dict.fromkeys([*names, *before]))


def _connect_gauges(metrics: Metrics, models: ModelPool) -> None:
    def on_ended(model: ServedModel) -> None:
        _follow_names(metrics, models)
        if model.is_removed:
            metrics.remove_engine(model.name)

    models.on_ended = on_ended
    gauges = metrics.gauges
    gauges.engines = lambda: [(each.name, each.meter.reading()) for each in models]
    gauges.waiting = lambda: _waiting(models)
    if models.only is None or models.scheduler is not None:
        gauges.models = lambda: [(each.name, each.status) for each in models]
    if models.scheduler is not None:
        models.scheduler.observers.append(TransitionMetrics(metrics.families))
        gauges.model_memory = lambda: memory_of(each.view for each in models if each.is_measured)


def _waiting(models: ModelPool) -> Iterator[tuple[str, int]]:
    for each in models:
        yield each.name, each.admission.waiting
    if models.only is None:
        # What its key may have at once, a request waits for before its model is known.
        yield "", models.admission.places_waiting


def _observers(
    spans: Spans | None, metrics: Metrics, service: Service, access: AccessControl, is_set: bool
) -> Iterator[Callable[[Record], None]]:
    """What is done with each record that is finished, in this order."""

    def end_span(record: Record) -> None:
        assert spans is not None
        spans.end(record, metrics.requests.model_label(record.model))

    def charge(record: Record) -> None:
        access.charge(record.payer, record.charged_tokens)

    if spans is not None:
        yield end_span
    yield metrics.requests.ended
    if is_set:
        yield metrics.waited
    if access.guarded:
        yield from (metrics.keys.add, charge)
    yield from (service.recent.add, log_request)


def _count_change(metrics: Metrics, model: str, before: Snapshot, after: Snapshot) -> None:
    """Count a change of an engine's state; `model` is its name where there are several."""
    if not model:
        metrics.requests.served_models = after.served_names
    if after.phase is not before.phase:
        metrics.engine_phase(after.phase, model)
        metrics.engine_phase_seconds(before.phase, after.phase_seconds[before.phase], model)
    if after.restarts > before.restarts and after.last_restart_cause is not None:
        metrics.engine_restarted(after.last_restart_cause, model)
    if after.downloaded_bytes is not None:
        metrics.model_downloaded(after.downloaded_bytes, model)


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
