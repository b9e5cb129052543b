"""Where the sidecar listens, and where its engine is."""

from __future__ import annotations

from proxy.settings.values import EngineUrl, Group, Host, Port, UrlPath, variable


class ListeningSettings(Group, title="Sidecar"):
    """Where the sidecar listens, and where its engine is."""

    host: Host = variable("HOST", default="0.0.0.0", unit="address", effect="Address to listen on.")
    port: Port = variable(
        "PORT", "SERVICE_PORT", default=8000, unit="port", effect="Port of the API."
    )
    port_health: Port | None = variable(
        "PORT_HEALTH",
        unit="port",
        effect="Second port, for the load balancer's health check. It serves all that `PORT` does.",
        unset="`PORT`",
        example="8080",
    )
    health_check_path: UrlPath = variable(
        "HEALTH_CHECK_PATH",
        default="/ping",
        unit="path",
        effect="Path of the load balancer's health check.",
    )
    upstream_port: Port = variable(
        "UPSTREAM_PORT", default=8001, unit="port", effect="Port of vLLM on 127.0.0.1."
    )
    upstream_url: EngineUrl | None = variable(
        "UPSTREAM_URL",
        unit="URL",
        effect="Engine that someone else runs, as `http://host:port`, or several, as "
        "`a=http://one:8000,b=http://other:8000`: what names model `a` goes to the first. "
        "No engine is started then.",
        unset="the sidecar starts its own",
        example="http://127.0.0.1:8001",
    )
