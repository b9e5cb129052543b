"""Real vLLM that sleeps and wakes. On a CPU it does all but give memory back."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service, command_line, wait_until
from tests.patience import PATIENCE, on_a_clock
from tests.wire.several import engines_of

pytestmark = pytest.mark.engine

PROMPT = "The colours of the sky are"


@on_a_clock("an idle model sleeps after 3 s")
def test_a_woken_engine_says_the_same_and_one_that_does_not_is_started_afresh(
    tmp_path: Path,
) -> None:
    preset = {"repository": "demo", "sleep": "level1", "idle_unload_seconds": 3}
    environ = {
        "MODEL_NAME": "dozy",
        "MODELS_INLINE": json.dumps({"dozy": preset}),
        "MAX_MODEL_LEN": "512",
        "MAX_NUM_SEQS": "8",
    }
    with (
        Service(tmp_path, **environ) as service,
        openai.OpenAI(
            base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=2 * READY_SECONDS
        ) as client,
    ):
        service.wait_for("ready", READY_SECONDS)

        def answer() -> str:
            completion = client.completions.create(
                model="dozy", prompt=PROMPT, max_tokens=16, temperature=0
            )
            return completion.choices[0].text

        before, pid = answer(), engines_of(service)["dozy"]
        assert before.strip()
        for _ in range(2):
            service.wait_for("asleep", READY_SECONDS)
            assert service.client.get("/health").status_code == 200
            (row,) = service.client.get("/models").json()["models"]
            assert row["status"] == "asleep"
            assert answer() == before
        assert engines_of(service)["dozy"] == pid

        words = command_line(pid).split()
        transport = httpx.HTTPTransport(uds=words[words.index("--uds") + 1])
        with httpx.Client(transport=transport, timeout=READY_SECONDS) as engine:
            reset = engine.post("http://engine/weight_checker", json={"action": "reset"})
        assert reset.status_code == 200, reset.text
        service.wait_for("asleep", READY_SECONDS)
        assert answer() == before, "it is the answer of an engine that was started afresh"
        assert engines_of(service)["dozy"] != pid
        assert service.metric("sidecar_engine_restarts_total", cause="wake_failed") == 1
        loads = ("sidecar_model_loads_total", "/metrics")
        wait_until(
            lambda: service.metric(*loads, kind="wake", outcome="failed") == 1, PATIENCE, "its line"
        )
        assert service.metric(*loads, kind="wake", outcome="ok") == 2
        service.wait_for("stopped", READY_SECONDS)  # it sleeps no more
