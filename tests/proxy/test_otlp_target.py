"""Where spans go: OpenTelemetry's variables, by its own rules of which goes before which."""

from __future__ import annotations

import pytest

from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.settings.otlp import OtlpProtocol, OtlpTarget

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
OF_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
LOGS = "OTLP_LOGS_ENDPOINT"
HTTP, GRPC = OtlpProtocol.HTTP, OtlpProtocol.GRPC


def log_target(**environ: str) -> OtlpTarget | None:
    return Settings.load(environ).log_target


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({LOGS: "http://c:4318"}, OtlpTarget("http://c:4318/v1/logs", HTTP)),
        ({LOGS: "https://c/otlp/v1/logs"}, OtlpTarget("https://c/otlp/v1/logs", HTTP)),
        ({LOGS: "http://c:4317", PROTOCOL: "grpc"}, OtlpTarget("http://c:4317", GRPC)),
        (
            {LOGS: "http://c", PROTOCOL: "grpc", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": HTTP},
            OtlpTarget("http://c/v1/logs", HTTP),
        ),
        ({LOGS: "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        ({ENDPOINT: "http://c:4318"}, None),
    ],
)
def test_log_lines_go_where_their_own_variable_says(
    environ: dict[str, str], expected: OtlpTarget | None
) -> None:
    assert log_target(**environ) == expected


def target(**environ: str) -> OtlpTarget | None:
    return Settings.load(environ).trace_target


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({ENDPOINT: "http://c:4318"}, OtlpTarget("http://c:4318/v1/traces", HTTP)),
        ({ENDPOINT: "https://c/otlp/"}, OtlpTarget("https://c/otlp/v1/traces", HTTP)),
        ({ENDPOINT: "http://c:4317", PROTOCOL: "grpc"}, OtlpTarget("http://c:4317", GRPC)),
        ({OF_TRACES: "http://c/take"}, OtlpTarget("http://c/take", HTTP)),
        ({OF_TRACES: "http://c/take", ENDPOINT: "http://d"}, OtlpTarget("http://c/take", HTTP)),
        (
            {ENDPOINT: "http://c", PROTOCOL: "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": HTTP},
            OtlpTarget("http://c/v1/traces", HTTP),
        ),
        (
            {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "console, OTLP"},
            OtlpTarget("http://c/v1/traces", HTTP),
        ),
    ],
)
def test_spans_go_where_the_variables_say(environ: dict[str, str], expected: OtlpTarget) -> None:
    assert target(**environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {PROTOCOL: "grpc"},
        {ENDPOINT: " "},
        {ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"},
        {OF_TRACES: "http://c", "OTEL_TRACES_EXPORTER": "console"},
    ],
)
def test_without_somebody_who_takes_them_there_are_none(environ: dict[str, str]) -> None:
    assert target(**environ) is None


@pytest.mark.parametrize(
    "url",
    [
        "c:4318",
        "grpc://c:4317",
        "http://",
        "http://c:port",
        "http://c:0",
        "http://[::1",
        "http://me:secret@c:4318",
        "http://c:4318?key=secret",
        "http://c/#secret",
        "a b",
    ],
)
@pytest.mark.parametrize("name", [ENDPOINT, OF_TRACES, LOGS, "OTLP_TRACES_ENDPOINT"])
def test_a_url_that_is_none_or_holds_a_secret_is_refused_and_not_shown(name: str, url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        target(**{name: url})
    (text,) = str(refused.value).splitlines()
    assert text.startswith(f"{name}=***: allowed is http://host:port or https://host:port")
    assert "OTEL_EXPORTER_OTLP_HEADERS" in text
    assert "secret@" not in text
    assert "key=" not in text


@pytest.mark.parametrize("name", [PROTOCOL, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_a_protocol_that_nobody_speaks_is_refused(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        target(**{name: "http/json", ENDPOINT: "http://c"})
    text = str(refused.value)
    assert text.startswith(f"{name}='http/json': ")
    assert "http/protobuf" in text
    assert "grpc" in text
