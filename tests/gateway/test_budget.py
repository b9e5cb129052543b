"""Real LiteLLM with real PostgreSQL in front of the sidecar: a key with a budget, to its end.

The engine behind the sidecar is the fake one; the rest is what is deployed, with the configuration
of deploy/gateway. tests/gateway/database.py tells what stands in for an executable of Prisma's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import isclose
from pathlib import Path
from typing import NamedTuple

import openai
import pytest

from tests.engine.service import Line, wait_until
from tests.fake_engine import FakeEngine
from tests.gateway.database import Postgres
from tests.gateway.litellm import MASTER_KEY, LiteLLM, config, price
from tests.patience import PATIENCE
from tests.wire.service import Sidecar

SIDECAR_KEY = "sk-of-the-gateway-at-the-sidecar"
PROMPT = "What do you see?"
TOKENS = 5
# How often LiteLLM writes what was spent, in seconds; it adds up to five at random.
WRITES = {"PROXY_BATCH_WRITE_AT": "1"}
SPENT = """
    SELECT spend, (SELECT coalesce(sum(spend), 0) FROM "LiteLLM_SpendLogs" WHERE api_key = token)
    FROM "LiteLLM_VerificationToken" WHERE token = '{}'
"""


class Both(NamedTuple):
    """LiteLLM with its database, and the sidecar."""

    gateway: LiteLLM
    database: Postgres
    sidecar: Sidecar

    def new_key(self, alias: str, max_budget: float) -> str:
        """A key, made as docs/gateway.md says."""
        asked = {"key_alias": alias, "max_budget": max_budget, "budget_duration": "30d"}
        answer = self.gateway.client.post("/key/generate", json=asked).raise_for_status()
        return str(answer.json()["key"])

    def shown(self, key: str) -> float:
        """What LiteLLM says that a key has spent."""
        answer = self.gateway.client.get("/key/info", params={"key": key}).raise_for_status()
        return float(answer.json()["info"]["spend"])

    def kept(self, key: str) -> tuple[float, float]:
        """The same in PostgreSQL: at the key, and the sum of its requests."""
        token = hashlib.sha256(key.encode()).hexdigest()  # LiteLLM keeps no keys
        (row,) = self.database.rows(SPENT.format(token))
        of_key, of_requests = map(float, row)
        return of_key, of_requests

    def stream(self, key: str) -> float:
        """One streamed chat through both, and what it costs by the configuration."""
        before = len(self.lines())
        stream = self.gateway.openai(key).chat.completions.create(
            model="local/tiny",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=TOKENS,
            stream=True,
        )
        chunks = list(stream)
        texts = [choice.delta.content for chunk in chunks for choice in chunk.choices]
        assert len([text for text in texts if text]) == TOKENS
        wait_until(lambda: len(self.lines()) > before, PATIENCE, "the sidecar's line")
        (line,) = self.lines()[before:]
        assert (line["outcome"], line["stream"], line["key"]) == ("ok", True, "gateway")
        return price(line["prompt_tokens"], line["completion_tokens"])

    def refusal(self, key: str) -> dict[str, str] | None:
        """What a stream is refused with; then the sidecar is not asked."""
        before = len(self.lines())
        try:
            self.stream(key)
        except openai.APIStatusError as error:
            refused = error.body
        else:
            return None
        assert len(self.lines()) == before
        assert isinstance(refused, dict)
        return refused

    def lines(self) -> list[Line]:
        """The sidecar's lines of generations."""
        return [line for line in self.sidecar.lines("proxy.access") if line["route"] != "models"]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    with (
        Postgres() as database,
        FakeEngine("--served-model-name", "tiny") as engine,
        Sidecar(tmp_path, engine, API_KEYS=f"gateway:{SIDECAR_KEY}") as sidecar,
    ):
        sidecar.wait_until_ready()
        place = {"SIDECAR_URL": f"{sidecar.url}/v1", "SIDECAR_API_KEY": SIDECAR_KEY}
        with LiteLLM(tmp_path, config(), **place, **WRITES, **database.environ) as gateway:
            yield Both(gateway, database, sidecar)


def test_a_key_streams_until_its_budget_is_spent(both: Both) -> None:
    due = both.stream(MASTER_KEY)
    assert due > 0
    # One question is within the budget, and two are not.
    alice, bob = (both.new_key(name, max_budget=1.5 * due) for name in ("alice", "bob"))
    assert both.shown(alice) == 0
    assert both.stream(alice) == due
    wait_until(lambda: isclose(both.shown(alice), due), PATIENCE, "the spend")
    # Keys and requests are not written in one go.
    wait_until(
        lambda: all(isclose(each, due) for each in both.kept(alice)),
        PATIENCE,
        "the spend in PostgreSQL",
    )

    assert both.stream(alice) == due
    # It adds up what was spent a moment after each answer.
    wait_until(lambda: both.refusal(alice) is not None, PATIENCE, "the end of the budget")
    wait_until(lambda: both.kept(alice)[0] > 1.5 * due, PATIENCE, "the rest in PostgreSQL")
    refused = both.refusal(alice)
    assert refused is not None
    assert refused["type"] == "budget_exceeded"
    assert "Budget has been exceeded! Key=alice" in refused["message"]
    assert both.stream(bob) == due
