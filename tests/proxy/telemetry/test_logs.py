"""Lines on stdout: JSON for machines, text for a terminal, one for each request."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from proxy.settings import LogFormat
from proxy.telemetry.logs import TextFormatter, configure
from proxy.telemetry.record import Record
from proxy.telemetry.request_log import log_request, present_fields
from tests.proxy.telemetry.conftest import Lines
from tests.proxy.telemetry.records import finished, full

HEAD = ("level", "logger", "message", "timestamp")


def parsed(lines: Lines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines()]


def test_a_request_is_one_json_line_with_all_its_fields(lines: Lines) -> None:
    before = datetime.now(UTC)
    configure(LogFormat.JSON, "info")
    log_request(full())
    (line,) = parsed(lines)
    assert line.keys() == {*HEAD, *present_fields(full())}
    assert line.items() >= present_fields(full()).items()
    assert (line["level"], line["logger"]) == ("INFO", "proxy.access")
    assert line["message"] == "POST /v1/chat/completions 200 engine_error"
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)


NASTY = 'a"b\\c\nd\re\tf\x00\x1b[31mü\u2028🦊'


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_clients_words_stay_inside_their_line(lines: Lines, log_format: LogFormat) -> None:
    configure(log_format, "info")
    log_request(finished(model=NASTY, user_agent="Mozilla/5.0 (X11) status=200"))
    out = "\n".join(lines())
    assert "\x1b" not in out
    assert "\x00" not in out
    if log_format is LogFormat.JSON:
        assert json.loads(out)["model"] == NASTY
    else:
        assert out.count("\n") == 0
        assert " user_agent='Mozilla/5.0 (X11) status=200'" in out


def test_half_a_surrogate_pair_leaves_a_line_that_every_reader_of_json_takes(lines: Lines) -> None:
    """Such as one of a client's in a traceback, or of a file's name that is no UTF-8."""
    configure(LogFormat.JSON, "info")
    logging.getLogger("proxy.relay").warning("a\ud800b", extra={"fields": {"name": "\udcff"}})
    (line,) = lines()
    assert msgspec.json.decode(line).items() >= {"message": "a?b", "name": "?"}.items()


def test_text_is_a_readable_line_with_the_fields_behind_it(lines: Lines) -> None:
    configure(LogFormat.TEXT, "info")
    log_request(full())
    (line,) = lines()
    head = r"\d\d:\d\d:\d\d\.\d{3} INFO    proxy\.access   POST /v1/chat/completions 200 "
    assert re.match(head + r"engine_error request_id=id-1 ", line)
    assert " modalities=text,image,video,audio " in line
    assert " duration_ms=500.0 " in line
    assert len(re.findall(r" (\w+)=", line)) == len(present_fields(full()))


def test_a_terminal_sees_what_is_wrong_in_colour_and_fields_paler() -> None:
    record = logging.LogRecord("proxy", logging.WARNING, "", 0, "WARNING: no key", (), None)
    record.fields = {"seconds": 3.5}
    plain, coloured = TextFormatter().format(record), TextFormatter(in_colour=True).format(record)
    assert plain.endswith(" WARNING proxy          WARNING: no key seconds=3.5")
    assert coloured == plain.replace("WARNING", "\x1b[33mWARNING\x1b[0m", 1).replace(
        "seconds=3.5", "\x1b[2mseconds=3.5\x1b[0m"
    )


@pytest.mark.parametrize("log_format", LogFormat)
def test_other_lines_have_their_fields_too(lines: Lines, log_format: LogFormat) -> None:
    configure(log_format, "info")
    logging.getLogger("proxy.engine").info("loading -> ready", extra={"fields": {"seconds": 3.5}})
    logging.getLogger("proxy.engine").info("%d %s", 3, "shards")
    first, second = lines()
    if log_format is LogFormat.JSON:
        assert json.loads(first)["seconds"] == 3.5
        assert json.loads(second)["message"] == "3 shards"
    else:
        assert first.endswith("proxy.engine   loading -> ready seconds=3.5")
        assert second.endswith("proxy.engine   3 shards")


@pytest.mark.parametrize("fields", [None, {"request_id": "id-1"}])
def test_a_fault_of_ours_is_one_json_line_with_its_traceback(
    lines: Lines, fields: dict[str, str] | None
) -> None:
    configure(LogFormat.JSON, "info")
    try:
        raise ValueError("oops")
    except ValueError:
        extra = {"fields": fields} if fields else {"request_id": "id-1"}
        logging.getLogger("proxy.relay").exception("the sidecar failed", extra=extra)
    (line,) = parsed(lines)
    assert (line["level"], line["request_id"]) == ("ERROR", "id-1")
    assert "ValueError: oops" in line["exc_info"]
    assert "fields" not in line


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_hides_what_is_below_it(lines: Lines, level: str, seen: list[str]) -> None:
    configure(LogFormat.JSON, level)
    logger = logging.getLogger("proxy.engine")
    for name in ("debug", "info", "warning", "error"):
        logger.log(logging.getLevelNamesMapping()[name.upper()], name)
    assert [line["message"] for line in parsed(lines)] == seen


def test_requests_are_not_logged_where_the_level_hides_them(lines: Lines) -> None:
    configure(LogFormat.JSON, "warning")
    log_request(full())
    assert lines() == []


@pytest.mark.parametrize("name", ["httpx", "httpcore"])
def test_libraries_that_write_what_they_send_are_silent_at_any_level(
    lines: Lines, name: str
) -> None:
    configure(LogFormat.JSON, "debug")
    logging.getLogger(name).debug("> GET /v1/realtime?key=secret")
    logging.getLogger("proxy").debug("heard")
    assert [line["message"] for line in parsed(lines)] == ["heard"]


def test_all_lines_go_to_stdout_once_however_often_logging_is_set_up(lines: Lines) -> None:
    configure(LogFormat.TEXT, "info")
    configure(LogFormat.JSON, "info")
    log_request(full())
    assert len(parsed(lines)) == 1
    assert len(logging.getLogger().handlers) == 1


def test_no_line_holds_what_a_record_has_no_place_for() -> None:
    # Prompts, answers and keys are never logged because a record cannot hold them.
    words = {"prompt", "messages", "content", "answer", "text", "authorization", "api_key", "body"}
    assert not words & set(Record.__struct_fields__)
