"""Figures of a level from requests whose every moment is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.bench.result import Errors, Level, Run, Sample, Spread, json_of, level_of, read_run
from proxy.errors import SettingsError
from proxy.telemetry.record import Record


def sample(
    first: float | None = 1.0,
    *,
    tokens: int = 11,
    gap: float = 0.1,
    usage: int | None = None,
    **more: Any,
) -> Sample:
    """Begun at 0; `first` and `gap` are seconds; it ends with its last token."""
    record = Record("POST", "/v1/chat/completions", "chat", started=0.0)
    now = first or 0.0
    if first is not None:
        for number in range(tokens):
            now = first + number * gap
            record.token_event(now)
    record.finished = now
    record.completion_tokens = usage
    return Sample(record, **more)


def level(*samples: Sample, seconds: float = 10, slo_ttft_ms: float = 2000) -> Level:
    return level_of(4, seconds, samples, slo_ttft_ms, 0.5)


def run_of(*levels: Level, **more: Any) -> Run:
    given: dict[str, Any] = {
        "url": "http://127.0.0.1:8000",
        "model": "demo",
        "measured_at": "2026-11-28T19:12:34+00:00",
        "without": (),
        "has_usage": True,
        "interrupted": False,
    }
    return Run(**{**given, **more}, levels=levels)


def test_times_are_those_of_the_log() -> None:
    figures = level(sample(1.0, tokens=11, gap=0.1, usage=11))
    assert figures.ttft_ms == Spread(1000, 1000, 1000, 1000)
    assert figures.itl_mean_ms == Spread(100, 100, 100, 100)
    assert figures.itl_max_ms == 100
    assert figures.tokens_per_second_each == 10  # ten tokens after the first, in one second
    assert figures.tokens_per_second == 1.1  # eleven, in a window of ten seconds
    assert figures.requests_per_second == 0.1


def test_percentiles_are_values_of_requests() -> None:
    figures = level(*(sample(number / 1000) for number in range(1, 201)))
    assert figures.ttft_ms == Spread(100, 190, 198, 200)
    few = level(sample(0.1), sample(0.2), sample(0.3))
    assert few.ttft_ms == Spread(200, 300, 300, 300)


def test_rates_count_only_what_was_generated_in_the_window() -> None:
    """It had 4 of its 10 events when the window closed; each of them is of two tokens."""
    late = sample(tokens=10, usage=20, window_events=4)
    waiting = sample(None, unfinished=True, window_events=0)
    figures = level(late, waiting, seconds=1)
    assert figures.tokens_per_second == 8
    assert figures.requests_per_second == 0
    assert (figures.finished, figures.unfinished) == (1, 1)


def test_without_usage_events_are_tokens() -> None:
    figures = level(sample(tokens=11, gap=0.1, usage=None))
    assert figures.tokens_per_second == 1.1
    assert figures.tokens_per_second_each == 10
    assert figures.completion_tokens == 11
    assert figures.prompt_tokens is None


def test_what_failed_is_counted_apart_and_its_first_message_kept() -> None:
    figures = level(
        sample(),
        sample(None, error=("429", "Too many.")),
        sample(None, error=("429", "Still too many.")),
        sample(0.1, error=("broken stream", "it ended without [DONE]")),
    )
    assert figures.failed == 3
    assert figures.errors == {
        "429": Errors(2, "Too many."),
        "broken stream": Errors(1, "it ended without [DONE]"),
    }
    assert figures.ttft_ms == Spread(1000, 1000, 1000, 1000)
    assert figures.tokens_per_second == 1.1
    assert figures.in_time == 0.25


@pytest.mark.parametrize(
    ("slow", "failed", "keeps"),
    [(0, 0, True), (1, 0, True), (2, 0, False), (0, 1, True), (1, 1, False)],
)
def test_an_objective_is_kept_by_19_of_20(slow: int, failed: int, keeps: bool) -> None:
    good = [sample(2.0)] * (20 - slow - failed)
    figures = level(*good, *[sample(2.001)] * slow, *[sample(None, error=("500", ""))] * failed)
    assert figures.keeps_objective is keeps


def test_a_stream_that_was_cut_too_early_is_no_evidence() -> None:
    """Without a token after 3 s it has missed 2 s; after 1 s nobody knows."""
    early, late = (sample(None, unfinished=True) for _ in range(2))
    early.record.finished, late.record.finished = 1.0, 3.0
    assert level(sample(), early).in_time == 1
    assert level(sample(), late).in_time == 0.5


def test_a_level_without_any_answer_has_no_times() -> None:
    figures = level(sample(None, error=("500", "No.")))
    assert (figures.ttft_ms, figures.itl_mean_ms, figures.itl_max_ms) == (None, None, None)
    assert (figures.tokens_per_second, figures.in_time) == (0, 0)


def test_the_cache_is_seen_where_the_endpoint_tells() -> None:
    one = sample()
    one.record.prompt_tokens, one.record.cached_tokens = 100, 75
    assert level(one).cached == 0.75
    assert level(sample()).cached is None


def test_a_million_tokens_cost_what_the_gpus_cost_meanwhile() -> None:
    """1000 tokens a second are 3.6 million an hour."""
    run = run_of(gpu_price_per_hour=1.80, gpus=2)
    assert run.cost_of_a_million(1000) == pytest.approx(1.0)
    assert run.cost_of_a_million(0) is None
    assert run_of().cost_of_a_million(1000) is None


# The file --------------------------------------------------------------------------------------


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = run_of(level(sample(), sample(None, error=("429", "Too many."))))
    file = tmp_path / "before.json"
    file.write_bytes(json_of(run))
    assert read_run(str(file)) == run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no result of bench"),
        (b'{"url": "x"}', "no result of bench"),
        (b"\xff\xfe", "no result of bench"),
        (b"[" * 100_000, "no result of bench"),
        (json_of(run_of()).replace(b'"version": 1', b'"version": 2'), "version 2"),
    ],
    ids=["empty", "other", "binary", "deep", "newer"],
)
def test_another_file_is_told_in_one_line(tmp_path: Path, text: bytes, words: str) -> None:
    file = tmp_path / "other.json"
    file.write_bytes(text)
    with pytest.raises(SettingsError, match=words) as caught:
        read_run(str(file))
    assert "\n" not in str(caught.value)
