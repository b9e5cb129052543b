"""What this server answers, described: its own pages, and the engine's routes that it passes on.

The pages stand in `openapi.json` as they are by default; the settings say what is different. Of the
engine's routes only what the sidecar itself does is described: the rest is vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route as BuiltInRoute

from proxy import __version__
from proxy.access.routes import ListedRoute, Route, RouteSpec
from proxy.settings import Settings

PATH = "/openapi.json"
_FILE = Path(__file__).with_name("openapi.json")
_METRICS = ("/metrics", "/metrics/engine")
_ONE_MODEL = "/v1/models/{model}"
# Of what stands in a path.
_PATTERNS = {
    "model": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
    "response_id": "^resp_[A-Za-z0-9_-]+$",
}
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


def openapi_routes(
    settings: Settings, routes: Mapping[str, ListedRoute], open_paths: frozenset[str]
) -> list[BuiltInRoute]:
    """All that this server answers, as OpenAPI 3.1."""
    document = msgspec.json.encode(described(settings, routes, open_paths))
    page = Response(document, media_type="application/json")
    return [BuiltInRoute(PATH, page, methods=["GET"])]


def described(
    settings: Settings, routes: Mapping[str, ListedRoute], open_paths: frozenset[str]
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
    schemes: list[dict[str, list[str]]] = [
        {name: []} for name in document["components"]["securitySchemes"]
    ]
    if settings.needs_key:
        document["security"] = schemes
    for path, page in pages.items():
        if "post" in page:  # an order of an operator
            page["post"]["security"] = schemes if settings.admin_keys else []
        elif settings.needs_key:
            if path in open_paths:
                page["get"]["security"] = []
            else:
                page["get"]["responses"]["401"] = {
                    "$ref": "#/components/responses/Refused",
                    "description": REFUSALS[401],
                }
    for path, (spec, endpoint) in routes.items():  # what the engine's paths take
        item: dict[str, Any] = {}
        for name in (part[1:-1] for part in path.split("/") if part.startswith("{")):
            schema = {"type": "string", "pattern": _PATTERNS[name], "maxLength": 256}
            parameter = {"name": name, "in": "path", "required": True, "schema": schema}
            item.setdefault("parameters", []).append(parameter)
        for method in endpoint.methods:
            item[method] = _operation(path, spec, endpoint.body if method == "post" else None)
        pages[path] = item
    return document


def _operation(path: str, spec: RouteSpec, body: str | None) -> dict[str, Any]:
    way, way_back = "Passed on to the engine", "byte for byte"
    if path == _ONE_MODEL:
        way, way_back = "One entry of the engine's list", "the entry of this name"
    elif spec.is_translated:
        way, way_back = "Translated to the engine", "translated"
    operation: dict[str, Any] = {
        "summary": f"{way} ({spec.route}).",
        "tags": ["engine"],
        "responses": {
            "default": {"description": f"The engine's answer, {way_back}."},
        },
    }
    for status, description in REFUSALS.items():
        # A page's session is refused; its other requests are the browser's to judge.
        if status == 403 and not spec.takes_sessions:
            continue
        if spec.route is Route.GENERATE:
            name = "RefusedGenerate"
        elif spec.route is Route.PROTOCOL:
            name = "RefusedProtocol"
        elif status in _SHARED:
            name = "RefusedOrPassedOn"
        else:
            name = "RefusedAnthropic" if spec.has_anthropic_errors else "Refused"
        refusal = {"$ref": f"#/components/responses/{name}", "description": description}
        operation["responses"][str(status)] = refusal
    if spec.route is Route.REALTIME:
        operation["responses"]["101"] = {"description": "A WebSocket session with the engine."}
    if body is not None:
        operation["requestBody"] = {"content": {body: {"schema": {"type": "object"}}}}
    return operation
