"""OTLP_LOGS_ENDPOINT: a collector gets every line of stdout, and holds up nobody."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO

from tests.collector import Collector, GrpcCollector
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.wire import secrets
from tests.wire.client import CHAT, prompt
from tests.wire.service import Sidecar, until

ENDPOINT = "OTLP_LOGS_ENDPOINT"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
# The exporter does not try for long what a test waits for.
SOON = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


def written(service: Sidecar, logger: str) -> list[tuple[object, object, object]]:
    return [(each["message"], each["level"], each["timestamp"]) for each in service.lines(logger)]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_collector_gets_each_line_of_stdout_with_all_its_fields(
    shared_engine: FakeEngine, tmp_path: Path, protocol: str
) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": '"authorization=of-the-collector"',  # as `--env-file` has it
    }
    kind = GrpcCollector if protocol == "grpc" else Collector
    with (
        kind() as collector,
        Sidecar(tmp_path, shared_engine, **{ENDPOINT: collector.url, **environ}) as service,
    ):
        service.wait_until_ready()
        pairs = [("traceparent", PARENT), ("authorization", f"Bearer {secrets.KEY}")]
        answer = service.ask(CHAT, prompt(CHAT), headers=pairs, fake={"text": secrets.ANSWER})
        until(lambda: collector.lines("proxy.access"), "the line of the request", PATIENCE)
        (line,) = collector.lines("proxy.access")
        fields = service.record(answer)
        assert line.body == fields.pop("message")
        assert (line.severity, line.severity_number) == ("INFO", SEVERITY_NUMBER_INFO)
        assert line.trace_id == fields["trace_id"] == TRACE
        assert line.resource["service.name"] == "vllm-sidecar"
        moment = datetime.fromisoformat(str(fields.pop("timestamp"))).timestamp()
        assert line.time / 1e9 == pytest.approx(moment, abs=1e-6)
        others = {name: fields[name] for name in fields.keys() - {"level", "logger"}}
        assert line.attributes == others
        assert collector.headers[-1]["authorization"] == "of-the-collector"
        # The last lines leave before the process does.
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        assert {each.body for each in collector.lines()} == {
            each["message"] for each in service.lines("")
        }
        sent = b"".join(collector.raw)
        assert not [word for word in secrets.ALL if word.encode() in sent]


def dropped(service: Sidecar) -> float:
    return service.value("sidecar_log_lines_dropped_total")


def test_lines_that_a_collector_does_not_take_are_counted_and_told_on_stdout(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    down = Collector(port=free_ports(1)[0])
    with Sidecar(tmp_path, shared_engine, **{ENDPOINT: down.url, **SOON}) as service:
        service.wait_until_ready()
        assert service.ask(CHAT, prompt(CHAT)).status == 200
        until(lambda: dropped(service) > 0, "lines that are counted as dropped", PATIENCE)
        until(lambda: service.lines("proxy.log"), "a line about them", PATIENCE)
        first = service.lines("proxy.log")[0]
        assert str(first["message"]).startswith(f"{ENDPOINT}={down.url}/v1/logs cannot be written")
        with down as collector:
            until(
                lambda: (
                    service.ask(CHAT, prompt(CHAT)).status == 200
                    and collector.lines("proxy.access")
                ),
                "a line at the collector",
                PATIENCE,
            )
            service.process.terminate()
            assert service.process.wait(PATIENCE) == 0


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    with Collector() as collector:
        collector.hold()
        # Ten minutes for one attempt: far more than anybody here waits.
        environ = {ENDPOINT: collector.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        with Sidecar(tmp_path, shared_engine, **environ) as service:
            service.wait_until_ready()
            until(lambda: collector.requests, "a batch that hangs", PATIENCE)
            for _ in range(20):
                answer = service.ask(CHAT, prompt(CHAT))
                assert service.record(answer)["status"] == 200
            service.process.terminate()
            assert service.process.wait(PATIENCE) == 0
