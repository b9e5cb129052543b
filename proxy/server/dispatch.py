"""Who answers a request, and may it come in?"""

from __future__ import annotations

from proxy.edge.cors import Cors
from proxy.edge.door import Door
from proxy.edge.routes import Route, RouteTable
from proxy.errors import RequestFailure, UnknownRoute
from proxy.own_pages import OwnPages
from proxy.relay.endpoint import Relay
from proxy.server.asgi import decoded, run_asgi
from proxy.server.exchange import Exchange

_SHOWN_CHARS = 200


class Dispatch:
    """Takes each request to the relay, to one of our own endpoints, or to its refusal."""

    def __init__(
        self,
        routes: RouteTable,
        cors: Cors | None,
        door: Door,
        relay: Relay,
        own: OwnPages,
        scraped: OwnPages,
        metrics_port: int | None,
    ) -> None:
        """`own` is answered on the port of the API, `scraped` on `metrics_port`."""
        self._routes = routes
        self._cors = cors
        self._door = door
        self._relay = relay
        self._own = own
        self._scraped = scraped
        self._metrics_port = metrics_port

    async def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        if exchange.unreadable is not None:
            await self._relay.refuse(exchange, exchange.unreadable)
            return
        own, route = self._own, self._routes.find(request.path)
        if self._metrics_port is not None and request.port == self._metrics_port:
            own, route = self._scraped, None
        path = decoded(request.path) if route is None else ""

        if self._cors is not None:
            if (preflight := self._cors.preflight(request)) is not None:
                exchange.start(204, preflight)
                exchange.end(b"")
                return
            exchange.added = self._cors.lines(request)

        key = None
        if self._door.guarded and not (route is None and path in own.open_paths):
            try:
                key = self._door.identify(request.named)
                if route is not None:
                    exchange.added += self._door.admit(key)
            except RequestFailure as failure:
                await self._relay.refuse(exchange, failure, route or Route.UNKNOWN, key)
                return

        if route is not None:
            await self._relay(exchange, route, key)
        elif path in own.paths:
            await run_asgi(own, exchange)
        else:
            text = f"There is no route {request.method} {path[:_SHOWN_CHARS]} here."
            await self._relay.refuse(exchange, UnknownRoute(text), Route.UNKNOWN, key)
