"""A span says what the log line says, by the names that OpenTelemetry has for it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.access.routes import Route
from proxy.telemetry.record import Outcome
from proxy.telemetry.request_log import present_fields
from proxy.telemetry.span_attributes import attributes, events, has_failed, span_name
from tests.proxy.telemetry.records import finished, full

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "tracing.md").read_text()
CONVENTIONS = ("gen_ai", "http", "url", "client", "user_agent", "error")


def test_every_field_of_the_log_line_is_there_once_with_its_value() -> None:
    fields, by_name = present_fields(full()), dict(attributes(full()))
    assert by_name.pop("gen_ai.response.finish_reasons") == [fields.pop("finish_reason")]
    assert by_name.pop("gen_ai.response.time_to_first_chunk") == pytest.approx(0.1)
    assert (by_name.pop("gen_ai.operation.name"), by_name.pop("gen_ai.provider.name")) == (
        "chat",
        "vllm",
    )
    assert by_name.pop("url.scheme") == "http"
    # A span has its trace and its length without being told.
    del fields["trace_id"], fields["duration_ms"]
    assert list(by_name.values()) == list(fields.values())


def test_names_are_those_of_the_conventions_that_are_installed() -> None:
    package = "opentelemetry.semconv._incubating.attributes"
    modules = [importlib.import_module(f"{package}.{name}_attributes") for name in CONVENTIONS]
    by_name = {
        value for module in modules for value in vars(module).values() if str(value) == value
    }
    ours = {name for name in attributes(full()) if not name.startswith("sidecar.")}
    assert ours <= by_name


def test_what_is_not_known_is_not_there() -> None:
    by_name = attributes(finished(request_id="id"))
    assert "gen_ai.usage.output_tokens" not in by_name
    assert "gen_ai.response.finish_reasons" not in by_name
    assert "gen_ai.response.time_to_first_chunk" not in by_name
    assert None not in by_name.values()


@pytest.mark.parametrize(
    ("given", "name", "operation"),
    [
        ({"path": "/v1/chat/completions"}, "chat served", "chat"),
        ({"path": "/v1/responses", "route": Route.RESPONSES}, "chat served", "chat"),
        ({"path": "/v1/completions"}, "text_completion served", "text_completion"),
        ({"path": "/v1/embeddings"}, "embeddings served", "embeddings"),
        ({"path": "/chat/completions"}, "chat served", "chat"),
        ({"path": "/v1/models", "route": Route.MODELS, "method": "GET"}, "GET models", None),
        ({"path": "/v1/chat/completions", "method": "GET"}, "GET chat", None),
        ({"path": "/v1/responses/resp_1/cancel", "route": Route.RESPONSES}, "POST responses", None),
        ({"path": "/secret", "route": Route.UNKNOWN, "method": "PRY"}, "_OTHER unknown", None),
        ({"path": "", "route": Route.UNKNOWN, "method": ""}, "_OTHER unknown", None),
    ],
)
def test_spans_are_called_by_few_names(
    given: dict[str, Any], name: str, operation: str | None
) -> None:
    record = finished(model="made-up-by-a-client", stream=False, **given)
    assert span_name(record, "served") == name
    of_span = attributes(record)
    assert of_span.get("gen_ai.operation.name") == operation
    assert ("gen_ai.request.stream" in of_span) == (operation is not None)
    assert of_span["gen_ai.request.model"] == "made-up-by-a-client"


def test_a_server_is_not_blamed_for_its_clients() -> None:
    failed = {outcome for outcome in Outcome if has_failed(finished(outcome=outcome))}
    assert failed == {
        *(Outcome.TIMEOUT, Outcome.ENGINE_ERROR, Outcome.ENGINE_DIED),
        *(Outcome.ENGINE_UNAVAILABLE, Outcome.PROXY_ERROR),
    }
    (listed,) = re.findall(r"where the server failed \((.*?)\)", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == failed


def test_events_come_in_the_order_of_their_times() -> None:
    times = [moment for _, moment in events(full())]
    assert len(times) == 6
    assert times == sorted(times)
    assert not list(events(finished()))


def test_the_page_names_every_attribute_and_event() -> None:
    rows = re.findall(r"^\| (`.*?`) \| ", PAGE.partition("| Attribute |")[2], re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert listed == {name for name in attributes(full()) if not name.startswith("sidecar.")}
    said = set(re.findall(r"`(sidecar\.\w+)`", PAGE.partition("Its events say when")[2]))
    assert said == {name for name, _ in events(full())}
    examples = set(re.findall(r"`(sidecar\.\w+)`", PAGE)) - said
    assert examples
    assert examples <= set(attributes(full()))
