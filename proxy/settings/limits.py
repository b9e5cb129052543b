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


class LimitSettings(Group, title="Limits"):
    """What a request may be, and how long it may take."""

    max_body_mb: Mebibytes = variable(
        "MAX_BODY_MB",
        default=256,
        unit="MiB",
        effect="Maximum size of a request body. A larger one gets 413.",
    )
    body_timeout: Timeout = variable(
        "BODY_TIMEOUT",
        default=60,
        unit="s",
        effect="Maximum time without a byte of an unfinished body, and for a whole head. "
        "0: no limit.",
    )
    max_in_flight: Count | None = variable(
        "MAX_IN_FLIGHT",
        unit="requests",
        effect="Maximum number of requests at the engine at once.",
        unset="no limit of ours; vLLM queues what is over `MAX_NUM_SEQS`",
        danger="A slow upload holds one of them until `REQUEST_TIMEOUT`; on a public address set "
        "that, and `in_flight` in `KEY_LIMITS`",
        example="64",
    )
    max_waiting: CountOrZero = variable(
        "MAX_WAITING",
        default=0,
        unit="requests",
        effect="Size of the queue for a slot of `MAX_IN_FLIGHT`. Further requests get 503. With "
        "several models also how many wait for each one that loads; 64 where it is 0.",
    )
    waiting_timeout: Timeout = variable(
        "WAITING_TIMEOUT",
        default=60,
        unit="s",
        effect="Maximum time in that queue before a request gets 503. It is never longer than "
        "`REQUEST_TIMEOUT`. 0: no limit.",
    )
    hold_seconds: Seconds = variable(
        "HOLD_SECONDS",
        default=0,
        unit="s",
        effect="Maximum time that a request waits for a (re)starting engine before it gets 503. "
        "It is never longer than `REQUEST_TIMEOUT`. With several models, and with "
        "`IDLE_UNLOAD_SECONDS`, the default is 600.",
    )
    stream_idle_timeout: Timeout = variable(
        "STREAM_IDLE_TIMEOUT",
        unit="s",
        effect="Maximum time without a byte from the engine; then the answer ends. 0: no limit.",
        unset="no limit",
        example="120",
    )
    request_timeout: Timeout = variable(
        "REQUEST_TIMEOUT",
        unit="s",
        effect="Maximum time of a whole request, its upload included. 0: no limit.",
        unset="no limit",
        example="3600",
    )
    sse_keep_alive_seconds: Seconds = variable(
        "SSE_KEEP_ALIVE_SECONDS",
        default=0,
        unit="s",
        effect="Silence after which a stream gets a comment, so that no proxy cuts it. "
        "On `/v1/messages` it is a ping. 0: never.",
    )
    json_heartbeat_seconds: Seconds = variable(
        "JSON_HEARTBEAT_SECONDS",
        default=0,
        unit="s",
        effect="Time after which a JSON answer that is still missing begins with a blank. "
        "One more follows each time it passes. 0: never.",
        danger="[The status is 200 then](deploying.md#proxies-that-cut-quiet-connections), "
        "whatever comes",
    )
    extra_routes: UrlPaths = variable(
        "EXTRA_ROUTES",
        default=(),
        unit="paths",
        effect="More paths of the engine to relay, comma-separated.",
        unset="none",
        danger="A path that controls the engine is then open to every client that may ask",
        example="/load",
    )
    protocols: Protocols = variable(
        "PROTOCOLS",
        default=(),
        unit="names",
        effect="More request formats, as `package.module:Name`, comma-separated. "
        "[Protocols](protocols.md) shows how to write one.",
        unset="none",
        example="mine.ollama:Ollama",
    )
    protocol_modules: Modules = variable(
        "PROTOCOL_MODULES",
        default=(),
        unit="modules",
        effect="Modules, and packages with everything in them, that `PROTOCOLS` may name.",
        unset="none",
        danger="Their code runs inside the sidecar",
        example="mine",
    )
