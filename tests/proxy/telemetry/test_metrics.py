"""The page that Prometheus reads says the same as the records, in few and closed labels."""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy import __version__
from proxy.edge.routes import Route
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Outcome, Record
from tests.proxy.telemetry.records import finished, full

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# Families by the name they are queried with; the engine's and the GPU's gauges are to come.
CONTRACT = {
    "sidecar_requests_total": {"route", "model", "outcome"},
    "sidecar_requests_in_flight": {"route"},
    "sidecar_request_duration_seconds": {"route", "model"},
    "sidecar_time_to_first_token_seconds": {"route", "model"},
    "sidecar_inter_token_latency_seconds": {"route", "model"},
    "sidecar_output_tokens_per_second": {"route", "model"},
    "sidecar_prompt_tokens_total": {"route", "model"},
    "sidecar_completion_tokens_total": {"route", "model"},
    "sidecar_cached_prompt_tokens_total": {"route", "model"},
    "sidecar_inputs_total": {"modality"},
    "sidecar_request_body_bytes": {"route", "model"},
    "sidecar_response_body_bytes_total": {"route", "model"},
    "sidecar_overhead_seconds": {"route", "model"},
    "sidecar_client_stall_seconds": {"route", "model"},
    "sidecar_engine_state": {"phase"},
    "sidecar_engine_restarts_total": {"cause"},
    "sidecar_engine_phase_seconds": {"phase"},
    "sidecar_model_download_bytes": set(),
    "sidecar_build_info": {"version", "python"},
}


def measured(*records: Record, served: tuple[str, ...] = ("demo", "alias")) -> Metrics:
    metrics = Metrics()
    metrics.served_models = served
    for record in records:
        metrics.began(record)
        metrics.ended(record)
    return metrics


