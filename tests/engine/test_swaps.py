"""Two models of real vLLM that take turns, and give the memory back when nobody asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import openai
import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Line, Service, wait_until
from tests.patience import PATIENCE, on_a_clock
from tests.wire.several import engines_of

pytestmark = pytest.mark.engine

STREAMS, TOKENS = 32, 60


@on_a_clock("an idle model is unloaded after 3 s")
def test_a_swap_cuts_no_stream_and_an_idle_model_is_unloaded(tmp_path: Path) -> None:
    environ = {
        "MODEL_NAME": "demo,demo-text",
        "MAX_MODEL_LEN": "512",
        "MAX_NUM_SEQS": "8",
        "MAX_LOADED_MODELS": "1",
        "SWAP_MAX_WAIT_SECONDS": "1",
        "IDLE_UNLOAD_SECONDS": "3",
        "DRAIN_SECONDS": "600",
    }
    with Service(tmp_path, **environ) as service, ThreadPoolExecutor(STREAMS) as threads:
        service.wait_for("ready", READY_SECONDS)
        url, patience = f"{service.url}/v1", 2 * READY_SECONDS
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=patience) as client:
            begun = Barrier(STREAMS + 1)

            def stream() -> str | None:
                begun.wait(READY_SECONDS)
                chunks = client.completions.create(
                    model="demo",
                    prompt="Hello",
                    max_tokens=TOKENS,
                    extra_body={"ignore_eos": True},
                    stream=True,
                )
                return [each.choices[0].finish_reason for each in chunks if each.choices][-1]

            streams = [threads.submit(stream) for _ in range(STREAMS)]
            begun.wait(READY_SECONDS)
            answer = client.completions.create(model="demo-text", prompt="Hello", max_tokens=8)
            assert answer.model == "demo-text"
            assert [each.result(READY_SECONDS) for each in streams] == ["length"] * STREAMS
            # The line of a load is written when its memory has been measured: after an answer.
            wait_until(lambda: len(steps(service)) >= 3, PATIENCE, "the line of the second load")
            # Streams that came when the other model had the place wait for the next turn.
            assert [(line["model"], line["action"]) for line in steps(service)][:3] == [
                ("demo", "load"),
                ("demo", "unload"),
                ("demo-text", "load"),
            ]
            wait_until(lambda: not engines_of(service), READY_SECONDS, "the end of idle engines")
            assert service.client.get("/health").status_code == 200
            assert service.client.get("/ping").status_code == 200
        wait_until(lambda: steps(service)[-1]["reason"] == "idle", PATIENCE, "the unload's line")
        assert {line["outcome"] for line in steps(service)} == {"ok"}
        assert not [line for line in service.lines() if line["level"] in ("ERROR", "CRITICAL")]


def steps(service: Service) -> list[Line]:
    """The lines of loads and unloads that have ended."""
    return [line for line in service.lines("proxy.pool") if "action" in line]
