"""Logs, metrics and traces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from proxy.settings.tracing import ENDPOINT, PROTOCOL, OtlpProtocol, OtlpUrl
from proxy.settings.values import Group, LogFormat, Port, variable


class TelemetrySettings(Group):
    """Logs, metrics and traces."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    ] = variable("LOG_LEVEL", default="info", effect="Least level that is logged.")
    log_format: LogFormat = variable(
        "LOG_FORMAT", default=LogFormat.JSON, effect="`json`, or `text` for a terminal."
    )
    log_file: str | None = variable("LOG_FILE", effect="A file that gets the lines of stdout too.")
    metrics_port: Port | None = variable(
        "METRICS_PORT", effect="Port of the metrics, and of nothing else (= `PORT`)."
    )
    gpu_price_per_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = variable(
        "GPU_PRICE_PER_HOUR", effect="What one GPU costs an hour; for the dashboard *Cost*."
    )
    otlp_endpoint: OtlpUrl | None = variable(
        ENDPOINT,
        effect="Who takes traces, as `http://host:port`; without it there are none.",
        secret=True,  # one that is wrong may hold a password
    )
    otlp_protocol: OtlpProtocol = variable(
        PROTOCOL,
        default=OtlpProtocol.HTTP,
        effect="How they are sent: `http/protobuf` or `grpc`.",
    )
    engine_traces_endpoint: str | None = variable(
        "OTLP_TRACES_ENDPOINT", effect="Who takes vLLM's own traces; `none` is nobody."
    )
