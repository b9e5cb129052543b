"""A model that does not generate, with real vLLM: ready once it has done its own work.

One engine for both tests, in this order: the second one ends it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("pooling")
    with Service(folder, RUNNER="pooling", CONVERT="embed") as service:
        service.wait_for("ready", READY_SECONDS)
        yield service


def test_a_model_that_embeds_is_warmed_by_embedding(service: Service) -> None:
    assert not [line for line in service.lines("proxy.engine") if "reason" in line]
    answer = service.client.post("/v1/embeddings", json={"model": "demo", "input": "Hello"})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["embedding"]
    assert service.client.post("/v1/completions", json={"prompt": "Hello"}).status_code == 404
    # The engine counts what it was asked for the warm-up, beside the one request above.
    assert service.metric("vllm:prompt_tokens_total", page="/metrics/engine") > 0
    assert (
        service.metric("http_requests_total", page="/metrics/engine", handler="/v1/embeddings") == 2
    )


def test_sigkill_of_the_sidecar_ends_the_engine(service: Service) -> None:
    service.tree()
    service.process.kill()
    service.assert_nothing_is_left(8)
