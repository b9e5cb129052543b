"""A page to look at, and the last requests that it shows."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

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


def page_routes() -> list[Route]:
    """The page itself: three files without a secret, so that it can be there to ask for a key."""
    html, style, script = (
        Response((_FOLDER / name).read_bytes(), media_type=kind, headers=_HEADERS)
        for name, kind in (
            ("dashboard.html", "text/html"),
            ("dashboard.css", "text/css"),
            ("dashboard.js", "text/javascript"),
        )
    )

    async def page(request: Request) -> Response:
        # Its links are relative, for proxies that serve it below a path of theirs.
        slash = request.scope["raw_path"].endswith(b"/")
        return RedirectResponse("../dashboard") if slash else html

    return [
        Route("/dashboard", page),
        Route("/dashboard/page.css", style, methods=["GET"]),
        Route("/dashboard/page.js", script, methods=["GET"]),
    ]


def requests_routes(service: Service) -> list[Route]:
    async def last_requests(_: Request) -> Response:
        """The last 50 requests with their timing split; no prompt, no answer, no address."""
        return JSONResponse({"requests": service.recent.rows()})

    return [Route("/info/requests", last_requests)]