def families(metrics: Metrics) -> list[Metric]:
    return list(parse_text(metrics.page("")[0].decode()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def total(metrics: Metrics, name: str) -> float:
    """The sum of a sample over all its labels."""
    samples = [sample for family in families(metrics) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def queried(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_the_families_and_their_labels_are_the_documented_ones() -> None:
    metrics = measured(full())
    metrics.engine_phase_seconds(Phase.LOADING, 3)
    found = {
        queried(family): {name for sample in family.samples for name in sample.labels} - {"le"}
        for family in families(metrics)
    }
    assert found == CONTRACT


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, OPENMETRICS),
        (f"{OPENMETRICS};q=0.5,text/plain;q=0.4", OPENMETRICS),
    ],
)
def test_the_page_is_in_the_format_that_was_asked_for(accept: str, content_type: str) -> None:
    page, announced = measured(full()).page(accept)
    assert announced.startswith(content_type)
    parse = parse_openmetrics if accept.startswith(OPENMETRICS) else parse_text
    names = {family.name for family in parse(page.decode())}
    assert "sidecar_request_duration_seconds" in names
    assert page.endswith(b"# EOF\n") == accept.startswith(OPENMETRICS)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_the_page_is_not_doubled_by_times_of_creation(accept: str) -> None:
    assert b"_created" not in measured(full()).page(accept)[0]


def test_each_number_is_the_records() -> None:
    record = full()
    metrics = measured(record)
    labels = {"route": "chat", "model": "demo"}
    sums = {
        "request_duration_seconds": 0.5,
        "time_to_first_token_seconds": 0.1,
        "inter_token_latency_seconds": 0.05,
        "output_tokens_per_second": 40,
        "overhead_seconds": 0.001,
        "client_stall_seconds": 0.004,
        "request_body_bytes": 1000,
    }
    counters = {
        "response_body_bytes": 5000,
        "prompt_tokens": 35,
        "completion_tokens": 11,
        "cached_prompt_tokens": 16,
    }
    for name, expected in sums.items():
        assert value(metrics, f"sidecar_{name}_sum", **labels) == pytest.approx(expected), name
        assert value(metrics, f"sidecar_{name}_count", **labels) == 1, name
    for name, expected in counters.items():
        assert value(metrics, f"sidecar_{name}_total", **labels) == expected, name
    requests = value(metrics, "sidecar_requests_total", **labels, outcome="engine_error")
    assert requests == 1
    inputs = [
        value(metrics, "sidecar_inputs_total", modality=m) for m in ("image", "video", "audio")
    ]
    assert inputs == [2, 1, 3]


def test_counts_equal_the_records() -> None:
    records = [
        finished(route=route, model=model, outcome=outcome, bytes_in=10, completion_tokens=3)
        for route in (Route.CHAT, Route.EMBEDDINGS, Route.UNKNOWN)
        for model in ("demo", "alias", "unheard-of", None)
        for outcome in Outcome
    ]
    metrics = measured(*records)
    assert total(metrics, "sidecar_requests_total") == len(records)
    assert total(metrics, "sidecar_request_duration_seconds_count") == len(records)
    assert total(metrics, "sidecar_request_body_bytes_sum") == 10 * len(records)
    assert total(metrics, "sidecar_completion_tokens_total") == 3 * len(records)
    assert total(metrics, "sidecar_requests_in_flight") == 0


def test_what_was_not_measured_is_not_observed() -> None:
    metrics = measured(finished())
    for name in ("time_to_first_token", "inter_token_latency", "overhead"):
        assert total(metrics, f"sidecar_{name}_seconds_count") == 0
    assert total(metrics, "sidecar_output_tokens_per_second_count") == 0
    assert total(metrics, "sidecar_request_duration_seconds_count") == 1


@pytest.mark.parametrize(
    ("model", "served", "label"),
    [
        ("demo", ("demo",), "demo"),
        ("alias", ("demo", "alias"), "alias"),
        ("unheard-of", ("demo",), "other"),
        ("", ("demo",), "other"),
        ("demo", (), "other"),
        ('x"} 1\nforged_metric 1', ("demo",), "other"),
        (None, ("demo", "alias"), "demo"),
        (None, (), "other"),
    ],
)
def test_a_model_is_a_served_name_or_other(
    model: str | None, served: tuple[str, ...], label: str
) -> None:
    metrics = measured(finished(model=model), served=served)
    requests = [
        s for f in families(metrics) for s in f.samples if s.name == "sidecar_requests_total"
    ]
    assert {sample.labels["model"] for sample in requests} == {label}


def test_clients_cannot_make_series() -> None:
    metrics = measured(finished(model="a", path="/a"))
    before = metrics.page("")[0].count(b"\n")
    for number in range(50):
        record = finished(
            model=f"model-{number}",
            path=f"/v1/{number}",
            request_id=str(number),
            client=f"10.0.0.{number}",
            error=f"error-{number}",
            finish_reason=f"reason-{number}",
            user_agent=f"agent/{number}",
        )
        metrics.began(record)
        metrics.ended(record)
    assert metrics.page("")[0].count(b"\n") == before


def label_values(metrics: Metrics, name: str) -> set[str]:
    samples = [sample for family in families(metrics) for sample in family.samples]
    return {sample.labels[name] for sample in samples if name in sample.labels}


@pytest.mark.parametrize(
    ("label", "allowed"),
    [
        ("route", Route),
        ("outcome", Outcome),
        ("phase", Phase),
        ("cause", Cause),
        ("modality", ("image", "video", "audio")),
        ("model", ("demo", "alias", "other")),
    ],
)
def test_label_values_come_from_closed_sets(label: str, allowed: Iterable[str]) -> None:
    records = [finished(route=route, model=name) for route in Route for name in ("demo", "x")]
    metrics = measured(full(), *records)
    found = label_values(metrics, label)
    assert found
    assert found <= {str(word) for word in allowed}


def test_series_that_are_known_from_the_start_are_there_as_zero() -> None:
    metrics = Metrics()
    for cause in Cause:
        assert value(metrics, "sidecar_engine_restarts_total", cause=cause) == 0
    for modality in ("image", "video", "audio"):
        assert value(metrics, "sidecar_inputs_total", modality=modality) == 0
    assert label_values(metrics, "phase") == {str(phase) for phase in Phase}


@pytest.mark.parametrize("phase", Phase)
def test_the_engine_is_in_one_phase_at_a_time(phase: Phase) -> None:
    metrics = Metrics()
    metrics.engine_phase(Phase.LOADING)
    metrics.engine_phase(phase)
    ones = {p for p in Phase if value(metrics, "sidecar_engine_state", phase=p) == 1}
    assert ones == {phase}
    assert total(metrics, "sidecar_engine_state") == 1


def test_the_engines_life_is_counted() -> None:
    metrics = Metrics()
    metrics.engine_restarted(Cause.KILLED)
    metrics.engine_restarted(Cause.KILLED)
    metrics.engine_phase_seconds(Phase.LOADING, 20.5)
    metrics.model_downloaded(7_000_000)
    assert value(metrics, "sidecar_engine_restarts_total", cause="killed") == 2
    assert value(metrics, "sidecar_engine_phase_seconds", phase="loading") == 20.5
    assert value(metrics, "sidecar_model_download_bytes") == 7_000_000


def test_requests_are_in_flight_from_the_door_to_the_last_byte() -> None:
    metrics = Metrics()
    record = finished()
    metrics.began(record)
    metrics.began(finished())
    assert value(metrics, "sidecar_requests_in_flight", route="chat") == 2
    metrics.ended(record)
    assert value(metrics, "sidecar_requests_in_flight", route="chat") == 1


def test_the_build_says_its_version() -> None:
    (family,) = [f for f in families(Metrics()) if f.name == "sidecar_build_info"]
    assert [sample.labels["version"] for sample in family.samples] == [__version__]


def test_each_app_counts_for_itself() -> None:
    one, other = measured(full()), Metrics()
    assert total(one, "sidecar_requests_total") == 1
    assert total(other, "sidecar_requests_total") == 0


def bounds(metrics: Metrics, name: str) -> list[float]:
    samples = [s for f in families(metrics) if f.name == name for s in f.samples]
    return [float(s.labels["le"]) for s in samples if s.name.endswith("_bucket")]


@pytest.fixture(scope="module")
def vllm_buckets() -> dict[str, Any]:
    """vLLM's own table, without importing vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    return runpy.run_path(str(Path(spec.origin).parent / "v1/metrics/buckets.py"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("sidecar_time_to_first_token_seconds", "TIME_TO_FIRST_TOKEN_BUCKETS"),
        ("sidecar_inter_token_latency_seconds", "INTER_TOKEN_LATENCY_BUCKETS"),
        ("sidecar_request_duration_seconds", "REQUEST_LATENCY_BUCKETS"),
    ],
)
def test_bounds_are_the_engines_so_that_one_can_be_subtracted_from_the_other(
    vllm_buckets: dict[str, Any], ours: str, theirs: str
) -> None:
    own, engine = bounds(measured(full()), ours), [*vllm_buckets[theirs], float("inf")]
    assert [bound for bound in own if bound >= engine[0]] == engine
    assert own == sorted(own)
