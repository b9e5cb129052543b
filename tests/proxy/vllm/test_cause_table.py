"""docs/causes.md tells what the code tells."""

from __future__ import annotations

from proxy.errors import Cause
from tests.proxy.vllm.cause_table import PAGE, page, rows


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), ".venv/bin/python -m tests.proxy.vllm.cause_table"


def test_every_cause_is_on_the_page() -> None:
    assert {row.failure.cause for row in rows()} == set(Cause)


def test_every_failure_says_what_to_do() -> None:
    assert [row.failure.message for row in rows() if not row.failure.remedy] == []
