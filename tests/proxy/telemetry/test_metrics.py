"""The page that Prometheus reads says the same as the records, in few and closed labels."""

from __future__ import annotations

import asyncio
import random
import runpy
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy import __version__
from proxy.access.routes import GENERATING, Route
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.machine.reading import DiskReading, GpuReading
from proxy.telemetry import catalogue, key_series
from proxy.telemetry import family as family_module
from proxy.telemetry import metrics as metrics_module
from proxy.telemetry.catalogue import DECLARED, DURATION_BUCKETS, ITL_BUCKETS, TTFT_BUCKETS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Outcome, Record
from proxy.vllm.reading import EngineReading
from tests.proxy.telemetry.records import finished, full
from tests.proxy.telemetry.reference import Reference
from tests.tools import installed

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
GPU = GpuReading(1, 0.5, 12e9, 48e9, 61, 250)


def measured(*records: Record, served: tuple[str, ...] = ("demo", "alias")) -> Metrics:
    metrics = Metrics()
    metrics.requests.served_models = served
    metrics.keys.set_labels(["alice"])
    for record in records:
        metrics.requests.began(record)
        metrics.requests.ended(record)
        metrics.keys.add(record)
    return metrics


def page_of(metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    return asyncio.run(metrics.page(accept))


def families(metrics: Metrics) -> list[Metric]:
    return list(parse_text(page_of(metrics)[0].decode()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def total(metrics: Metrics, name: str) -> float:
    """The sum of a sample over all its labels."""
    samples = [sample for family in families(metrics) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def queried(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_every_declared_metric_is_on_the_page_with_its_type_and_labels_and_no_other() -> None:
    metrics = measured(full())
    metrics.add_engine("two")
    metrics.engine_phase_seconds(Phase.LOADING, 3, "two")
    metrics.model_downloaded(1, "two")
    metrics.gauges.gpus = lambda: (GPU,)
    reading = EngineReading(running=3, waiting=0, kv_cache_usage=0.25)
    metrics.gauges.engines = lambda: [("two", reading)]
    metrics.gauges.waiting = lambda: [("two", 1)]
    metrics.gauges.models = lambda: [("two", "ready")]
    metrics.gauges.model_memory = lambda: [(("two", "0"), 5e9)]
    metrics.families[catalogue.MODEL_LOADS].child("two", "cold", "ok")
    metrics.families[catalogue.MODEL_LOAD_SECONDS].child("two", "cold")
    metrics.families[catalogue.MODEL_EVICTIONS].child("two", "idle")
    metrics.families[catalogue.MODEL_WAIT].child("two")
    found = {
        queried(family): (
            family.type,
            family.documentation,
            {name for sample in family.samples for name in sample.labels} - {"le"},
        )
        for family in families(metrics)
    }
    assert found == {each.name: (each.kind, each.text, set(each.labels)) for each in DECLARED}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, OPENMETRICS),
        (f"{OPENMETRICS};q=0.5,text/plain;q=0.4", OPENMETRICS),
    ],
)
def test_the_page_is_in_the_format_that_was_asked_for(accept: str, content_type: str) -> None:
    page, announced = page_of(measured(full()), accept)
    assert announced.startswith(content_type)
    parse = parse_openmetrics if accept.startswith(OPENMETRICS) else parse_text
    names = {family.name for family in parse(page.decode())}
    assert "sidecar_request_duration_seconds" in names
    assert page.endswith(b"# EOF\n") == accept.startswith(OPENMETRICS)


def test_requests_that_outlive_100_seconds_are_counted() -> None:
    quick, slow = finished(route=Route.CHAT), finished(route=Route.CHAT)
    quick.started, quick.finished = 0, 100
    slow.started, slow.finished = 0, 100.5
    metrics = measured(quick, slow, finished(route=Route.MESSAGES))
    name = "sidecar_requests_over_100_seconds_total"
    assert value(metrics, name, route="chat") == 1
    assert value(metrics, name, route="messages") == 0, "there from the first request on"


@pytest.mark.parametrize(
    ("model", "served", "label"),
    [
        ("alias", ("demo", "alias"), "alias"),
        ("unheard-of", ("demo",), "other"),
        ("demo", (), "other"),
        ('x"} 1\nforged_metric 1', ("demo",), "other"),
        (None, ("demo", "alias"), "demo"),
    ],
)
def test_a_model_is_a_served_name_or_other(
    model: str | None, served: tuple[str, ...], label: str
) -> None:
    metrics = measured(finished(model=model), served=served)
    assert label_values(metrics, "model") - {""} == {label}


def test_clients_cannot_make_series() -> None:
    metrics = measured(finished(model="a", path="/a"))
    before = page_of(metrics)[0].count(b"\n")
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
        metrics.requests.began(record)
        metrics.requests.ended(record)
    assert page_of(metrics)[0].count(b"\n") == before


def label_values(metrics: Metrics, name: str) -> set[str]:
    samples = [sample for family in families(metrics) for sample in family.samples]
    return {sample.labels[name] for sample in samples if name in sample.labels}


def test_series_that_are_known_from_the_start_are_there_as_zero() -> None:
    metrics = Metrics()
    for cause in Cause:
        assert value(metrics, "sidecar_engine_restarts_total", cause=cause) == 0
    for modality in ("image", "video", "audio"):
        assert value(metrics, "sidecar_inputs_total", modality=modality) == 0
    assert label_values(metrics, "phase") == {str(phase) for phase in Phase}


def series(metrics: Metrics, **labels: str) -> int:
    """How many series have these labels."""
    samples = [sample for family in families(metrics) for sample in family.samples]
    return sum(labels.items() <= sample.labels.items() for sample in samples)


def test_each_served_model_has_all_its_series_from_the_start_and_under_a_hundred() -> None:
    metrics = Metrics(GENERATING)
    for route in GENERATING:
        assert value(metrics, "sidecar_requests_in_flight", route=route) == 0
    metrics.keys.set_labels(["alice"])
    metrics.requests.served_models = ("demo", "alias")
    assert series(metrics, model="other") == 0
    for model in ("demo", "alias"):
        assert series(metrics, model=model) == 95
        for route in GENERATING:
            for outcome in Outcome:
                labels = {"route": route, "model": model, "outcome": outcome}
                assert value(metrics, "sidecar_requests_total", **labels) == 0
    metrics.families[catalogue.MODEL_WAIT].child("")  # as the pool does
    before = series(metrics)
    records = [
        full(),
        *(finished(route=r, model="demo", outcome=o) for r in GENERATING for o in Outcome),
    ]
    for record in records:
        metrics.requests.began(record)
        metrics.requests.ended(record)
    assert series(metrics) == before, "nothing that matters appears later"


def test_a_trace_that_nobody_keeps_is_no_exemplar() -> None:
    record = full()
    assert record.traceparent is not None
    record.traceparent = record.traceparent[:-1] + "2"
    assert record.trace_id is not None
    assert "trace_id" not in page_of(measured(record), OPENMETRICS)[0].decode()


def test_the_engine_is_in_one_phase_at_a_time() -> None:
    metrics = Metrics()
    for phase in (Phase.LOADING, Phase.READY):
        metrics.engine_phase(phase)
        assert value(metrics, "sidecar_engine_state", phase=phase) == 1
        assert total(metrics, "sidecar_engine_state") == 1


def test_what_was_read_off_the_engine_and_the_gpus_is_shown() -> None:
    metrics = Metrics()
    reading = EngineReading(running=3, waiting=0, kv_cache_usage=0.25)
    metrics.gauges.engines = lambda: [("", reading)]
    metrics.gauges.gpus = lambda: (GpuReading(0, utilization=0.0), GPU)
    assert value(metrics, "sidecar_engine_requests_running") == 3
    assert value(metrics, "sidecar_engine_requests_waiting") == 0
    assert value(metrics, "sidecar_engine_kv_cache_usage_ratio") == 0.25
    assert value(metrics, "sidecar_gpu_utilization_ratio", gpu="0") == 0
    assert value(metrics, "sidecar_gpu_power_watts", gpu="0") is None
    assert value(metrics, "sidecar_gpu_utilization_ratio", gpu="1") == 0.5
    assert value(metrics, "sidecar_gpu_memory_used_bytes", gpu="1") == 12e9
    assert value(metrics, "sidecar_gpu_memory_total_bytes", gpu="1") == 48e9
    assert value(metrics, "sidecar_gpu_temperature_celsius", gpu="1") == 61
    assert value(metrics, "sidecar_gpu_power_watts", gpu="1") == 250


def test_the_disk_and_the_price_are_shown_where_they_are_known() -> None:
    metrics = Metrics()
    metrics.gauges.disk = lambda: DiskReading(free_bytes=0, total_bytes=5e9)
    metrics.gauges.price_per_hour = 1.99
    assert value(metrics, "sidecar_model_disk_free_bytes") == 0
    assert value(metrics, "sidecar_model_disk_total_bytes") == 5e9
    assert value(metrics, "sidecar_gpu_price_per_hour_dollars") == 1.99


def test_a_gauge_that_is_not_known_has_no_sample() -> None:
    unknown = ("sidecar_gpu_", "sidecar_engine_requests_", "sidecar_engine_kv_", "sidecar_model_")
    samples = [s for f in families(Metrics()) for s in f.samples if s.name.startswith(unknown)]
    assert samples == []


def test_requests_are_in_flight_from_the_door_to_the_last_byte() -> None:
    metrics = Metrics()
    record = finished()
    metrics.requests.began(record)
    metrics.requests.began(finished())
    assert value(metrics, "sidecar_requests_in_flight", route="chat") == 2
    metrics.requests.ended(record)
    assert value(metrics, "sidecar_requests_in_flight", route="chat") == 1


def test_the_build_says_its_version() -> None:
    (family,) = [f for f in families(Metrics()) if f.name == "sidecar_build_info"]
    assert [sample.labels["version"] for sample in family.samples] == [__version__]


def bounds(metrics: Metrics, name: str) -> list[float]:
    samples = [s for f in families(metrics) if f.name == name for s in f.samples]
    return [float(s.labels["le"]) for s in samples if s.name.endswith("_bucket")]


@pytest.fixture(scope="module")
def vllm_buckets() -> dict[str, Any]:
    """vLLM's own table, without importing vLLM."""
    return runpy.run_path(str(installed("vllm") / "v1/metrics/buckets.py"))


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


# Keys -----------------------------------------------------------------------------------------


def test_a_key_is_charged_what_the_engine_says() -> None:
    metrics = measured(full(), finished(key="alice"), finished(), finished(prompt_tokens=7))
    assert value(metrics, "sidecar_key_tokens_total", key="alice") == 35 + 11
    name = "sidecar_key_requests_total"
    assert value(metrics, name, key="alice", outcome="engine_error") == 1
    assert value(metrics, name, key="alice", outcome="ok") == 1
    assert total(metrics, name) == 2


def test_series_of_a_key_that_is_removed_end_once_they_have_been_scraped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(key_series, "monotonic", lambda: now[0])
    metrics = Metrics()
    metrics.keys.set_labels(["alice", "bob", "carol"])
    metrics.keys.set_labels(["alice"])
    late = finished(key="bob", outcome=Outcome.OK, prompt_tokens=5)
    metrics.keys.add(late)
    assert value(metrics, "sidecar_key_requests_total", key="bob", outcome="ok") == 1
    now[0] += key_series.KEPT_SECONDS - 1
    metrics.keys.set_labels(["alice", "carol"])
    now[0] += 2
    assert label_values(metrics, "key") == {"alice", "carol"}
    metrics.keys.add(late)
    assert label_values(metrics, "key") == {"alice", "carol"}
    metrics.keys.set_labels(["alice", "bob", "carol"])
    assert value(metrics, "sidecar_key_requests_total", key="bob", outcome="ok") == 0
    assert value(metrics, "sidecar_key_tokens_total", key="bob") == 0


# As prometheus_client counts them ----------------------------------------------------------------


def random_records(count: int) -> list[Record]:
    chance = random.Random(7)
    bounds = (*DURATION_BUCKETS, *TTFT_BUCKETS, *ITL_BUCKETS)
    records = []
    for number in range(count):
        # Every other time exactly on a bound.
        seconds = chance.choice(bounds) if number % 2 else chance.expovariate(1)
        record = finished(
            route=chance.choice(list(Route)),
            model=chance.choice(["demo", "alias", "unheard-of"]),
            outcome=chance.choice(list(Outcome)),
            traceparent=chance.choice([None, f"00-{number:032x}-{1:016x}-0{number % 2}"]),
            images=chance.choice([0, 0, 3]),
            audios=chance.choice([0, 1]),
            bytes_in=chance.choice([0, 1024, chance.randrange(10**9)]),
            bytes_out=chance.randrange(10**12),
            prompt_tokens=chance.choice([None, 0, chance.randrange(10**7)]),
            cached_tokens=chance.choice([None, 5]),
            completion_tokens=chance.choice([None, chance.randrange(1000)]),
            client_stall_seconds=chance.choice([0.0, 0.01, chance.random()]),
            body_read=chance.choice([None, 0.001]),
            sent=chance.choice([None, 0.00125]),
            generated_events=chance.randrange(3),
        )
        record.started, record.finished = 0.0, seconds * chance.choice([1, 1, 200])
        if chance.random() < 0.6:
            record.first_token, record.last_token = seconds, seconds + chance.random()
        records.append(record)
    return records


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_the_page_has_the_bytes_that_prometheus_clients_own_metrics_would_make(
    accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1700000000.25)
    monkeypatch.setattr(family_module, "time", lambda: 1700000000.25)
    models = ("demo", "alias")
    metrics, reference = Metrics(GENERATING), Reference(models)
    metrics.requests.served_models = models
    for record in random_records(3000):
        metrics.requests.began(record)
        metrics.requests.ended(record)
        reference.add(record)
    expected = choose_encoder(accept)[0](reference.registry).decode().removesuffix("# EOF\n")
    page = page_of(metrics, accept)[0].decode()
    assert expected in page, "each metric of requests has a twin in reference.py, in this order"
    assert len(expected) > 20_000
    assert ("trace_id" in expected) == (accept == OPENMETRICS)


async def test_a_page_of_very_many_models_leaves_the_event_loop_free() -> None:
    metrics = Metrics(GENERATING)
    metrics.requests.served_models = tuple(f"model-{number}" for number in range(300))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    text, _ = await metrics.page("")
    counting.cancel()
    samples = text.count(b"\nsidecar_")
    assert samples > 28_000
    # Between two turns there is no more than a part, or 5 ms of parts.
    assert turns > 10


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_a_page_is_the_same_in_parts_of_any_size(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    metrics = measured(full())
    expected = {accept: choose_encoder(accept)[0](metrics.registry) for accept in ("", OPENMETRICS)}
    monkeypatch.setattr(metrics_module, "_SAMPLES_OF_A_PART", size)
    assert {accept: page_of(metrics, accept)[0] for accept in expected} == expected


def test_a_model_that_is_gone_has_no_series_and_gets_none_from_who_has_waited_for_it() -> None:
    metrics = Metrics(GENERATING, engines=["one", "two"])
    metrics.requests.served_models = ("one", "two", "zwei")
    metrics.requests.ended(finished(model="zwei", engine="two", prompt_tokens=3))
    metrics.families[catalogue.MODEL_LOADS].child("two", "cold", "ok")
    metrics.model_downloaded(1, "two")
    metrics.requests.served_models = ("one",)
    metrics.remove_engine("two")
    late = finished(model="two", engine="two", model_wait_seconds=3.0)
    metrics.requests.ended(late)
    metrics.waited(late)
    assert label_values(metrics, "model") == {"one", "other"}
    metrics.requests.served_models = ("one", "two")
    metrics.add_engine("two")
    assert label_values(metrics, "model") == {"one", "two", "other"}
