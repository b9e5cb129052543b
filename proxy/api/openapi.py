"""What this server answers, described: its own pages, and the engine's routes that it passes on.

The pages stand in `openapi.json` as they are by default; the settings say what is different. Of the
engine's routes only what the sidecar itself does is described: the rest is vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Response

from proxy import __version__
from proxy.access.routes import ANTHROPIC, TRANSLATED, Route
from proxy.settings import Settings

PATH = "/openapi.json"
_FILE = Path(__file__).with_name("openapi.json")
_METRICS = ("/metrics", "/metrics/engine")
_GET = (Route.MODELS, Route.VERSION, Route.REALTIME)
_ONE_MODEL = "/v1/models/{model}"
_WITHOUT_BODY = ("/v1/responses/{response_id}/cancel",)
# Statuses that the engine itself answers with, too, in shapes of its own.
_SHARED = (400, 422, 500, 503)
# Why the sidecar does not ask the engine, or has no answer of it to pass on.
REFUSALS = {
    400: "What came is not HTTP, or points at media that may not or cannot be fetched.",
    401: "No API key, or not one of this server's.",
    403: "A web page that ALLOWED_HOSTS, or CORS_ORIGINS for a WebSocket, does not allow.",
    408: "The rest of the request did not come in time.",
    413: "The body is larger than MAX_BODY_MB.",
    422: "The engine has died of this request, twice.",
    426: "A WebSocket handshake on a path that is asked by HTTP only.",
    429: "The key, or all together, have used what they may.",
    431: "The head is too large.",
    500: "A fault of the sidecar's.",
    502: "The engine died, or sent what is not HTTP.",
    503: "The engine is not ready or cannot be reached, or there is no place at it.",
    504: "The engine took too long.",
}


def openapi_router(
    settings: Settings, routes: Mapping[str, Route], open_paths: Iterable[str]
) -> APIRouter:
    page = Response(
        msgspec.json.encode(described(settings, routes, frozenset(open_paths))),
        media_type="application/json",
    )
    router = APIRouter(tags=["info"])

    @router.get(PATH)
    async def description() -> Response:
        """All that this server answers, as OpenAPI 3.1."""
        return page

    return router


def described(
    settings: Settings, routes: Mapping[str, Route], open_paths: frozenset[str]
) -> dict[str, Any]:
    """The whole document, for a server with these settings, which asks the engine at `routes`;
    `open_paths` need no key."""
    document: dict[str, Any] = msgspec.json.decode(_FILE.read_bytes())
    document["info"]["version"] = __version__
    pages = document["paths"]
    ping = pages.pop("/ping")
    pages[settings.health_check_path] = ping
    if settings.port_of_metrics is not None:
        for path in _METRICS:
            del pages[path]
    if settings.needs_key:
        document["security"] = [{name: []} for name in document["components"]["securitySchemes"]]
        for path, page in pages.items():
            _say_who_may(page["get"], is_open=path in open_paths)
    document["paths"] = pages | {path: _item(path, route) for path, route in routes.items()}
    return document


def _say_who_may(page: dict[str, Any], *, is_open: bool) -> None:
    if is_open:
        page["security"] = []
    else:
        page["responses"]["401"] = _refusal(401, Route.UNKNOWN)


def _item(path: str, route: Route) -> dict[str, Any]:
    """What a path of the engine's takes; of those that are not known, both ways of asking."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    item: dict[str, Any] = {"parameters": list(map(_parameter, names))} if names else {}
    if route in _GET or names:
        methods = ["post" if path in _WITHOUT_BODY else "get"]
    else:
        methods = ["get", "post"] if route is Route.EXTRA else ["post"]
    return item | {method: _operation(path, route, method) for method in methods}


def _parameter(name: str) -> dict[str, Any]:
    pattern = "^resp_[A-Za-z0-9_-]+$" if name == "response_id" else "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    schema = {"type": "string", "pattern": pattern, "maxLength": 256}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _operation(path: str, route: Route, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": f"{_way(path, route)} ({route}).",
        "tags": ["engine"],
        "responses": {
            "default": {"description": f"The engine's answer, {_way_back(path, route)}."},
            **{str(status): _refusal(status, route) for status in _refused_with(route)},
        },
    }
    if route is Route.REALTIME:
        operation["responses"]["101"] = {"description": "A WebSocket session with the engine."}
    if method == "post" and path not in _WITHOUT_BODY:
        kind = "multipart/form-data" if route is Route.AUDIO else "application/json"
        operation["requestBody"] = {"content": {kind: {"schema": {"type": "object"}}}}
    return operation


def _refused_with(route: Route) -> Iterator[int]:
    """A page's session is refused; of its other requests the browser decides, by CORS headers."""
    takes_sessions = route in (Route.REALTIME, Route.EXTRA)
    return (status for status in REFUSALS if status != 403 or takes_sessions)


def _way(path: str, route: Route) -> str:
    if path == _ONE_MODEL:
        return "One entry of the engine's list"
    return "Translated to the engine" if route in TRANSLATED else "Passed on to the engine"


def _way_back(path: str, route: Route) -> str:
    if path == _ONE_MODEL:
        return "the entry of this name"
    return "translated" if route in TRANSLATED else "byte for byte"


def _refusal(status: int, route: Route) -> dict[str, Any]:
    if route is Route.GENERATE:
        name = "RefusedGenerate"
    elif route is Route.PROTOCOL:
        name = "RefusedProtocol"
    elif status in _SHARED:
        name = "RefusedOrPassedOn"
    else:
        name = "RefusedAnthropic" if route in ANTHROPIC else "Refused"
    return {"$ref": f"#/components/responses/{name}", "description": REFUSALS[status]}
