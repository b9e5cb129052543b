"""The engine's output: passed on with a tag, and kept for a diagnosis."""

from __future__ import annotations

import logging

import pytest

from proxy.vllm import output as output_module
from proxy.vllm.log_lines import MAX_LOG_MESSAGE_CHARS
from proxy.vllm.output import BURST_LINES, KEPT_LINES, MAX_KEPT_BYTES, Output

PREFIX = "(EngineCore pid=7) WARNING 11-20 10:46:45 [core.py:133]"


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vllm")


def test_a_line_is_passed_on_with_its_level_and_its_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = Output()
    output.take(f"{PREFIX} Not enough room\n".encode())
    assert output.lines == [f"{PREFIX} Not enough room"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("vllm", "WARNING")
    assert record.getMessage() == "Not enough room"
    assert record.__dict__["fields"] == {"process": "EngineCore", "source": "core.py:133"}


def test_what_an_engine_prints_that_is_told_to_end_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = Output()
    line = b"(APIServer pid=1) ERROR 11-20 10:46:45 [async_llm.py:9] EngineDeadError"
    output.take(line)
    output.expect_end()
    output.take(line)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.mark.parametrize(
    ("raw", "level", "message"),
    [
        (b"100% of %s and %d", "INFO", "100% of %s and %d"),
        (b"ValueError: no", "ERROR", "ValueError: no"),
        (b"caf\xc3\xa9 \xff", "INFO", "café \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_line_without_a_prefix_is_passed_on_too(
    caplog: pytest.LogCaptureFixture, raw: bytes, level: str, message: str
) -> None:
    Output().take(raw)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (level, message)
    assert record.__dict__["fields"].keys() <= {"source"}


def test_the_hubs_token_is_hidden_where_the_engine_prints_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = Output("hf_secret")
    output.take(b"authorization: Bearer hf_secret and hf_secret again")
    assert output.lines[0] == "authorization: Bearer *** and *** again"
    assert "hf_secret" not in caplog.text


def test_a_header_for_otlp_that_the_engine_cannot_use_is_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "vllm")
    output = Output()
    output.take(b"(APIServer pid=1) Header format invalid! Header values in ...: authorization:k3y")
    assert output.lines[0].endswith("Header format invalid! Header values in ...: ***")
    assert "k3y" not in caplog.text


def test_what_the_log_level_hides_is_kept_for_the_diagnosis(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "vllm")
    output = Output()
    output.take(f"{PREFIX} Not enough room".encode())
    assert not caplog.records
    assert list(output.lines) == [f"{PREFIX} Not enough room"]


def test_a_long_line_is_cut_in_the_log_and_whole_for_the_diagnosis(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = Output()
    output.take(b"x" * 5000)
    (record,) = caplog.records
    assert len(record.getMessage()) < MAX_LOG_MESSAGE_CHARS + 50
    assert record.getMessage().endswith("characters cut]")
    assert output.lines[0] == "x" * 5000


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(output_module, "monotonic", lambda: now[0])
    return now


def test_output_without_an_end_is_dropped_and_counted_and_its_newest_lines_are_kept(
    caplog: pytest.LogCaptureFixture, now: list[float]
) -> None:
    output = Output()
    for number in range(3 * BURST_LINES):
        output.take(b"line %d" % number)
    assert 0 < len(caplog.records) <= BURST_LINES
    assert output.lines[-1] == f"line {3 * BURST_LINES - 1}"
    passed = len(caplog.records)
    now[0] += 1.0
    output.take(b"one more")
    warning, line = caplog.records[passed:]
    assert warning.levelname == "WARNING"
    assert warning.getMessage().startswith(
        f"{3 * BURST_LINES - passed} lines of the engine's output"
    )
    assert line.getMessage() == "one more"
    for _ in range(BURST_LINES):  # one second's worth later: no more than that passes
        output.take(b"again")
    passed = len(caplog.records)
    output.flush()
    output.flush()
    (warning,) = caplog.records[passed:]
    assert "dropped" in warning.getMessage()


def test_a_few_thousand_lines_at_once_are_all_passed_on(
    caplog: pytest.LogCaptureFixture, now: list[float]
) -> None:
    output = Output()
    for _ in range(3000):  # tracebacks of eight workers
        output.take(b"  File")
    assert len(caplog.records) == 3000


def test_a_line_of_megabytes_is_kept_up_to_a_bound_and_says_what_was_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = Output()
    output.take(b"x" * 3_000_000)
    assert len(output.lines[0]) == MAX_KEPT_BYTES
    cut = 3_000_000 - MAX_LOG_MESSAGE_CHARS
    assert caplog.records[0].getMessage().endswith(f"[{cut} characters cut]")


def test_memory_for_old_lines_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "vllm")
    output = Output()
    for number in range(KEPT_LINES + 5):
        output.take(b"%d" % number)
    assert len(output.lines) == KEPT_LINES
    assert output.lines[0] == "5"
    assert output.lines[-1] == str(KEPT_LINES + 4)


LOST_SPANS = (
    "Transient error StatusCode.UNAVAILABLE encountered while exporting traces to c:4317, "
    "retrying in 0.89s. Error details: failed to connect to all addresses",
    "Failed to export traces to c:4317, error code: StatusCode.UNAVAILABLE, error details: no",
    "Transient error HTTPConnectionPool(host='c') encountered while exporting spans batch, "
    "retrying in 1.05s.",
    "Failed to export span batch code: 404, reason: Not Found",
    "Failed to export spans batch due to timeout, max retries or shutdown.",
)


@pytest.mark.parametrize("line", LOST_SPANS)
def test_that_nobody_takes_the_engines_spans_is_logged_once(
    caplog: pytest.LogCaptureFixture, line: str
) -> None:
    output = Output()
    for _ in range(3):
        output.take(f"(EngineCore pid=7) {line}\n".encode())
        output.take(b"Failed to export the model\n")
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert logged == [("WARNING", line), *[("INFO", "Failed to export the model")] * 3]
    assert len(output.lines) == 6
