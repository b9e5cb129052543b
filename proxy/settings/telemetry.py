"""Logs, metrics and traces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from proxy.settings.otlp import ENDPOINT, PROTOCOL, OtlpProtocol, OtlpUrl, OtlpUrlOrNone
from proxy.settings.values import Group, LocalPath, LogFormat, Port, from_text, variable


class TelemetrySettings(Group, title="Logs, metrics and traces"):
    """Logs, metrics and traces."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        from_text(str.lower),
    ] = variable("LOG_LEVEL", default="info", effect="Minimum level that is logged.")
    log_format: LogFormat = variable(
        "LOG_FORMAT",
        default=LogFormat.JSON,
        effect="Format of the log: `json`, or `text`, which is the default on a terminal.",
    )
    log_file: LocalPath | None = variable(
        "LOG_FILE",
        unit="path",
        effect="File that gets every line of stdout too. It is rotated: 200 MiB at most.",
        unset="none",
        example="/workspace/sidecar.log",
    )
    otlp_logs_endpoint: OtlpUrl | None = variable(
        "OTLP_LOGS_ENDPOINT",
        unit="URL",
        effect="OTLP endpoint that gets every [log line](logs.md#otlp) too, as `http://host:port`. "
        "Without a path it is `/v1/logs` over HTTP; the protocol is that of traces, or "
        "`OTEL_EXPORTER_OTLP_LOGS_PROTOCOL`.",
        unset="none",
        example="http://collector:4318",
        secret=True,  # one that is wrong may hold a password
    )
    metrics_port: Port | None = variable(
        "METRICS_PORT",
        unit="port",
        effect="Port of the two pages of metrics, and of nothing else. No other port has them "
        "then.",
        unset="`PORT`",
        example="9100",
    )
    gpu_price_per_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = variable(
        "GPU_PRICE_PER_HOUR",
        unit="dollars",
        effect="Price of one GPU for an hour, for the dashboard *Cost* and for `bench`.",
        unset="no costs are shown",
        example="2.50",
    )
    otlp_endpoint: OtlpUrl | None = variable(
        ENDPOINT,
        unit="URL",
        effect="OTLP endpoint for [traces](tracing.md), as `http://host:port`.",
        unset="no traces",
        example="http://collector:4318",
        secret=True,  # one that is wrong may hold a password
    )
    otlp_protocol: OtlpProtocol = variable(
        PROTOCOL,
        default=OtlpProtocol.HTTP,
        effect="Protocol of OTLP. Collectors mostly take `http/protobuf` on port 4318 "
        "and `grpc` on 4317.",
    )
    engine_traces_endpoint: OtlpUrlOrNone | None = variable(
        "OTLP_TRACES_ENDPOINT",
        unit="URL",
        effect="OTLP endpoint for vLLM's own traces. `none`: vLLM sends none.",
        unset="that of the sidecar's",
        example="http://collector:4318/v1/traces",
        secret=True,  # one that is wrong may hold a password
    )
