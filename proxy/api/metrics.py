"""Two pages for Prometheus: the sidecar's own, and the engine's as it is."""

from __future__ import annotations

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.api.service import Service
from proxy.errors import EngineUnavailable


def metrics_routes(service: Service) -> list[Route]:
    async def sidecar_page(request: Request) -> Response:
        """The sidecar's metrics, as text or OpenMetrics."""
        page, content_type = await service.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    async def engine_page(request: Request) -> Response:
        """vLLM's page, untouched, and alone: its `http_*` and `process_*` have no prefix.

        Of several engines that of one: the default's, or of the model of that name.
        """
        asked = service.models.named(request.query_params.get("model"))
        try:
            page = await asked.probe.metrics_page()
        except httpx.HTTPError:
            refusal = asked.state.refusal()
            raise refusal or EngineUnavailable("The engine does not answer.") from None
        content_type = page.headers.get("content-type", "text/plain")
        return Response(page.content, page.status_code, headers={"content-type": content_type})

    return [Route("/metrics", sidecar_page), Route("/metrics/engine", engine_page)]
