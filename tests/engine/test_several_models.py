"""A chat and an embedding model of real vLLM behind one sidecar, as a file of presets has them.

One sidecar for all tests, in this order: the last one ends it. test_wedge.py has SIGKILL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service, wait_until
from tests.patience import PATIENCE
from tests.wire.several import engines_of

pytestmark = pytest.mark.engine

TOKENS = 200
PRESETS = """
[chat]
repository = "demo"
served_names = ["chat"]
engine.MAX_MODEL_LEN = {chat_length}

[search]
repository = "demo-text"
served_names = ["search"]
engine.MAX_MODEL_LEN = 512
engine.RUNNER = "pooling"
engine.CONVERT = "embed"
"""


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("presets") / "models.toml"
    file.write_text(PRESETS.format(chat_length=512))
    return file


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, presets: Path) -> Iterator[Service]:
    environ = {
        "MODEL_NAME": "*",
        "MODELS_FILE": str(presets),
        "MAX_NUM_SEQS": "4",
        "DRAIN_SECONDS": "600",
    }
    with Service(tmp_path_factory.mktemp("several"), **environ) as service:
        service.wait_for("ready", READY_SECONDS)
        wait_until(lambda: status(service) == "ready", READY_SECONDS, "the model that embeds")
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    url, patience = f"{service.url}/v1", 2 * READY_SECONDS
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=patience) as client:
        yield client


def test_each_does_its_own_work(service: Service, client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["chat", "search"]
    answer = client.completions.create(model="chat", prompt="Hello", max_tokens=8)
    assert (answer.model, bool(answer.choices[0].text)) == ("chat", True)
    embedded = client.embeddings.create(model="search", input="Hello")
    assert (embedded.model, bool(embedded.data[0].embedding)) == ("search", True)
    with pytest.raises(openai.NotFoundError):  # the engine of that model cannot
        client.completions.create(model="search", prompt="Hello")


def test_a_model_that_embeds_is_warmed_by_embedding(service: Service) -> None:
    assert not [line for line in service.lines("proxy.engine") if "reason" in line]
    page = "/metrics/engine?model=search"
    # The engine counts what it was asked for the warm-up, beside the one request above.
    assert service.metric("vllm:prompt_tokens_total", page=page) > 0
    assert service.metric("http_requests_total", page=page, handler="/v1/embeddings") == 2


def test_a_changed_model_finishes_its_stream_and_comes_back_as_its_preset_says(
    service: Service, client: openai.OpenAI, presets: Path
) -> None:
    before = engines_of(service)
    chunks = stream(client)
    next(chunks)
    presets.write_text(PRESETS.format(chat_length=256))
    answer = httpx.post(f"{service.url}/models/reload", timeout=READY_SECONDS)
    assert (answer.status_code, answer.json()["changed"]) == (202, ["chat"])
    assert list(chunks)[-1] == "length"
    assert client.completions.create(model="chat", prompt="Hello", max_tokens=8).model == "chat"
    # The engine's own entries are read a moment after it is ready.
    wait_until(
        lambda: lengths(client) == {"chat": 256, "search": 512}, PATIENCE, "entries of both models"
    )
    after = engines_of(service)
    assert after["search"] == before["search"]
    assert after["chat"] != before["chat"]


def test_one_that_is_killed_touches_no_stream_of_the_other(
    service: Service, client: openai.OpenAI
) -> None:
    restarts = starts_of(service, "search")
    reasons = stream(client)
    next(reasons)
    os.kill(engines_of(service)["search"], signal.SIGKILL)
    assert list(reasons)[-1] == "length"
    wait_until(
        lambda: starts_of(service, "search") == restarts + 1, READY_SECONDS, "the next start"
    )
    assert service.client.get("/health").status_code == 200
    restarted = {line["model"] for line in service.lines() if line.get("phase") == "restarting"}
    assert restarted <= {"search"}


def test_sigterm_ends_both_one_of_them_in_its_start(service: Service) -> None:
    service.terminate()
    assert service.exit_code(READY_SECONDS) == 0
    service.assert_nothing_is_left(READY_SECONDS)


def stream(client: openai.OpenAI) -> Iterator[str | None]:
    """The reasons for which each piece of a long answer ends: the last piece has one."""
    chunks = client.completions.create(
        model="chat",
        prompt="Hello",
        max_tokens=TOKENS,
        extra_body={"ignore_eos": True},
        stream=True,
    )
    return (each.choices[0].finish_reason for each in chunks if each.choices)


def status(service: Service) -> str:
    models: dict[str, dict[str, str]] = service.client.get("/health").json()["models"]
    return models["search"]["status"]


def lengths(client: openai.OpenAI) -> dict[str, int | None]:
    return {each.id: each.model_dump().get("max_model_len") for each in client.models.list()}


def starts_of(service: Service, name: str) -> int:
    lines = service.lines("proxy.engine")
    return sum(line.get("model") == name and line.get("phase") == "loading" for line in lines)
