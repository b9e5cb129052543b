"""What the sidecar itself answers, and on which port."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy.access.routes import ListedRoute
from proxy.api.dashboard import page_routes, requests_routes
from proxy.api.health import health_routes
from proxy.api.info import info_routes
from proxy.api.metrics import metrics_routes
from proxy.api.models import action_routes, models_routes
from proxy.api.openapi import openapi_routes
from proxy.api.service import Service
from proxy.errors import MethodNotAllowed, RequestFailure
from proxy.pool.reload import Reload
from proxy.relay.headers import request_id
from proxy.relay.refusal import refusal


class BuiltInEndpoints:
    """What the sidecar itself answers on one port: the paths in `paths`.

    Those of `open_paths` need no key: load balancers have none. Those of `admins` an admin may ask
    for; by POST nobody else.
    """

    def __init__(
        self,
        routes: Iterable[Route] = (),
        open_paths: frozenset[str] = frozenset(),
        admins: Iterable[Route] = (),
    ) -> None:
        self._admins = list(admins)
        routes = [*self._admins, *routes]
        self._app = Starlette(
            routes=routes, exception_handlers={RequestFailure: _refused, 405: _wrong_method}
        )
        self.open_paths = open_paths
        self.paths = {route.path_format for route in routes}
        """As OpenAPI writes them."""
        self._named = [route for route in routes if route.param_convertors]

    def has(self, path: str) -> bool:
        return path in self.paths or any(each.path_regex.match(path) for each in self._named)

    def admits_admins(self, path: str) -> bool:
        return any(each.path_regex.match(path) for each in self._admins)

    def needs_admin(self, method: str, path: str) -> bool:
        return method == "POST" and any(
            each.path_regex.match(path) and method in (each.methods or ()) for each in self._admins
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def built_in_endpoints(
    service: Service, reload: Reload, routes: Mapping[str, ListedRoute]
) -> tuple[BuiltInEndpoints, BuiltInEndpoints]:
    """Those of the API's port, and those of `METRICS_PORT`: metrics are in one place only.

    `routes` are the engine's, for the description.
    """
    open_routes = [*health_routes(service), *page_routes()]
    open_paths = frozenset(route.path for route in open_routes)
    pages = [
        *open_routes,
        *info_routes(service),
        *requests_routes(service),
        *openapi_routes(service.settings, routes, open_paths),
    ]
    metrics = metrics_routes(service)
    admins = [*action_routes(service, reload), *models_routes(service)]
    if service.settings.port_of_metrics is None:
        return BuiltInEndpoints([*pages, *metrics], open_paths, admins), BuiltInEndpoints()
    return BuiltInEndpoints(pages, open_paths, admins), BuiltInEndpoints(metrics)


async def _refused(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, RequestFailure)
    status, headers, body = refusal(failure, request_id(dict(request.scope["headers"])))
    return Response(body, status, {key.decode(): value.decode() for key, value in headers})


async def _wrong_method(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, HTTPException)
    # Starlette joins a set, whose order is another one in each process.
    allowed = ", ".join(sorted((failure.headers or {}).get("Allow", "GET").split(", ")))
    text = f"{request.url.path} does not take {request.method}; it takes {allowed}."
    wrong = MethodNotAllowed(text)
    wrong.headers = ((b"allow", allowed.encode()),)
    return await _refused(request, wrong)
