"""The only place where the parts meet."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from starlette.routing import Route as OwnRoute
from starlette.types import Receive, Scope, Send

from proxy import __version__
from proxy.api.health import health_router
from proxy.api.info import info_router
from proxy.api.metrics import metrics_router
from proxy.api.service import Service
from proxy.edge.admission import Admission
from proxy.edge.routes import Route, RouteTable
from proxy.engine.attached import AttachedEngine
from proxy.engine.command import warnings_about
from proxy.engine.hardware import Hardware
from proxy.engine.lifecycle import Engine
from proxy.engine.probe import Probe
from proxy.engine.state import EngineState, Snapshot
from proxy.errors import MethodNotAllowed, RequestFailure, UnknownRoute
from proxy.relay.endpoint import Limits, Relay
from proxy.relay.headers import request_id
from proxy.relay.passage import Passage
from proxy.relay.refusal import refusal
from proxy.relay.upstream import Upstream
from proxy.relay.websocket import WebSocketRelay
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.telemetry.logs import log_request
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record

_log = logging.getLogger("proxy")


class Sidecar:
    """The ASGI app and, beside it, the engine.

    Relayed paths are taken before any router: FastAPI's costs as much as the relay itself.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._metrics = Metrics()
        self._state = EngineState()
        self._state.listen(self._engine_changed)
        self._admission = Admission(
            self._state.refusal, self._state.wait_until_ready, settings.hold_seconds
        )
        host, port = _engine_address(settings)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._probe = Probe(f"http://{authority}")
        self._engine = self._make_engine()
        self._engine_task: asyncio.Task[None] | None = None
        self._upstream = Upstream(host, port, authority)
        limits = Limits(
            settings.max_body_bytes, settings.request_timeout, settings.stream_idle_timeout
        )
        passage = Passage(self._admission, self)
        self._relay = Relay(self._upstream, passage, limits)
        self._websockets = WebSocketRelay(
            authority, passage, max_message_bytes=settings.max_body_bytes
        )
        self._routes = RouteTable(settings.extra_routes)
        self.service = Service(settings, self._state, self._metrics, self._probe, self._hardware)
        self._own = _own_endpoints(self.service)
        self._own_paths = {route.path for route in self._own.routes if isinstance(route, OwnRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.find(scope["raw_path"])
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, route)
        elif route is not None:
            await self._relay(scope, receive, send, route)
        elif scope["path"] in self._own_paths:
            await self._own(scope, receive, send)
        else:
            text = f"There is no route {scope['method']} {scope['path'][:200]} here."
            await self._relay.refuse(scope, receive, send, UnknownRoute(text))

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, route: Route | None
    ) -> None:
        if route in (Route.REALTIME, Route.EXTRA):
            await self._websockets(scope, receive, send, route)
        else:
            await send({"type": "websocket.close"})  # the server makes this a 403

    def start(self) -> asyncio.Task[None]:
        """Start the engine; the task ends when it cannot be started any more."""
        for warning in warnings_about(self.settings):
            _log.warning(warning)
        self._engine_task = spawn(self._engine.run(), name="engine")
        return self._engine_task

    def announce_stop(self) -> None:
        """Say "not ready" from now on, but go on taking requests."""
        self.service.stopping = True

    async def stop(self) -> None:
        """Take no more requests, let the running ones finish, end the engine."""
        self._admission.close()
        if self._engine_task is not None:
            self._engine_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._engine_task
        self._upstream.close()
        await self._probe.close()

    def began(self, record: Record) -> None:
        self._metrics.began(record)

    def ended(self, record: Record) -> None:
        self._metrics.ended(record)
        log_request(record)

    def _make_engine(self) -> Engine | AttachedEngine:
        kind = AttachedEngine if self.settings.upstream_url else Engine
        return kind(self.settings, self._state, self._probe, self._admission.emptied)

    def _hardware(self) -> Hardware:
        return self._engine.hardware if isinstance(self._engine, Engine) else Hardware()

    def _engine_changed(self, before: Snapshot, after: Snapshot) -> None:
        self._metrics.served_models = after.served_names
        if after.phase is not before.phase:
            self._metrics.engine_phase(after.phase)
            self._metrics.engine_phase_seconds(before.phase, after.phase_seconds[before.phase])
        if after.restarts > before.restarts and after.last_restart_cause is not None:
            self._metrics.engine_restarted(after.last_restart_cause)
        if after.downloaded_bytes is not None:
            self._metrics.model_downloaded(after.downloaded_bytes)


def _engine_address(settings: Settings) -> tuple[str, int]:
    if settings.upstream_url is None:
        return "127.0.0.1", settings.upstream_port
    url = urlsplit(settings.upstream_url)
    return url.hostname or "127.0.0.1", url.port or 80


def _own_endpoints(service: Service) -> FastAPI:
    """Health, info and metrics."""
    app = FastAPI(title="vLLM sidecar", version=__version__, openapi_url=None)
    for router in (health_router(service), info_router(service), metrics_router(service)):
        app.include_router(router)

    @app.exception_handler(RequestFailure)
    async def refused(request: Request, failure: Exception) -> Response:
        assert isinstance(failure, RequestFailure)
        status, headers, body = refusal(failure, None, request_id(request.scope["headers"]))
        return Response(body, status, {key.decode(): value.decode() for key, value in headers})

    @app.exception_handler(405)
    async def wrong_method(request: Request, failure: Exception) -> Response:
        text = f"{request.url.path} does not take {request.method}; it takes GET."
        return await refused(request, MethodNotAllowed(text))

    return app
