"""A model that does not generate, with real vLLM: ready once it has done its own work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service

pytestmark = pytest.mark.engine


def test_a_model_that_embeds_is_warmed_by_embedding(tmp_path: Path) -> None:
    with Service(tmp_path, RUNNER="pooling", CONVERT="embed") as service:
        service.wait_for("ready", READY_SECONDS)
        assert not [line for line in service.lines("proxy.engine") if "reason" in line]
        answer = service.client.post("/v1/embeddings", json={"model": "demo", "input": "Hello"})
        assert answer.status_code == 200
        assert answer.json()["data"][0]["embedding"]
        assert service.client.post("/v1/completions", json={"prompt": "Hello"}).status_code == 404
        # The engine counts what it was asked for the warm-up, beside the one request above.
        assert service.metric("vllm:prompt_tokens_total", page="/metrics/engine") > 0
        assert (
            service.metric("http_requests_total", page="/metrics/engine", handler="/v1/embeddings")
            == 2
        )
