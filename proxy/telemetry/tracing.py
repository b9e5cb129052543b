"""OTLP is off, and nothing of OpenTelemetry imported, unless a variable names a collector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.settings.otlp import ENDPOINT, OtlpTarget
from proxy.telemetry.log_output import Target

if TYPE_CHECKING:
    from proxy.telemetry.spans import Spans

# One export takes a round trip: lines may come together for longer than those for a file.
_GATHER_SECONDS = 0.5


def open_tracing(settings: Settings) -> Spans | None:
    """What makes a span of each request; None where no collector is named.

    Raises:
        SettingsError: OpenTelemetry is not installed, or cannot use one of its variables.
    """
    target = settings.trace_target
    if target is None:
        return None
    with _explained(ENDPOINT):
        from proxy.telemetry.span_export import tracer_provider
        from proxy.telemetry.spans import Spans

        return Spans(tracer_provider(target))


def open_log_export(target: OtlpTarget) -> Target:
    """The collector as one more target of log lines.

    Raises:
        SettingsError: as `open_tracing` does.
    """
    with _explained("OTLP_LOGS_ENDPOINT"):
        from proxy.telemetry.log_export import CollectorWriter

        writer = CollectorWriter(target)
    name = f"OTLP_LOGS_ENDPOINT={target.url}"
    return Target(name, writer, None, reports_errors=True, gather_seconds=_GATHER_SECONDS)


@contextmanager
def _explained(variable: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            f"{variable}: Python's {error.name or 'opentelemetry'} is not installed, or too old "
            "(the vLLM image has it); pip install -U opentelemetry-sdk "
            "opentelemetry-exporter-otlp, or unset the variable"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise SettingsError(f"OTEL_*: OpenTelemetry cannot be set up: {error}") from None
