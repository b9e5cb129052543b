"""What a request may be, and how long it may take."""

from __future__ import annotations

from proxy.settings.values import (
    Count,
    CountOrZero,
    Group,
    Mebibytes,
    Modules,
    Protocols,
    Seconds,
    Timeout,
    UrlPaths,
    variable,
)


class LimitSettings(Group):
    """What a request may be, and how long it may take."""

    max_body_mb: Mebibytes = variable(
        "MAX_BODY_MB", default=256, effect="Largest request body, MiB."
    )
    body_timeout: Timeout = variable(
        "BODY_TIMEOUT",
        default=60,
        effect="Seconds without a byte of an unfinished request; 0 is never.",
    )
    max_in_flight: Count | None = variable(
        "MAX_IN_FLIGHT", effect="Requests at the engine at once."
    )
    max_waiting: CountOrZero = variable(
        "MAX_WAITING", default=0, effect="Requests that may wait for a place among those."
    )
    waiting_timeout: Timeout = variable(
        "WAITING_TIMEOUT",
        default=60,
        effect="Seconds after which a request no longer waits for a place; 0 is never.",
    )
    hold_seconds: Seconds = variable(
        "HOLD_SECONDS", default=0, effect="Seconds a request waits for an engine that is starting."
    )
    stream_idle_timeout: Timeout = variable(
        "STREAM_IDLE_TIMEOUT",
        effect="Seconds without a byte from the engine that end an answer; 0 is never.",
    )
    request_timeout: Timeout = variable(
        "REQUEST_TIMEOUT", effect="Seconds a whole request may take; 0 is any time."
    )
    sse_keep_alive_seconds: Seconds = variable(
        "SSE_KEEP_ALIVE_SECONDS",
        default=0,
        effect="Seconds of silence after which a stream gets a comment or ping; 0 is never.",
    )
    json_heartbeat_seconds: Seconds = variable(
        "JSON_HEARTBEAT_SECONDS",
        default=0,
        effect="Seconds after which a JSON answer begins with a blank, and 200; 0 is never.",
    )
    extra_routes: UrlPaths = variable(
        "EXTRA_ROUTES", default=(), effect="More engine paths to relay, comma-separated."
    )
    protocols: Protocols = variable(
        "PROTOCOLS", default=(), effect="More ways to call, as package.module:Name."
    )
    protocol_modules: Modules = variable(
        "PROTOCOL_MODULES", default=(), effect="Modules and packages that PROTOCOLS may name."
    )
