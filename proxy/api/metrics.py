"""Two pages for Prometheus: the sidecar's own, and the engine's as it is."""

from __future__ import annotations

import httpx
from fastapi import APIRouter, Request, Response

from proxy.api.service import Service
from proxy.errors import EngineUnavailable


def metrics_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics")
    async def sidecar_page(request: Request) -> Response:
        """The sidecar's metrics, as text or OpenMetrics."""
        page, content_type = await service.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    @router.get("/metrics/engine")
    async def engine_page(model: str | None = None) -> Response:
        """vLLM's page, untouched, and alone: its `http_*` and `process_*` have no prefix.

        Of several engines that of one: the default's, or of the model of that name.
        """
        asked = service.models.named(model)
        try:
            page = await asked.probe.metrics_page()
        except httpx.HTTPError:
            refusal = asked.state.refusal()
            raise refusal or EngineUnavailable("The engine does not answer.") from None
        content_type = page.headers.get("content-type", "text/plain")
        return Response(page.content, page.status_code, headers={"content-type": content_type})

    return router
