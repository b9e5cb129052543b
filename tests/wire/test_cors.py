"""CORS of a sidecar that runs: preflights end there, streams may be read."""

from __future__ import annotations

from pathlib import Path

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, STREAM, Pairs, prompt
from tests.wire.service import Sidecar

PAGE = "https://chat.example.com"
ASKS: Pairs = [("origin", PAGE), ("access-control-request-method", "POST")]


def test_a_page_asks_first_and_then_reads_a_stream(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    with Sidecar(tmp_path, shared_engine, CORS_ORIGINS=PAGE) as service:
        service.wait_until_ready()
        with service.connect() as client:
            request_id = client.ask(CHAT, method="OPTIONS", headers=ASKS)
            asked = client.answer(method="OPTIONS")
            assert (asked.status, asked.header("access-control-allow-origin")) == (204, PAGE)
            assert service.seen(request_id) == []
            client.ask(CHAT, prompt(CHAT, STREAM), headers=[("origin", PAGE)])
            answer = client.answer()
        assert answer.header("access-control-allow-origin") == PAGE
        assert answer.data()[-1] == "[DONE]"
        assert answer.whole
