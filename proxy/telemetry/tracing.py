"""Tracing is off, and nothing of it imported, unless somebody is named who takes spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import SettingsError
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.telemetry.spans import Spans


def open_tracing(settings: Settings) -> Spans | None:
    """What makes a span of each request; None where nobody takes them.

    Raises:
        SettingsError: OpenTelemetry is not installed, or cannot use one of its variables.
    """
    target = settings.trace_target
    if target is None:
        return None
    try:
        from proxy.telemetry.span_export import tracer_provider
        from proxy.telemetry.spans import Spans

        return Spans(tracer_provider(target))
    except ImportError as error:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: Python's {error.name or 'opentelemetry'} is not "
            "installed (the vLLM image has it); pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp, or unset the variable"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise SettingsError(f"OTEL_*: OpenTelemetry cannot be set up: {error}") from None
