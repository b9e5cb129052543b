"""How the service is, for people, load balancers and Kubernetes."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.api.service import Service
from proxy.engine.phase import Phase
from proxy.pool.model import ServedModel

_STATUS = {
    Phase.READY: "ready",
    Phase.DEGRADED: "degraded",
    Phase.DRAINING: "draining",
    Phase.FAILED: "failed",
    Phase.STOPPED: "stopped",
    Phase.ASLEEP: "asleep",
}
_STARTING = "starting"


def health_routes(service: Service) -> list[Route]:
    """They answer from a snapshot, in microseconds, whatever the engine does."""

    def answer(*, good: bool) -> JSONResponse:
        refusal = None if good else service.state.refusal()
        headers = {}
        if refusal is not None and refusal.retry_after_seconds is not None:
            headers["retry-after"] = str(refusal.retry_after_seconds)
        return JSONResponse(describe(service), status_code=200 if good else 503, headers=headers)

    async def ping(_: Request) -> Response:
        """RunPod's load balancer: 200 ready, or loaded again by the next request; 204 starting;
        anything else takes the worker out."""
        if service.ready:
            return Response(status_code=200)
        status = _STATUS.get(service.phase, _STARTING)
        # A 204 with a body would break the connection for the next request.
        return Response(status_code=204) if status is _STARTING else answer(good=False)

    async def ready(_: Request) -> Response:
        """200 when the engine has generated a token, also where its model is unloaded now and is
        loaded again by the next request; else 503 and why."""
        return answer(good=service.ready)

    async def live(_: Request) -> Response:
        """503 only where a restart of the container is what helps: no engine can be started any
        more. Never for loading."""
        phases = [each.state.snapshot.phase for each in service.models]
        return answer(good=any(phase is not Phase.FAILED for phase in phases))

    async def model(request: Request) -> Response:
        """200 when the model is loaded; of several the one of that name, else the default."""
        asked = service.models.named(request.query_params.get("model"))
        is_loaded = asked.state.snapshot.model_loaded
        if asked is service.models.default:
            return answer(good=is_loaded)
        return JSONResponse(describe_model(asked), status_code=200 if is_loaded else 503)

    pages = {
        # First, so that it also wins on a path of ours: HEALTH_CHECK_PATH=/health.
        ping: (service.settings.health_check_path,),
        ready: ("/health", "/health/ready", "/readyz", "/health/startup", "/startupz"),
        live: ("/health/live", "/livez"),
        model: ("/health/model",),
    }
    return [Route(path, page) for page, paths in pages.items() for path in paths]


def describe(service: Service) -> dict[str, Any]:
    """The body of `/health`; what is not known is left out."""
    now = service.snapshot
    left = now.seconds_left
    status: str = _STATUS.get(service.phase, _STARTING)
    if service.is_between_loads:
        status = service.models.default.status
    transfer: dict[str, Any] = {}
    if service.phase is Phase.DOWNLOADING:  # these are not known before its first byte
        rate = now.bytes_per_second
        transfer = {
            "downloaded_bytes": now.downloaded_bytes,
            "download_bytes": now.download_bytes,
            "bytes_per_second": None if rate is None else round(rate),
        }
    values = {
        "status": status,
        "model": service.model,
        "phase": service.phase,
        "progress": None if now.progress is None else round(now.progress, 3),
        "eta_seconds": None if left is None else round(left, 1),
        **transfer,
        "reason": now.reason,
        "remedy": now.remedy or None,
        "uptime_seconds": round(service.uptime_seconds, 1),
        "models": None
        if service.models.only
        else {each.name: describe_model(each) for each in service.models},
    }
    return {name: value for name, value in values.items() if value is not None}


def describe_model(model: ServedModel) -> dict[str, Any]:
    """The entry of one of several models; what is not known is left out."""
    now = model.state.snapshot
    left = now.seconds_left
    values = {
        "status": model.status,
        "phase": now.phase,
        "progress": None if now.progress is None else round(now.progress, 3),
        "eta_seconds": None if left is None else round(left, 1),
        "reason": now.reason,
        "remedy": now.remedy or None,
        "in_flight": model.admission.in_flight,
        "waiting": model.admission.waiting,
    }
    return {name: value for name, value in values.items() if value is not None}
