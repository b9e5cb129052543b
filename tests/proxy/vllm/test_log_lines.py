from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.vllm.log_lines import (
    MAX_LOG_MESSAGE_CHARS,
    LogLine,
    clean_lines,
    parse_line,
    shorten,
)
from tests.proxy.vllm.recording import recorded, recording


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "(EngineCore pid=123) INFO 11-20 10:46:45 [core.py:133] Initializing a V1 LLM engine",
            LogLine("EngineCore", "INFO", "core.py:133", "Initializing a V1 LLM engine"),
        ),
        (
            "(VllmWorker-0 pid=7) WARNING 11-20 10:47:31 [vllm.py:725] Model Runner V2",
            LogLine("VllmWorker-0", "WARNING", "vllm.py:725", "Model Runner V2"),
        ),
        (
            '(Worker pid=7) ERROR 11-20 10:47:31 [multiproc_executor.py:953]   File "x.py"',
            LogLine("Worker", "ERROR", "multiproc_executor.py:953", '  File "x.py"'),
        ),
        (
            "(Worker_TP1 pid=7) ERROR 11-20 10:47:31 [v1/executor/multiproc_executor.py:953]",
            LogLine("Worker_TP1", "ERROR", "v1/executor/multiproc_executor.py:953", ""),
        ),
        (
            "INFO 11-20 10:46:45 [__init__.py:216] Automatically detected platform cpu.",
            LogLine("", "INFO", "__init__.py:216", "Automatically detected platform cpu."),
        ),
        ("(Worker pid=7) plain words", LogLine("Worker", "INFO", "", "plain words")),
        (
            'INFO:     127.0.0.1:33084 - "POST /v1/completions HTTP/1.1" 200 OK',
            LogLine(
                "", "INFO", "uvicorn", '127.0.0.1:33084 - "POST /v1/completions HTTP/1.1" 200 OK'
            ),
        ),
        (
            "ERROR:    Exception in ASGI application",
            LogLine("", "ERROR", "uvicorn", "Exception in ASGI application"),
        ),
        (
            "[W1120 10:47:31.175218936 utils.cpp:68] Warning: NUMA binding",
            LogLine("", "WARNING", "utils.cpp:68", "Warning: NUMA binding"),
        ),
        (
            "Traceback (most recent call last):",
            LogLine("", "ERROR", "", "Traceback (most recent call last):"),
        ),
        (
            "OSError: [Errno 98] Address already in use",
            LogLine("", "ERROR", "", "OSError: [Errno 98] Address already in use"),
        ),
        (
            "a/b.py:138: FutureWarning: deprecated",
            LogLine("", "WARNING", "", "a/b.py:138: FutureWarning: deprecated"),
        ),
        ("(see pid=7) INFO", LogLine("see", "INFO", "", "INFO")),
        ("(pid=7) hello", LogLine("", "INFO", "", "(pid=7) hello")),
        ("", LogLine("", "INFO", "", "")),
    ],
)
def test_lines_are_taken_apart(line: str, expected: LogLine) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            b"\rLoading:   0%\rLoading:  50%\rLoading: 100%\n",
            ["Loading:   0%", "Loading:  50%", "Loading: 100%"],
        ),
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
