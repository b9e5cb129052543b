from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.vllm.log_lines import MAX_LOG_MESSAGE_CHARS, LogLine, clean_lines, parse_line, shorten
from tests.proxy.vllm.recording import recorded, recording


@pytest.mark.parametrize(
    ("prefix", "process", "level", "source", "message"),
    [
        ("(Core pid=123) INFO 11-20 10:46:45 [core.py:133] ", "Core", "INFO", "core.py:133", "On"),
        (
            "(W-0 pid=7) WARNING 11-20 10:47:31 [vllm.py:725] ",
            "W-0",
            "WARNING",
            "vllm.py:725",
            "V2",
        ),
        ("(W_TP1 pid=7) ERROR 11-20 10:47:31 [a.py:953] ", "W_TP1", "ERROR", "a.py:953", "  File"),
        ("(W pid=7) ERROR 11-20 10:47:31 [v1/b/c.py:953]", "W", "ERROR", "v1/b/c.py:953", ""),
        ("INFO 11-20 10:46:45 [__init__.py:216] ", "", "INFO", "__init__.py:216", "platform cpu."),
        ("(W pid=7) ", "W", "INFO", "", "plain words"),
        ("INFO:     ", "", "INFO", "uvicorn", '127.0.0.1:33084 - "POST /v1 HTTP/1.1" 200 OK'),
        ("ERROR:    ", "", "ERROR", "uvicorn", "Exception in ASGI application"),
        ("[W1120 10:47:31.175218936 u.cpp:68] ", "", "WARNING", "u.cpp:68", "Warning: NUMA"),
        ("", "", "ERROR", "", "Traceback (most recent call last):"),
        ("", "", "ERROR", "", "OSError: [Errno 98] Address already in use"),
        ("", "", "WARNING", "", "a/b.py:138: FutureWarning: deprecated"),
        ("(see pid=7) ", "see", "INFO", "", "INFO"),
        ("", "", "INFO", "", "(pid=7) hello"),
        ("", "", "INFO", "", ""),
    ],
)
def test_lines_are_taken_apart(
    prefix: str, process: str, level: str, source: str, message: str
) -> None:
    assert parse_line(prefix + message) == LogLine(process, level, source, message)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\rAt  0%\rAt  50%\rAt 100%\n", ["At  0%", "At  50%", "At 100%"]),
        (b"\x1b[36m(Worker pid=1)\x1b[0;0m INFO", ["(Worker pid=1) INFO"]),
        (b"\x1b]0;title\x07text", ["text"]),
        (b"caf\xe9 \xff", ["caf\ufffd \ufffd"]),
        (b"first\r\nsecond", ["first", "second"]),
        (b"  indented\t", ["  indented"]),
        (b"bell\x07 and nul\x00", ["bell and nul"]),
        (b" \r\n\r\n", []),
        ("text already", ["text already"]),
    ],
)
def test_what_is_read_becomes_printable_lines(raw: bytes | str, expected: list[str]) -> None:
    assert clean_lines(raw) == expected


def test_a_long_line_is_cut_with_a_note_of_how_much_is_missing() -> None:
    text = shorten("x" * 10_000)
    assert (
        text == "x" * MAX_LOG_MESSAGE_CHARS + f"… [{10_000 - MAX_LOG_MESSAGE_CHARS} characters cut]"
    )
    assert shorten("x" * MAX_LOG_MESSAGE_CHARS) == "x" * MAX_LOG_MESSAGE_CHARS


@pytest.mark.parametrize("name", recorded("A") + recorded("B") + recorded("C"))
def test_no_recorded_message_keeps_a_prefix(name: str) -> None:
    messages = [
        parse_line(clean).message for line in recording(name).lines for clean in clean_lines(line)
    ]
    assert messages
    assert not [text for text in messages if " pid=" in text[:30] and text.startswith("(")]


@given(st.binary(max_size=400))
def test_any_bytes_are_read(raw: bytes) -> None:
    for line in clean_lines(raw):
        parsed = parse_line(line)
        assert line.endswith(parsed.message)
        assert parsed.level in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
        assert not set("\r\n\x1b\x00") & set(line)
