"""Who answers a request, and may it come in?"""

from __future__ import annotations

import msgspec

from proxy.access.access_control import AccessControl
from proxy.access.admins import Admins
from proxy.access.cors import Cors
from proxy.access.hosts import Hosts
from proxy.access.routes import WITH_SESSIONS, Route, RouteTable
from proxy.api.built_in import BuiltInEndpoints
from proxy.errors import NoWebSocket, RequestFailure, UnknownRoute
from proxy.relay.endpoint import Relay
from proxy.server.asgi import decoded, run_asgi
from proxy.server.exchange import Exchange
from proxy.server.request import Request
from proxy.settings import Settings

_SHOWN_CHARS = 200


class Dispatch:
    """Takes each request to the relay, to one of our own endpoints, or to its refusal."""

    def __init__(
        self,
        routes: RouteTable,
        hosts: Hosts,
        cors: Cors,
        access: AccessControl,
        admins: Admins,
        relay: Relay,
        built_in: BuiltInEndpoints,
        scraped: BuiltInEndpoints,
        settings: Settings,
    ) -> None:
        """`built_in` is answered on the port of the API, `scraped` on that of the metrics."""
        self._routes = routes
        self._hosts = hosts
        self._cors = cors
        self._answers_pages = bool(settings.cors_origins)
        self._access = access
        self._admins = admins
        self._relay = relay
        self._built_in = built_in
        self._scraped = scraped
        self._metrics_port = settings.port_of_metrics
        self._needs_key = settings.needs_key

    async def __call__(self, exchange: Exchange) -> None:
        """One request: its route, the page that asks, its key and limits; then who answers."""
        request = exchange.request
        if not request.method and exchange.unreadable is not None:
            await self._relay.refuse(exchange, exchange.unreadable)
            return
        request, built_in, route = self._find(request)
        exchange.request = request
        path = decoded(request.path) if route is None else ""

        # Where a key is needed, a page that has none reads nothing, and it can send none with a
        # handshake.
        if not self._needs_key:
            failure = self._hosts.check(request.named)
            if failure is None and exchange.is_session:
                failure = self._cors.check_websocket_origin(request)
            if failure is not None:
                await self._relay.refuse(exchange, failure, route or Route.UNKNOWN)
                return
        if self._answers_pages:
            if (preflight := self._cors.preflight(request)) is not None:
                exchange.start(204, preflight)
                exchange.end(b"")
                return
            exchange.added = self._cors.lines(request)

        key = admin = None
        try:
            if route is not None or exchange.is_session:
                if self._access.guarded:
                    key = self._access.identify(request.named)
                if exchange.is_session:
                    self._check_session(request, route)
                if self._access.guarded:
                    exchange.added += self._access.admit(key)
            elif built_in.needs_admin(request.method, path):
                admin = self._admins.check(request)
            elif path not in built_in.open_paths:
                if built_in.admits_admins(path):
                    admin = self._admins.label_of(request)
                if admin is None:
                    key = self._access.identify(request.named)
        except RequestFailure as refused:
            await self._relay.refuse(exchange, refused, route or Route.UNKNOWN, key)
            return

        if route is not None:
            await self._relay(exchange, route, key)
        elif built_in.has(path):
            await run_asgi(built_in, exchange, {"key": key, "admin": admin})
        else:
            text = f"There is no route {request.method} {path[:_SHOWN_CHARS]} here."
            await self._relay.refuse(exchange, UnknownRoute(text), Route.UNKNOWN, key)

    def _check_session(self, request: Request, route: Route | None) -> None:
        """Raises UnknownRoute, NoWebSocket: this is no place for a WebSocket session."""
        path = decoded(request.path)[:_SHOWN_CHARS]
        if route is None:
            raise UnknownRoute(f"There is no WebSocket session at {path} here.")
        if route not in WITH_SESSIONS:
            raise NoWebSocket(f"{path} takes no WebSocket session, only HTTP.")

    def _find(self, request: Request) -> tuple[Request, BuiltInEndpoints, Route | None]:
        """A request, which of our own endpoints there are on its port, and its kind of work there.

        What is listed, ours or the engine's, is found with a slash at its end, too, which is taken
        off: stock vLLM redirects such a request, which many clients do not follow with their body.
        """
        path = request.path
        is_scrape = self._metrics_port is not None and request.port == self._metrics_port
        built_in = self._scraped if is_scrape else self._built_in
        route = self._routes.paths.get(path) or self._routes.find(path)
        if route is None and path.endswith(b"/"):
            bare = path[:-1]
            route = self._routes.find(bare)
            if route is not None or built_in.has(decoded(bare)):
                request = msgspec.structs.replace(request, path=bare)
        return request, built_in, None if is_scrape else route
