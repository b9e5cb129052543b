"""What OpenAPI cannot say of an answer; schemathesis loads this file (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

from typing import Any

import schemathesis

from proxy.access.routes import RouteTable
from proxy.api.openapi import REFUSALS

_ANTHROPIC = "/v1/messages"
_GENERATE = {path for path, listed in RouteTable().listed.items() if listed[0].is_translated}


@schemathesis.check
def refusals_have_their_shape(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Where the sidecar answers in the engine's place, the shape is that of the route."""
    if "x-proxy-error" not in response.headers:
        assert response.status_code not in (413, 429, 502, 504), "the sidecar's, and not marked"
        return
    assert response.status_code in {*REFUSALS, 404, 405, 409}
    (marked,) = response.headers["x-proxy-error"]
    body: dict[str, Any] = response.json()
    if case.path.startswith(_ANTHROPIC):
        assert body.keys() == {"type", "error", "request_id"}
        assert body["error"].keys() == {"type", "message"}
    elif case.path in _GENERATE:
        assert body.keys() == {"error", "code", "field"}
        assert body["code"] == marked.split()[1]
    else:
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert body["error"]["code"] == marked.split()[1]
