"""Log lines at a collector: in batches, whatever they hold, and counted where they are refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from proxy.settings.otlp import OtlpProtocol, OtlpTarget
from proxy.telemetry.log_export import CollectorWriter
from tests.collector import Collector

LINE = {
    "level": "ERROR",
    "logger": "proxy.relay",
    "message": "the sidecar failed",
    "timestamp": "2026-11-28T10:44:16.318617+00:00",
}
_EXPORTERS_LOG = "opentelemetry.exporter.otlp.proto.http._log_exporter"


def encoded(**more: object) -> bytes:
    return json.dumps(LINE | more).encode() + b"\n"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def writer(collector: Collector) -> CollectorWriter:
    return CollectorWriter(OtlpTarget(f"{collector.url}/v1/logs", OtlpProtocol.HTTP))


def test_a_traceback_is_where_backends_look_for_it(
    writer: CollectorWriter, collector: Collector
) -> None:
    assert writer.write([encoded(exc_info="ValueError: oops")]) == (0, None)
    (line,) = collector.lines("proxy.relay")
    assert (line.body, line.severity) == ("the sidecar failed", "ERROR")
    assert line.attributes == {"exception.stacktrace": "ValueError: oops"}
    assert line.time == 1_795_862_656_318_617_000


@pytest.mark.parametrize("line", [b"10:44:16.318 INFO proxy ready\n", b"\xff{\n", b"[1]\n"])
def test_a_line_that_is_no_json_object_is_all_body(
    writer: CollectorWriter, collector: Collector, line: bytes
) -> None:
    assert writer.write([line]) == (0, None)
    (taken,) = collector.lines()
    assert taken.body == line.decode("utf-8", "replace").rstrip()
    assert taken.attributes == {}


def test_many_lines_leave_in_batches(writer: CollectorWriter, collector: Collector) -> None:
    lines = [encoded(number=number) for number in range(1200)]
    assert writer.write(lines) == (0, None)
    assert [line.attributes["number"] for line in collector.lines()] == list(range(1200))
    assert collector.requests == 3


def test_lines_that_are_refused_are_counted_with_the_reason(
    writer: CollectorWriter, collector: Collector
) -> None:
    collector.status = 400
    for _ in range(3):  # of the same words in 20 s the SDK logs the first ones only
        lost, error = writer.write([encoded(), encoded()])
        assert lost == 2
        assert "400" in str(error)
    collector.status = 200
    assert writer.write([encoded()]) == (0, None)


def test_a_redirect_which_nobody_follows_is_a_refusal(
    writer: CollectorWriter, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(_EXPORTERS_LOG), "filters", [])
    collector.status = 308
    lost, error = writer.write([encoded(), encoded()])
    assert lost == 2
    assert "a redirect (308)" in str(error)


@pytest.mark.parametrize("headers", ["authorization:s3cret", "authorization=Bearer%20s3cret%0Ax"])
def test_a_header_that_cannot_be_used_is_told_of_without_what_is_in_it(
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    headers: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    # As in a new process: what the SDK says goes to the root, and it has said nothing yet.
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "propagate", True)
    monkeypatch.setattr(logging.getLogger(_EXPORTERS_LOG), "filters", [])
    caplog.set_level(logging.DEBUG, "proxy.tracing")
    writer = CollectorWriter(OtlpTarget(f"{collector.url}/v1/logs", OtlpProtocol.HTTP))
    _, error = writer.write([encoded()])
    assert "s3cret" not in caplog.text + str(error)
    assert "eader" in caplog.text
