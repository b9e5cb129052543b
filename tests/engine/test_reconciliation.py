"""Log, metrics, spans and the engine's own counters, after a mixed run against real vLLM.

docs/metrics.md has the table of a longer run, and says what every difference is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.collector import Collector, TakenSpan
from tests.engine import mixed_run
from tests.engine.conftest import READY_SECONDS
from tests.engine.mixed_run import Case
from tests.engine.service import Line, Service, wait_until
from tests.patience import PATIENCE

pytestmark = pytest.mark.engine

# With more of them, and `pytest -s`: the table of docs/metrics.md.
ROUNDS = int(os.environ.get("MIXED_RUN_ROUNDS", "2"))
AT_ONCE = 4
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
OURS = dict(
    zip(TOKENS, ("prompt_tokens", "cached_prompt_tokens", "completion_tokens"), strict=True)
)
THEIRS = dict(
    zip(TOKENS, ("prompt_tokens", "prompt_tokens_cached", "generation_tokens"), strict=True)
)
_ENGINES_SPAN = "llm_request"
# Answered by the sidecar itself: the engine never hears of them.
_OWN_ERRORS = {"unknown_route"}


@dataclass(frozen=True)
class Page:
    """Samples of a page, by name and labels."""

    samples: Counter[tuple[str, frozenset[tuple[str, str]]]]

    @classmethod
    def of(cls, service: Service, path: str) -> Page:
        found = Counter[tuple[str, frozenset[tuple[str, str]]]]()
        for family in parse(service.client.get(path).text):
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] = sample.value  # type: ignore[assignment]
        return cls(found)

    def total(self, name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(v for (n, have), v in self.samples.items() if n == name and wanted <= {*have})


@dataclass(frozen=True)
class Run:
    """What came of it: each request with its line, and what both pages counted meanwhile."""

    lines: list[tuple[Case, Line]]
    ours: dict[bool, Page]
    engine: dict[bool, Page]
    collector: Collector

    def logged(self, name: str) -> int:
        return sum(line.get(name, 0) for _, line in self.lines)

    def of(self, outcome: str) -> list[tuple[Case, Line]]:
        return [(case, line) for case, line in self.lines if line["outcome"] == outcome]

    def counted(self, name: str, **labels: str) -> float:
        """How much one of our counters grew."""
        return self.ours[True].total(name, **labels) - self.ours[False].total(name, **labels)

    def span(self, line: Line) -> TakenSpan:
        """The sidecar's span of a request."""
        (span,) = self.collector.of(line["request_id"])
        return span

    def engine_counted(self, name: str, **labels: str) -> float:
        """How much one of the engine's grew."""
        return self.engine[True].total(name, **labels) - self.engine[False].total(name, **labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, picture: bytes) -> Iterator[Run]:
    environ = {
        "ENABLE_PROMPT_TOKENS_DETAILS": "true",
        "ENABLE_PER_REQUEST_METRICS": "true",
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        "TOOL_CALL_PARSER": "hermes",
    }
    with (
        Collector() as collector,
        Service(
            tmp_path_factory.mktemp("service"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="200",
            **environ,
        ) as service,
    ):
        service.wait_for("ready", READY_SECONDS)
        ours, engine = {False: Page.of(service, "/metrics")}, {False: engine_page(service)}
        ids = mixed(service, picture, ROUNDS)
        lines = [(case, service.access(request_id)) for request_id, case in ids.items()]
        wait_until_idle(service)
        ours[True], engine[True] = Page.of(service, "/metrics"), engine_page(service)
        run = Run(lines, ours, engine, collector)
        wait_until(lambda: all_spans_have_come(run), PATIENCE, "a span for each request")
        print(f"\n{table(run)}")
        yield run


def all_spans_have_come(run: Run) -> bool:
    """Ours, and as many of the engine's as it has finished generations."""
    finished = run.engine_counted("vllm:request_success_total")
    ours = {
        span.span_id for span in run.collector.spans() if "sidecar.request_id" in span.attributes
    }
    below = [span for span in run.collector.spans(_ENGINES_SPAN) if span.parent_id in ours]
    return len(ours) >= len(run.lines) and len(below) >= finished


def engine_page(service: Service) -> Page:
    return Page.of(service, "/metrics/engine")


def mixed(service: Service, picture: bytes, rounds: int) -> dict[str, Case]:
    """Answered and refused several at once, left one by one; cases by request id."""
    cases = [*mixed_run.answered(picture), *mixed_run.refused()] * rounds
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ids = pool.map(lambda case: mixed_run.ask(service, case), cases)
        asked = dict(zip(ids, cases, strict=True))
    for case in mixed_run.left() * rounds:
        asked[mixed_run.ask_and_leave(service, case)] = case
    return asked


def wait_until_idle(service: Service) -> None:
    def idle() -> bool:
        return service.metric("vllm:num_requests_running", "/metrics/engine") == 0

    wait_until(idle, PATIENCE, "an idle engine")


def table(run: Run) -> str:
    """What docs/metrics.md shows: log, our metrics, the engine's counter, and the difference."""
    rows: list[tuple[object, ...]] = []
    for name in TOKENS:
        engine = run.engine_counted(f"vllm:{THEIRS[name]}_total")
        logged, counted = run.logged(name), run.counted(f"sidecar_{OURS[name]}_total")
        rows.append((name, logged, int(counted), int(engine), int(engine) - logged))
    rows.append(("requests", len(run.lines), int(run.counted("sidecar_requests_total"))))
    left = run.of("client_closed")
    rows.append(("read again for n", read_again(run)))
    rows.append(("read for leavers", read_for_leavers(run), len(left)))
    rows.append(("their events", sum(line.get("generated_events", 0) for _, line in left)))
    rows.append(("outcomes", Counter(str(line["outcome"]) for _, line in run.lines)))
    return "\n".join(" | ".join(map(str, row)) for row in rows)


def prompt_tokens_of(run: Run, asked: Case) -> int:
    """How long the prompt of a client that left was: that of one who asked the same and stayed."""
    names = ("messages", "prompt", "input")
    same = (
        int(line["prompt_tokens"])
        for case, line in run.of("ok")
        if case.path == asked.path
        and all(case.body.get(name) == asked.body.get(name) for name in names)
    )
    return next(same)


def test_every_request_is_a_line_and_is_counted_once(run: Run) -> None:
    lines = [line for _, line in run.lines]
    assert len({line["request_id"] for line in lines}) == len(lines)
    for key, number in Counter((line["route"], line["outcome"]) for line in lines).items():
        assert run.counted("sidecar_requests_total", route=key[0], outcome=key[1]) == number, key
    assert run.counted("sidecar_requests_total") == len(lines)
    assert run.counted("sidecar_request_duration_seconds_count") == len(lines)
    assert run.ours[True].total("sidecar_requests_in_flight") == 0


def test_the_run_held_what_it_should(run: Run) -> None:
    outcomes = Counter(line["outcome"] for _, line in run.lines)
    assert outcomes["ok"] + outcomes["client_closed"] == ROUNDS * 29
    assert outcomes["client_error"] == ROUNDS * 5
    if outcomes["client_closed"] < ROUNDS:
        # On few cores that others use too, vLLM gives a whole answer at once, at its end.
        pytest.skip("vLLM kept its tokens until the end: nobody could leave before it")
    assert {line["route"] for _, line in run.of("ok")} == {
        *("chat", "completions", "responses", "messages")
    }
    assert run.logged("cached_tokens") > 0
    assert "tool_calls" in {line.get("finish_reason") for _, line in run.lines}


def test_the_engine_counted_the_same_requests(run: Run) -> None:
    relayed = [line for _, line in run.lines if line.get("error") not in _OWN_ERRORS]
    # The engine had said 200 before the client left.
    logged = Counter(
        (line["path"], "2xx" if line["status"] in (200, 499) else f"{line['status'] // 100}xx")
        for line in relayed
    )
    for (path, status), number in logged.items():
        assert run.engine_counted("http_requests_total", handler=path, status=status) == number
    generations = sum(case.generations for case, _ in run.of("ok"))
    # The engine may have come to the end before it heard that a client had left.
    finished = run.engine_counted("vllm:request_success_total")
    assert generations <= finished <= generations + len(run.of("client_closed"))


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_in_the_log_are_those_in_our_metrics(run: Run, name: str) -> None:
    assert run.counted(f"sidecar_{OURS[name]}_total") == run.logged(name) > 0


def read_again(run: Run) -> int:
    """Of a prompt that is generated for `n` times, vLLM's usage counts one, its counter `n`."""
    ok = run.of("ok")
    return sum(line["prompt_tokens"] * (case.body.get("n", 1) - 1) for case, line in ok)


def read_for_leavers(run: Run) -> int:
    return sum(prompt_tokens_of(run, case) for case, _ in run.of("client_closed"))


def test_prompt_tokens_are_the_engines(run: Run) -> None:
    engine = run.engine_counted("vllm:prompt_tokens_total")
    assert engine - run.logged("prompt_tokens") == read_again(run) + read_for_leavers(run)


def test_cached_tokens_are_the_engines(run: Run) -> None:
    assert run.engine_counted("vllm:prompt_tokens_cached_total") == run.logged("cached_tokens")


def test_completion_tokens_are_the_engines(run: Run) -> None:
    """But for those of clients that left: of them the log has events, each of a token or more."""
    left = run.of("client_closed")
    assert all("completion_tokens" not in line for _, line in left)
    events = sum(line.get("generated_events", 0) for _, line in left)
    untold = run.engine_counted("vllm:generation_tokens_total") - run.logged("completion_tokens")
    assert events <= untold <= 3900 * len(left)


def test_the_engines_own_times_are_in_the_line(run: Run) -> None:
    timed = [line for _, line in run.of("ok") if "engine_ttft_ms" in line]
    assert {line["route"] for line in timed} == {"chat", "completions", "responses"}
    single = [
        line
        for case, line in run.of("ok")
        if case.generations == 1 and case.path != mixed_run.MESSAGES
    ]
    assert len(timed) == len(single)
    for line in timed:
        assert line["engine_queue_ms"] + line["engine_ttft_ms"] <= line["duration_ms"], line
        if "ttft_ms" in line:
            # A few ms for the two clocks of the engine's processes, which are rounded too.
            assert line["engine_queue_ms"] + line["engine_ttft_ms"] <= line["ttft_ms"] + 5, line


def test_spans_say_what_lines_say(run: Run) -> None:
    ours = [span for span in run.collector.spans() if "sidecar.request_id" in span.attributes]
    assert len(ours) == len(run.lines)
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    for _, line in run.lines:
        span = run.span(line)
        assert span.trace_id == line["trace_id"]
        assert span.attributes["sidecar.outcome"] == line["outcome"]
        assert (span.end - span.start) / 1e6 == pytest.approx(line["duration_ms"], abs=0.01)
        for field, name in names.items():
            assert span.attributes.get(f"gen_ai.usage.{name}") == line.get(field)


def test_the_engines_spans_are_below_ours(run: Run) -> None:
    for case, line in run.of("ok"):
        span = run.span(line)
        assert span.resource["service.name"] == "vllm-sidecar"
        below = [each for each in run.collector.spans() if each.parent_id == span.span_id]
        assert [each.name for each in below] == [_ENGINES_SPAN] * case.generations, line
        for each in below:
            assert each.trace_id == span.trace_id
            assert each.resource["service.name"] == "vllm"
        generated = sum(each.attributes["gen_ai.usage.completion_tokens"] for each in below)
        assert generated == line["completion_tokens"], line
