"""A page to look at, and the last requests that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from proxy.api.service import Service

_FOLDER = Path(__file__).parent / "page"
# Nothing from elsewhere, nothing inline, and no text that becomes markup.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_router() -> APIRouter:
    """The page itself: three files without a secret, so that it can be there to ask for a key."""
    router = APIRouter(tags=["dashboard"])
    html, css, js = (
        Response((_FOLDER / name).read_bytes(), media_type=kind, headers=_HEADERS)
        for name, kind in (
            ("dashboard.html", "text/html"),
            ("dashboard.css", "text/css"),
            ("dashboard.js", "text/javascript"),
        )
    )

    @router.get("/dashboard")
    async def dashboard() -> Response:
        """State, speed and the last requests, for people."""
        return html

    @router.get("/dashboard/page.css")
    async def style() -> Response:
        return css

    @router.get("/dashboard/page.js")
    async def script() -> Response:
        return js

    return router


def requests_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["info"])

    @router.get("/info/requests")
    async def last_requests() -> dict[str, Any]:
        """The last 50 requests with their timing split; no prompt, no answer, no address."""
        return {"requests": service.recent.rows()}

    return router
