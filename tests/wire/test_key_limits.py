"""Limits of keys in a sidecar that runs: what is charged, told, refused and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, STREAM, Answer, Pairs, prompt
from tests.wire.service import Sidecar, ending

KEY = "sk-alice-0123456789abcdef"
ALICE: Pairs = [("x-api-key", KEY)]
KEYS = {"API_KEYS": f"alice:{KEY},bob:sk-bob-0123456789abcdef"}


def ask(service: Sidecar, *more: dict[str, Any], **options: Any) -> Answer:
    return service.ask(CHAT, prompt(CHAT, *more), headers=ALICE, **options)


def left(answer: Answer, unit: str = "tokens") -> int:
    return int(answer.header(f"x-ratelimit-remaining-{unit}"))


def test_tokens_are_charged_from_the_engines_usage(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    with Sidecar(tmp_path, shared_engine, KEY_LIMITS="rpm=4,tpd=100000", **KEYS) as service:
        service.wait_until_ready()
        first = ask(service, STREAM)
        line = service.record(first)
        used = line["prompt_tokens"] + line["completion_tokens"]
        assert used > 1
        second = ask(service)
        assert left(first) - left(second) == used
        assert (left(first, "requests"), left(second, "requests")) == (3, 2)
        ask(service)
        ask(service)
        refused = ask(service)
        assert ending(service.record(refused)) == (429, "rejected", "client", "rate_limit_exceeded")
        assert refused.json()["error"]["type"] == "requests"
        assert 1 <= int(refused.header("retry-after")) <= 15
        assert service.seen(refused) == []


def test_who_leaves_pays_for_what_was_generated(tmp_path: Path, shared_engine: FakeEngine) -> None:
    with Sidecar(tmp_path, shared_engine, KEY_LIMITS="tpd=100000", **KEYS) as service:
        service.wait_until_ready()
        with service.connect() as client:
            fake = {"tokens": 1000, "stall_at": 5}
            request_id = client.ask(CHAT, prompt(CHAT, STREAM), headers=ALICE, fake=fake)
            client.head()
            for _ in range(5):
                client.until(b"\n\n")
        line = service.record(request_id)
        assert line["outcome"] == "client_closed"
        assert "completion_tokens" not in line
        assert 100_000 - left(ask(service)) >= 4


def test_what_was_used_survives_a_restart_and_a_day_has_an_end(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    with Sidecar(tmp_path, shared_engine, KEY_LIMITS="tpd=5", **KEYS) as service:
        service.wait_until_ready()
        assert ask(service).status == 200
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        service.start()
        service._read_bytes = 0
        service.wait_until_ready()
        refused = ask(service)
    assert refused.status == 429
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.header("x-should-retry") == "false"
    # The true wait: until midnight UTC.
    assert 0 < int(refused.header("retry-after")) <= 24 * 60 * 60


def test_what_is_cut_at_the_end_is_paid_for_after_it(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    limits = {"KEY_LIMITS": "tpd=100000", "DRAIN_SECONDS": "0.2"}
    with Sidecar(tmp_path, shared_engine, **limits, **KEYS) as service:
        service.wait_until_ready()
        with service.connect() as client:
            fake = {"tokens": 1000, "stall_at": 5}
            cut = client.ask(CHAT, prompt(CHAT, STREAM), headers=ALICE, fake=fake)
            client.head()
            for _ in range(5):
                client.until(b"\n\n")
            service.process.terminate()
            assert service.process.wait(PATIENCE) == 0
        generated = service.record(cut)["generated_events"]
        service.start()
        service._read_bytes = 0
        service.wait_until_ready()
        assert 100_000 - left(ask(service)) == generated
