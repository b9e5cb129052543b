"""What the sidecar itself answers, and on which port."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route as OwnRoute
from starlette.types import Receive, Scope, Send

from proxy import __version__
from proxy.access.routes import ListedRoute
from proxy.api.dashboard import page_router, requests_router
from proxy.api.health import health_router
from proxy.api.info import info_router
from proxy.api.metrics import metrics_router
from proxy.api.models import actions_router, models_router
from proxy.api.openapi import openapi_router
from proxy.api.service import Service
from proxy.errors import MethodNotAllowed, RequestFailure
from proxy.pool.reload import Reload
from proxy.relay.headers import request_id
from proxy.relay.refusal import refusal


class BuiltInEndpoints:
    """What the sidecar itself answers on one port: the paths in `paths`.

    Those of `open_paths` need no key: load balancers have none. Those of `admins_routers` an admin
    may ask for; by POST nobody else.
    """

    def __init__(
        self,
        *routers: APIRouter,
        open_paths: frozenset[str] = frozenset(),
        admins_routers: Iterable[APIRouter] = (),
    ) -> None:
        admins_routers = tuple(admins_routers)
        routers = (*admins_routers, *routers)
        self._app = FastAPI(title="vLLM sidecar", version=__version__, openapi_url=None)
        # Of the routers: newer versions of FastAPI no longer copy their routes into the app's.
        routes = [route for router in routers for route in _routes_of(router)]
        for route in routes:
            if "GET" in (methods := route.methods or set()):
                methods.add("HEAD")
        for router in routers:
            self._app.include_router(router)
        self._app.add_exception_handler(RequestFailure, _refused)
        self._app.add_exception_handler(405, _wrong_method)
        self.open_paths = open_paths
        self._admins = [route for router in admins_routers for route in _routes_of(router)]
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
    health, metrics, page = health_router(service), metrics_router(service), page_router()
    open_paths = frozenset(route.path for router in (health, page) for route in _routes_of(router))
    description = openapi_router(service.settings, routes, open_paths)
    pages = [
        health,
        info_router(service),
        requests_router(service),
        page,
        description,
    ]
    admins_routers = (actions_router(service, reload), models_router(service))
    scraped = BuiltInEndpoints()
    if service.settings.port_of_metrics is None:
        pages.append(metrics)
    else:
        scraped = BuiltInEndpoints(metrics)
    own = BuiltInEndpoints(*pages, open_paths=open_paths, admins_routers=admins_routers)
    return own, scraped


def _routes_of(router: APIRouter) -> list[OwnRoute]:
    return [route for route in router.routes if isinstance(route, OwnRoute)]


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
