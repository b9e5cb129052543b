"""Words that are in every prompt, key and URL of these tests, and that no log may hold."""

from __future__ import annotations

from pathlib import Path

PROMPT = "prompt-that-nobody-may-log"
ANSWER = "answer-that-nobody-may-log"
KEY = "sk-key-that-nobody-may-log"
TOKEN = "hf_TokenThatNobodyMayLog"
QUERY = "query-that-nobody-may-log"
ALL = (PROMPT, ANSWER, KEY, TOKEN, QUERY)


def found_in(log: Path) -> list[str]:
    """The lines of a log that hold one of them."""
    words = [word.encode() for word in ALL]
    with log.open("rb") as lines:
        return [repr(line[:2000]) for line in lines if any(word in line for word in words)]
