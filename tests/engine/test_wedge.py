"""A stopped engine core, with real vLLM: found out although vLLM calls itself healthy."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service, alive, wait_until
from tests.patience import PATIENCE, on_a_clock

pytestmark = pytest.mark.engine
WEDGE_SECONDS = 6.0
BODY = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 1500,
    "ignore_eos": True,
    "stream": True,
}


@on_a_clock("an engine that stands still is given up after 6 s")
def test_core_that_is_stopped_is_replaced_and_ends_with_the_sidecar(tmp_path: Path) -> None:
    with Service(tmp_path, WEDGE_SECONDS=str(WEDGE_SECONDS)) as service:
        service.wait_for("ready", READY_SECONDS)
        before = service.tree()
        # Idle for longer than the limit: that is no reason.
        time.sleep(1.5 * WEDGE_SECONDS)
        assert service.phases()[-1] == "ready"
        core = service.find("VLLM::EngineCore")
        stopped = time.monotonic()
        os.kill(core, signal.SIGSTOP)
        with service.client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
            assert answer.status_code == 200, "vLLM sends the head as if nothing were wrong"
            url = f"{service.engine_url}/health"
            assert httpx.get(url, timeout=PATIENCE, trust_env=False).status_code == 200
            *_, error, done = (line for line in answer.iter_lines() if line)
        assert time.monotonic() - stopped >= WEDGE_SECONDS
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_died"
        assert done == "data: [DONE]"
        wait_until(lambda: "restarting" in service.phases(), PATIENCE, "a restart")
        service.wait_for("ready", READY_SECONDS)
        assert not alive(before)
        assert service.metric("sidecar_engine_restarts_total", cause="wedged") == 1
        body = BODY | {"stream": False, "max_tokens": 2}
        assert service.client.post("/v1/chat/completions", json=body).status_code == 200
        # Nothing may be left of an engine whose sidecar is killed.
        service.tree()
        service.process.kill()
        service.assert_nothing_is_left()
