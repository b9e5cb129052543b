"""What is printed of a run, and of two."""

from __future__ import annotations

from proxy.bench.report import comparison, report, verdict
from proxy.bench.result import Level
from tests.proxy.bench.test_result import level, run_of, sample


def made(streams: int, ttft: float, *, slo_ttft_ms: float = 2000) -> Level:
    one = level(sample(ttft, usage=11), slo_ttft_ms=slo_ttft_ms)
    return Level(
        **{name: getattr(one, name) for name in one.__struct_fields__} | {"streams": streams}
    )


def test_the_verdict_names_the_most_streams_that_keep_the_objective() -> None:
    run = run_of(made(1, 0.1), made(8, 1.9), made(32, 2.1), gpu_price_per_hour=0.4)
    assert verdict(run) == (
        "8 streams at once keep the objective (95 % of first tokens within 2000 ms): 1.10 tokens a "
        "second; a million generated tokens cost $101 (1 GPU at $0.40 an hour)."
    )


def test_the_verdict_says_that_more_were_not_tried() -> None:
    assert verdict(run_of(made(1, 0.1), made(8, 0.1))).startswith(
        "8 streams at once, the most that were tried, keep the objective"
    )
    assert verdict(run_of(made(1, 0.1), made(8, 9))).startswith("1 stream at once keeps the")


def test_the_verdict_says_what_the_best_level_had() -> None:
    assert verdict(run_of(made(1, 3), made(8, 4))) == (
        "No level keeps the objective (95 % of first tokens within 2000 ms): the best has 0 % with "
        "1 stream."
    )
    assert verdict(run_of()) == "Nothing was measured."


def test_columns_are_aligned() -> None:
    lines = list(report(run_of(made(1, 0.1), made(1024, 12.3))))
    head = next(line for line in lines if line.startswith("STREAMS"))
    rows = lines[lines.index(head) + 1 :][:2]
    assert {len(line) for line in (head, *rows)} == {len(head)}
    words = "STREAMS DONE FAILED CUT TTFT p50 p95 p99 ITL p50 p95 max TOKENS/S EACH IN TIME"
    assert " ".join(head.split()) == words
    assert rows[1].split()[:7] == ["1024", "1", "0", "0", "12300", "12300", "12300"]
    assert len(head) <= 100


def test_notes_say_what_makes_figures_doubtful() -> None:
    one = sample(usage=97)
    one.record.prompt_tokens, one.record.cached_tokens = 100, 75
    busy = level(one, sample(None, error=("429", "Too many.")))
    busy = Level(
        **{name: getattr(busy, name) for name in busy.__struct_fields__} | {"generator_cpu": 0.95}
    )
    text = "\n".join(report(run_of(busy, without=("ignore_eos",), interrupted=True)))
    assert "The endpoint does not take ignore_eos." in text
    assert "4 streams: 1 failed (429): Too many." in text
    assert "4 streams: bench itself used 95 % of a core, so times may be its own" in text
    assert "4 streams: 75 % of the prompts' tokens came from the prefix cache" in text
    assert "Prompts had 100 tokens on average, not 256." in text
    assert "Answers had 97 tokens on average, not 128." in text
    assert "Interrupted: the last level is not whole." in text


def test_a_comparison_has_the_ratio_of_each_level_that_both_have() -> None:
    before, after = run_of(made(1, 0.2), made(8, 0.4)), run_of(made(8, 0.3), model="other")
    lines = list(comparison(before, after))
    assert "model demo" in lines[0]
    assert "model other" in lines[1]
    rows = [line.split() for line in lines if line.lstrip().startswith("8  ")]
    assert rows[0] == ["8", "TTFT", "p50,", "ms", "400", "300", "0.75"]
    assert not [line for line in lines if line.lstrip().startswith("1  ")]
    assert lines[-2].startswith("before: ")
    assert lines[-1].startswith("after:  ")


def test_a_comparison_says_that_the_loads_differ() -> None:
    text = "\n".join(comparison(run_of(made(1, 1)), run_of(made(8, 1), images=2)))
    assert "Not the same load, so the ratios compare two things: prompts of 256 tokens, " in text
    assert "and 2 pictures of 256 x 256" in text
    assert "They have no level in common." in text
