"""Logs and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from proxy.settings.values import Group, LogFormat, Port, variable


class TelemetrySettings(Group):
    """Logs and metrics."""

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
