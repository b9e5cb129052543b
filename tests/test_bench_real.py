"""`python -m bench --real`: what it asks the stock client, and what it makes of its answers.

The run itself takes minutes and real vLLM; here is all of it that is neither.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import real, report
from bench.process import Child
from bench.result import Result
from bench.rounds import Measured
from bench.targets import REAL_TARGETS
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parent.parent
# As vLLM 0.32 writes it, without the lists of every request.
CLIENTS_RESULT: dict[str, Any] = {
    "date": "20261120-162720",
    "completed": 256,
    "failed": 1,
    "duration": 11.25,
    "total_output_tokens": 32768,
    "output_throughput": 2912.7,
    "median_ttft_ms": 319.4,
    "p99_ttft_ms": 3326.67,
    "median_itl_ms": 14.45,
    "p99_itl_ms": 112.01,
}


def measured(subject: str, number: int, **figures: float) -> Measured:
    return Measured(subject, number, {real.WORKLOAD: figures})


def result(*rounds: Measured) -> Result:
    versions = {"direct": "vllm 0.32.0", "ours": "abc1234"}
    return Result("2026-11-20T16:30:00Z", {"python": "3.11"}, versions, {}, list(rounds))


THREE_ROUNDS = result(
    measured("direct", 1, tokens_per_second=8000, ttft_p50_ms=100, failed=0),
    measured("ours", 1, tokens_per_second=7600, ttft_p50_ms=110, failed=0, cpu_us_per_token=40),
    measured("ours", 2, tokens_per_second=8800, ttft_p50_ms=120, cpu_us_per_token=44),
    measured("direct", 2, tokens_per_second=8000, ttft_p50_ms=100),
    measured("direct", 3, tokens_per_second=4000, ttft_p50_ms=200),
    measured("ours", 3, tokens_per_second=3920, ttft_p50_ms=200, cpu_us_per_token=42),
    measured("direct", 4, tokens_per_second=9000, ttft_p50_ms=90),
)


def test_the_figures_are_the_clients_own() -> None:
    assert real.figures_of(CLIENTS_RESULT) == {
        "done": 256.0,
        "failed": 1.0,
        "seconds": 11.25,
        "tokens": 32768.0,
        "tokens_per_second": 2912.7,
        "ttft_p50_ms": 319.4,
        "ttft_p99_ms": 3326.67,
        "itl_p50_ms": 14.45,
        "itl_p99_ms": 112.01,
    }


def test_the_client_is_asked_the_same_of_both_but_for_the_port(tmp_path: Path) -> None:
    sidecar = Child([sys.executable, "-c", ""], log=tmp_path / "log")
    ports = {"direct": 8001, "ours": 8000}
    service = real.Service(ports, {"ours": sidecar}, "demo", "/models/demo")
    sidecar.stop()
    direct, ours = (real.client_command(service, name, real.FULL, seed=3) for name in ports)
    differ = [pair for pair in zip(direct, ours, strict=True) if pair[0] != pair[1]]
    assert differ == [("http://127.0.0.1:8001", "http://127.0.0.1:8000")]
    assert ours[1:3] == ["bench", "serve"]
    for option, value in (("max-concurrency", "64"), ("seed", "3"), ("tokenizer", "/models/demo")):
        assert ours[ours.index(f"--{option}") + 1] == value


def test_the_ratio_is_taken_round_by_round() -> None:
    # The machine was half as fast in the third round; the fourth has only one of the two.
    assert THREE_ROUNDS.ratios("real", "tokens_per_second") == [0.95, 1.1, 0.98]
    assert THREE_ROUNDS.middle_ratio("real", "tokens_per_second") == 0.98
    assert THREE_ROUNDS.ratios("real", "cpu_us_per_token") == []
    assert THREE_ROUNDS.ratios("real", "tokens_per_second", "haproxy") == []
    assert result().middle_ratio("real", "tokens_per_second") is None


def test_the_table_has_both_their_spread_and_the_ratio() -> None:
    rows = [line.split(" | ") for line in report.real_tables(THREE_ROUNDS).splitlines()]
    by_name = {row[0].removeprefix("| "): row[1:] for row in rows if row[0].startswith("| ")}
    assert by_name["direct"][0] == "8,000 (4,000-9,000)"
    assert by_name["ours"][0] == "7,600 (3,920-8,800)"
    assert by_name["ours"][-1].startswith("42.0 (40.0-44.0)")
    assert by_name["direct"][-1].startswith("-")
    assert by_name["ours"][-2] == "0"
    assert by_name["ours / direct"][-2] == "-"
    assert by_name["ours / direct"][:2] == ["0.980 (0.950-1.100)", "1.100 (1.000-1.200)"]


@pytest.mark.parametrize(("ours", "verdict"), [(97, "missed"), (98, "reached"), (99, "reached")])
def test_the_target_is_the_least_that_is_good(ours: float, verdict: str) -> None:
    found = result(
        measured("direct", 1, tokens_per_second=100), measured("ours", 1, tokens_per_second=ours)
    )
    (target,) = REAL_TARGETS
    ratio = target.value(found)
    assert ratio is not None
    assert target.reached(ratio) is (verdict == "reached")
    assert f"| {ours / 100:.3g} | at least 0.98 | {verdict} |" in report.real_tables(found)


@pytest.mark.parametrize("place", [report.SIDE_BY_SIDE, report.WITH_VLLM])
def test_tables_take_the_place_of_those_of_the_last_run(
    tmp_path: Path, place: report.Place
) -> None:
    page = tmp_path / "page.md"
    page.write_text(report.PAGE.read_text())
    report.write_page(place, "new tables", page)
    report.write_page(place, "newer tables", page)
    before, _, rest = report.PAGE.read_text().partition(place.begin)
    after = rest.partition(place.end)[2]
    expected = f"{before}{place.begin}\n\nnewer tables\n\n{place.end}{after}"
    assert page.read_text() == expected
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has no markers"):
        report.write_page(place, "lost", page)


def test_without_vllm_it_says_so_in_one_line() -> None:
    code = "from bench import __main__, real; real.vllm_version = lambda: None; "
    done = subprocess.run(
        [sys.executable, "-c", code + "raise SystemExit(__main__.main(['--real']))"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "bench: vLLM is not installed, nothing to measure with --real\n"
