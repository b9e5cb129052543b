"""Times in the log are those that a client measures on the same machine.

How near they are is what `python -m bench --clock` prints.
"""

from __future__ import annotations

from bench.clock import Timed, differences, measure, percentiles, read_log, report
from tests.wire.service import Sidecar


def test_the_log_and_a_client_measure_the_same(service: Sidecar) -> None:
    script = {"tokens": 12, "first_ms": 40, "interval_ms": 5}
    service.engine.script("/v1/chat/completions", **script)
    timed = measure(service.port, "tiny", streams=20, tokens=12)
    for each in timed:  # as the engine paced it: a client that reads late sees smaller gaps
        assert each.ttft_ms >= 40
        assert each.ttft_ms + 11 * each.gap_ms >= 40 + 11 * 5
    lines = read_log(service.log, timed)
    assert min(differences(timed, lines)["TTFT"]) >= 0, "the client's clock starts before ours"
    assert len(report(timed, lines)) == 3


def test_what_is_compared_is_one_less_the_other() -> None:
    timed = [Timed("a", 12.5, 3.0), Timed("b", 20.0, 4.0)]
    lines = {
        "a": {"ttft_ms": 12.0, "itl_mean_ms": 3.25},
        "b": {"ttft_ms": 19.0, "itl_mean_ms": 4.0},
    }
    assert differences(timed, lines) == {
        "TTFT": [0.5, 1.0],
        "mean time between events": [-0.25, 0.0],
    }
    assert percentiles([float(number) for number in range(101)]) == (50.0, 99.0)
