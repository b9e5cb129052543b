"""What runs here: versions, model, arguments, hardware, and how the start went."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy import __version__
from proxy.api.service import Service
from proxy.engine.phase import Phase
from proxy.machine.hardware import engine_version
from proxy.pool.model import ServedModel


def info_routes(service: Service) -> list[Route]:
    async def info(_: Request) -> Response:
        """Everything worth knowing about this instance; no secret is in it."""
        return JSONResponse(describe(service))

    return [Route("/info", info)]


def describe(service: Service) -> dict[str, Any]:
    settings, model = service.settings, service.models.default
    hardware = model.hardware()
    limits = {
        "max_body_mb": settings.max_body_mb,
        "max_in_flight": settings.max_in_flight,
        "max_waiting": settings.max_waiting if settings.max_in_flight else None,
        "waiting_timeout_seconds": settings.waiting_timeout if settings.max_in_flight else None,
        "body_timeout_seconds": settings.body_timeout,
        "request_timeout_seconds": settings.request_timeout,
        "stream_idle_timeout_seconds": settings.stream_idle_timeout,
        "hold_seconds": settings.hold_seconds,
        "drain_seconds": settings.drain_seconds,
    }
    media = {
        "fetched_by": "proxy" if settings.sidecar_fetches_media else "engine",
        "allowed_domains": list(settings.allowed_media_domains) or None,
        "private_addresses": settings.allow_private_media,
        "max_mb": settings.media_fetch_max_mb,
        "timeout_seconds": settings.media_fetch_timeout,
        "concurrency": settings.media_fetch_concurrency,
        "memory_mb": settings.media_memory_bytes / 1024 / 1024,
    }
    gpus = [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in hardware.gpus]
    result: dict[str, Any] = {
        "sidecar": {"version": __version__, "python": platform.python_version()},
        "uptime_seconds": round(service.uptime_seconds, 1),
        "engine": _engine(model, service.phase),
        "model": _model(model),
        "limits": _known(limits),
        "media": _known(media),
        "hardware": _known({"gpus": gpus, "driver": hardware.driver}),
    }
    if service.models.only is None:
        result["models"] = {
            each.name: {
                "status": each.status,
                "engine": _engine(each, each.state.snapshot.phase),
                "model": _model(each),
            }
            for each in service.models
        }
    return result


def _engine(model: ServedModel, phase: Phase) -> dict[str, Any]:
    now, settings = model.state.snapshot, model.settings
    return _known(
        {
            "version": engine_version() if settings.upstream_url is None else None,
            "url": settings.upstream_url,
            "phase": phase,
            "arguments": list(now.arguments) or None,
            "phase_seconds": _rounded(now.phase_seconds),
            "last_phase_seconds": now.last_phase_seconds and _rounded(now.last_phase_seconds),
            "restarts": now.restarts,
            "last_restart_cause": now.last_restart_cause,
            "cause": now.cause,
            "reason": now.reason,
            "remedy": now.remedy or None,
        }
    )


def _model(model: ServedModel) -> dict[str, Any]:
    now, settings = model.state.snapshot, model.settings
    names = now.served_names or model.names
    applied, sizing = settings.preset, model.sizing
    # What it gave, as variables.
    preset = applied and {
        "name": applied.preset.name,
        "file": applied.preset.file,
        "variables": applied.shown,
        "overruled": list(applied.overruled),
    }
    # Of each of its GPUs, or of the machine: what it takes as measured or else as declared.
    memory = sizing and _known(
        {
            "measured": sizing.footprint is not None,
            "bytes": sizing.needed_bytes,
            "kv_cache_bytes": sizing.footprint and sizing.footprint.kv_cache_bytes,
            "share": sizing.share,
        }
    )
    return _known(
        {
            "name": settings.model_name or next(iter(names), None),
            "served_names": list(names),
            "revision": now.revision,
            "path": now.model_path,
            "random_weights": True if now.demo else None,
            "preset": preset,
            "keys": list(settings.model_keys) or None,
            "gpus": list(settings.gpus) or None,
            "memory": memory,
        }
    )


def _rounded(phase_seconds: Mapping[Phase, float]) -> dict[Phase, float]:
    return {phase: round(spent, 2) for phase, spent in phase_seconds.items()}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
