"""Where the sidecar listens, and where its engine is."""

from __future__ import annotations

from proxy.settings.values import EngineUrl, Group, Host, Port, UrlPath, variable


class ListeningSettings(Group):
    """Where the sidecar listens, and where its engine is."""

    host: Host = variable("HOST", default="0.0.0.0", effect="Address to listen on.")
    port: Port = variable("PORT", default=8000, effect="Port of the API.")
    port_health: Port | None = variable(
        "PORT_HEALTH", effect="Port of the health check (= `PORT`)."
    )
    health_check_path: UrlPath = variable(
        "HEALTH_CHECK_PATH", default="/ping", effect="Path of the load balancer's health check."
    )
    upstream_port: Port = variable(
        "UPSTREAM_PORT", default=8001, effect="Port of vLLM on 127.0.0.1."
    )
    upstream_url: EngineUrl | None = variable(
        "UPSTREAM_URL", effect="An engine that someone else runs; none is started then."
    )
