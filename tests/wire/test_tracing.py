"""Traces: a span of each request at a real collector, and nothing at all without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.telemetry.span_attributes import attributes
from tests.collector import ERROR, SERVER, UNSET, Collector, GrpcCollector, TakenSpan
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.proxy.telemetry.records import full
from tests.wire import secrets
from tests.wire.client import CHAT, STREAM, Answer, prompt
from tests.wire.service import Sidecar, until
from tests.wire.test_websocket import session

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Sent at once, and not tried for long: what a test waits for.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    shared_engine: FakeEngine, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """A sidecar whose spans come to `collector`."""
    environ = {
        ENDPOINT: collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": '"authorization=of-the-collector"',  # as `--env-file` has it
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        **SOON,
    }
    with Sidecar(tmp_path_factory.mktemp("traced"), shared_engine, **environ) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def engine(traced: Sidecar) -> FakeEngine:
    traced.engine.reset()
    return traced.engine


def span_of(collector: Collector, of: Answer | str) -> TakenSpan:
    """The one span of a request, once it has come."""
    request_id = of if isinstance(of, str) else of.request_id
    until(lambda: collector.of(request_id), f"a span of {request_id}", PATIENCE)
    (span,) = collector.of(request_id)
    return span


def handed_on(service: Sidecar, of: Answer | str) -> str:
    (received,) = service.seen(of)
    (traceparent,) = received.header("traceparent")
    return traceparent


def test_a_span_is_between_the_clients_and_the_engines(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    pairs = [("traceparent", PARENT), ("tracestate", "a=1,b=2")]
    answer = traced.ask(CHAT, prompt(CHAT, {"model": "tiny"}), headers=pairs)
    span = span_of(collector, answer)
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT.split("-")[2])
    assert handed_on(traced, answer).startswith(f"00-{TRACE}-{span.span_id}-")
    (received,) = traced.seen(answer)
    assert received.header("tracestate") == ["a=1,b=2"]
    assert traced.record(answer)["trace_id"] == TRACE
    assert (span.name, span.kind, span.status) == ("chat tiny", SERVER, UNSET)
    assert span.resource["service.name"] == "vllm-sidecar"
    assert span.resource["deployment.environment.name"] == "test"
    assert collector.headers[-1]["authorization"] == "of-the-collector"


def test_without_a_trace_of_the_clients_one_begins(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    pairs = [("traceparent", "nonsense"), ("tracestate", "a=1")]
    answer = traced.ask(CHAT, prompt(CHAT), headers=pairs)
    span = span_of(collector, answer)
    assert span.parent_id == ""
    assert traced.record(answer)["trace_id"] == span.trace_id
    assert handed_on(traced, answer).startswith(f"00-{span.trace_id}-{span.span_id}-")
    assert traced.seen(answer)[0].header("tracestate") == [], "it belongs to another trace"


def test_the_span_says_what_the_line_says(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    answer = traced.ask(CHAT, prompt(CHAT, STREAM), fake={"tokens": 5, "interval_ms": 5})
    span, line = span_of(collector, answer), traced.record(answer)
    assert span.attributes.keys() <= attributes(full()).keys()
    for name, value in span.attributes.items():
        if name.startswith("sidecar."):
            assert line[name.removeprefix("sidecar.")] == value
    known = span.attributes
    assert known["gen_ai.usage.input_tokens"] == line["prompt_tokens"]
    assert known["gen_ai.usage.output_tokens"] == line["completion_tokens"] == 5
    assert known["gen_ai.request.stream"] is True
    assert known["gen_ai.response.finish_reasons"] == [line["finish_reason"]]
    assert known["gen_ai.response.time_to_first_chunk"] * 1000 == pytest.approx(
        line["ttft_ms"], abs=0.01
    )
    assert (span.end - span.start) / 1e6 == pytest.approx(line["duration_ms"], abs=0.01)
    first_token = span.events["sidecar.first_token"] - span.start
    assert first_token / 1e6 == pytest.approx(line["ttft_ms"], abs=0.01)


def test_a_trace_that_nobody_keeps_has_no_span(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    trace = "5" * 32
    answer = traced.ask(CHAT, prompt(CHAT), headers=[("traceparent", f"00-{trace}-{'b' * 16}-00")])
    assert traced.record(answer)["trace_id"] == trace
    given = handed_on(traced, answer)
    assert given.startswith(f"00-{trace}-")
    assert int(given[-2:], 16) & 1 == 0
    span_of(collector, traced.ask(CHAT, prompt(CHAT)))  # a later one has come
    assert not collector.of(answer.request_id)


def test_how_it_ended_is_in_the_span(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    broken = traced.ask(CHAT, prompt(CHAT, STREAM), fake={"die": "between_events:3"})
    span = span_of(collector, broken)
    assert (span.status, span.status_text) == (ERROR, traced.record(broken)["error"])
    assert span.attributes["error.type"] == traced.record(broken)["error"]
    unknown = traced.ask("/nowhere", {})
    span = span_of(collector, unknown)
    assert (span.name, span.status) == ("POST unknown", UNSET)
    assert span.attributes["http.response.status_code"] == 404


def test_a_client_that_leaves_has_its_span(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    with traced.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
        traced.wait_until_seen(request_id)
    span = span_of(collector, request_id)
    assert (span.attributes["sidecar.outcome"], span.status) == ("client_closed", UNSET)


def test_a_session_has_its_span_too(traced: Sidecar, collector: Collector) -> None:
    with session(traced, headers={"traceparent": PARENT}) as (client, request_id):
        client.send("text")
        assert client.recv(PATIENCE) == "text"
    span = span_of(collector, request_id)
    assert (span.name, span.trace_id) == ("GET realtime", TRACE)
    assert handed_on(traced, request_id).split("-")[2] == span.span_id


def test_no_span_holds_a_word_of_a_request_or_a_key(
    traced: Sidecar, engine: FakeEngine, collector: Collector
) -> None:
    pairs = [("authorization", f"Bearer {secrets.KEY}")]
    path = f"{CHAT}?key={secrets.QUERY}"
    for body in (prompt(CHAT), prompt(CHAT, STREAM)):
        span_of(collector, traced.ask(path, body, headers=pairs, fake={"text": secrets.ANSWER}))
    sent = b"".join(collector.raw)
    assert b"/v1/chat/completions" in sent
    assert not [word for word in secrets.ALL if word.encode() in sent]


def test_grpc_is_spoken_too(shared_engine: FakeEngine, tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_SERVICE_NAME": "mine", **SOON}
    with (
        GrpcCollector() as collector,
        Sidecar(tmp_path, shared_engine, **{ENDPOINT: collector.url, **environ}) as service,
    ):
        service.wait_until_ready()
        span = span_of(collector, service.ask(CHAT, prompt(CHAT)))
        assert span.resource["service.name"] == "mine"
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0


def reported(service: Sidecar) -> list[str]:
    return [line["message"] for line in service.lines("proxy.tracing") if line["level"] != "DEBUG"]


def test_a_collector_that_is_down_costs_one_line_and_is_used_when_it_is_back(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    down = Collector(port=free_ports(1)[0])
    with Sidecar(tmp_path, shared_engine, **{ENDPOINT: down.url, **SOON}) as service:
        service.wait_until_ready()

        def lost(batches: int) -> bool:
            assert service.ask(CHAT, prompt(CHAT)).status == 200
            lines = [str(line["message"]) for line in service.lines("proxy.tracing")]
            return sum(line.startswith("Failed to export") for line in lines) >= batches

        until(lambda: lost(3), "three batches that were lost", PATIENCE)
        (line,) = reported(service)
        assert line.startswith(f"OTLP export to {down.url} (http/protobuf) fails, dropping spans: ")
        assert "OTEL_EXPORTER_OTLP_PROTOCOL" in line
        with down as collector:
            until(
                lambda: service.ask(CHAT, prompt(CHAT)).status == 200 and collector.spans(),
                "a span",
                PATIENCE,
            )
            until(
                lambda: len(reported(service)) == 2, "a line that the export works again", PATIENCE
            )
        assert reported(service)[1].startswith("OTLP export works again; ")


def test_the_last_spans_are_sent_at_the_end(shared_engine: FakeEngine, tmp_path: Path) -> None:
    with Collector() as collector, Sidecar(tmp_path, shared_engine, **late(collector)) as service:
        service.wait_until_ready()
        answer = service.ask(CHAT, prompt(CHAT))
        service.record(answer)
        assert not collector.of(answer.request_id)
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        assert collector.of(answer.request_id)


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    with Collector() as collector:
        collector.hold()
        environ = late(collector) | {"OTEL_BSP_SCHEDULE_DELAY": "50"}
        with Sidecar(tmp_path, shared_engine, **environ) as service:
            service.wait_until_ready()
            until(
                lambda: service.ask(CHAT, prompt(CHAT)).status == 200 and collector.requests,
                "a request that hangs",
                PATIENCE,
            )
            for _ in range(20):
                assert service.ask(CHAT, prompt(CHAT)).status == 200
            service.process.terminate()
            # Far less than the ten minutes that one attempt may take.
            assert service.process.wait(PATIENCE) == 0


def late(collector: Collector) -> dict[str, str]:
    """Spans are sent ten minutes later, or at the end."""
    patient = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
    return {ENDPOINT: collector.url, **patient}


# Without it -------------------------------------------------------------------------------------

MAKE_A_SIDECAR = """
import sys
from proxy.app import build
from proxy.telemetry.tracing import open_tracing
from proxy.settings import Settings
settings = Settings.load({"UPSTREAM_URL": "http://127.0.0.1:9", "HF_HOME": sys.argv[1]})
assert open_tracing(settings) is None
build(settings)
print([name for name in sys.modules if name.startswith(("opentelemetry", "grpc", "google"))])
"""


def test_without_a_collector_nothing_of_it_is_even_imported(tmp_path: Path) -> None:
    done = run("-c", MAKE_A_SIDECAR, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("name", [ENDPOINT, "OTLP_LOGS_ENDPOINT"])
def test_without_opentelemetry_the_start_says_what_to_do(tmp_path: Path, name: str) -> None:
    package = tmp_path / "opentelemetry"
    package.mkdir()
    text = "raise ModuleNotFoundError('gone', name='opentelemetry')\n"
    (package / "__init__.py").write_text(text)
    done = run("-m", "proxy", PYTHONPATH=str(tmp_path), **{name: "http://127.0.0.1:9"})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: Python's opentelemetry is not installed")
    assert "pip install" in line


def test_a_variable_that_opentelemetry_cannot_use_stops_the_start(tmp_path: Path) -> None:
    environ = {ENDPOINT: "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}
    done = run("-m", "proxy", **environ)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("OTEL_*: OpenTelemetry cannot be set up: max_queue_size")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "UPSTREAM_URL": "http://127.0.0.1:9", **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
