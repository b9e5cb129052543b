"""A chat model and an embedding model of real vLLM behind one sidecar."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import openai
import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service, below, command_line, wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    search = {
        "repository": "demo-text",
        "served_names": ["search"],
        "engine": {"RUNNER": "pooling", "CONVERT": "embed"},
    }
    environ = {
        "MODEL_NAME": "demo,search",
        "MODELS_INLINE": json.dumps({"search": search}),
        "MAX_MODEL_LEN": "512",
        "MAX_NUM_SEQS": "4",
    }
    with Service(tmp_path_factory.mktemp("several"), **environ) as service:
        service.wait_for("ready", READY_SECONDS)
        wait_until(lambda: status(service) == "ready", READY_SECONDS, "the model that embeds")
        yield service


def status(service: Service) -> str:
    models: dict[str, dict[str, str]] = service.client.get("/health").json()["models"]
    return models["search"]["status"]


def test_both_answer_and_one_that_is_killed_touches_no_stream_of_the_other(
    service: Service,
) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        assert [each.id for each in client.models.list()] == ["demo", "search"]
        answer = client.completions.create(model="demo", prompt="Hello", max_tokens=8)
        assert (answer.model, bool(answer.choices[0].text)) == ("demo", True)
        embedded = client.embeddings.create(model="search", input="Hello")
        assert (embedded.model, bool(embedded.data[0].embedding)) == ("search", True)
        with pytest.raises(openai.NotFoundError):  # the engine of that model cannot
            client.completions.create(model="search", prompt="Hello")
        stream = client.completions.create(
            model="demo",
            prompt="Hello",
            max_tokens=400,
            extra_body={"ignore_eos": True},
            stream=True,
        )
        next(iter(stream))
        os.kill(engine_of(service, "search"), signal.SIGKILL)
        reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
        assert reasons[-1] == "length"
    wait_until(lambda: starts_of(service, "search") == 2, READY_SECONDS, "the next start")
    assert service.client.get("/health").status_code == 200
    restarted = {line["model"] for line in service.lines() if line.get("phase") == "restarting"}
    assert restarted <= {"search"}


def test_sigterm_ends_both_one_of_them_in_its_start(service: Service) -> None:
    service.terminate()
    assert service.exit_code(READY_SECONDS) == 0
    service.assert_nothing_is_left(READY_SECONDS)


def starts_of(service: Service, name: str) -> int:
    lines = service.lines("proxy.engine")
    return sum(line.get("model") == name and line.get("phase") == "loading" for line in lines)


def engine_of(service: Service, name: str) -> int:
    """Its API server, which the guard has started."""
    for each in below(service.process.pid):
        words = command_line(each.pid).split()
        if name in words and "--served-model-name" in words and "guard.py" not in " ".join(words):
            return each.pid
    raise AssertionError(f"no engine of {name}")
