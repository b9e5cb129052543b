"""Two models of real vLLM behind one sidecar."""

from __future__ import annotations

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
    environ = {"MODEL_NAME": "demo,demo-text", "MAX_MODEL_LEN": "512", "MAX_NUM_SEQS": "4"}
    with Service(tmp_path_factory.mktemp("several"), **environ) as service:
        service.wait_for("ready", READY_SECONDS)
        wait_until(lambda: status(service) == "ready", READY_SECONDS, "demo-text")
        yield service


def status(service: Service) -> str:
    models: dict[str, dict[str, str]] = service.client.get("/health").json()["models"]
    return models["demo-text"]["status"]


def test_both_answer_and_one_that_is_killed_touches_no_stream_of_the_other(
    service: Service,
) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:

        def answered_by(name: str) -> str:
            answer = client.completions.create(model=name, prompt="Hello", max_tokens=8)
            assert answer.choices[0].text
            return answer.model

        assert [each.id for each in client.models.list()] == ["demo", "demo-text"]
        assert [answered_by(name) for name in ("demo", "demo-text")] == ["demo", "demo-text"]
        stream = client.completions.create(
            model="demo",
            prompt="Hello",
            max_tokens=400,
            extra_body={"ignore_eos": True},
            stream=True,
        )
        next(iter(stream))
        os.kill(engine_of(service, "demo-text"), signal.SIGKILL)
        reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
        assert reasons[-1] == "length"
    wait_until(lambda: starts_of(service, "demo-text") == 2, READY_SECONDS, "the next start")
    assert service.client.get("/health").status_code == 200
    restarted = {line["model"] for line in service.lines() if line.get("phase") == "restarting"}
    assert restarted <= {"demo-text"}


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
