"""The engine's life, with the whole sidecar as a process and a fake engine below it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.engine.service import alive, command_line, wait_until
from tests.fake_engine import BIN, FakeEngine
from tests.patience import PATIENCE, on_a_clock
from tests.proxy.engine.living import CHILDREN, Gate, Start, chat, starts, streamed

LOGS = Path(__file__).parents[2] / "fixtures" / "engine-logs"
BACK_OFF_SECONDS = 1.0
# No test waits for the end of such a time.
FOR_EVER = "3600"


# The start


def test_start_is_told_phase_by_phase_until_a_token_was_generated(
    start: Start, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    service = start(**gate.environ)
    service.wait_until_listening()
    ping = service.client.get("/ping")
    assert (ping.status_code, ping.content) == (204, b"")
    health = service.client.get("/health")
    assert health.status_code == 503
    assert health.json()["status"] == "starting"
    assert 1 <= int(health.headers["retry-after"]) <= 59
    assert service.client.get("/health/live").status_code == 200
    refused = chat(service)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert "retry-after" in refused.headers
    assert service.client.get("/metrics/engine").status_code == 503

    gate.open()
    service.wait_for("ready", PATIENCE)
    phases = service.phases_until("ready")
    assert phases[:2] == ["downloading", "loading"]
    assert phases[-2:] == ["warming", "ready"]
    sent = httpx.get(f"{service.engine_url}/__fake/requests", trust_env=False).json()["requests"]
    (warm_up,) = (each for each in sent if each["method"] == "POST")
    assert warm_up["target"] == "/v1/completions"
    assert json.loads(warm_up["body"])["max_tokens"] == 1
    assert service.client.get("/ping").status_code == 200
    assert chat(service).status_code == 200
    assert "reason" not in service.health()
    assert service.metric("sidecar_engine_state", phase="ready") == 1
    assert service.metric("sidecar_engine_state") == 1


def test_without_warm_up_the_engines_health_is_enough(start: Start) -> None:
    service = start(WARMUP="false", FAKE_ENGINE_GENERATION="fail")
    service.wait_for("ready", PATIENCE)
    assert "restarting" not in service.phases()


def test_request_is_held_until_the_engine_is_ready(start: Start, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    service = start(HOLD_SECONDS=FOR_EVER, **gate.environ)
    service.wait_until_listening()
    with ThreadPoolExecutor(1) as clients:
        answer = clients.submit(chat, service)
        wait_until(lambda: service.metric("sidecar_requests_waiting") == 1, PATIENCE, "a request")
        gate.open()
        assert answer.result().status_code == 200


def test_start_that_can_never_work_is_not_tried_again(start: Start, tmp_path: Path) -> None:
    log = str(LOGS / "B_unknown_flag_typo.log")
    service = start(FAKE_ENGINE_FAIL_LOG=log, FAKE_ENGINE_EXIT_CODE="2")
    service.wait_for("failed", PATIENCE)
    health = service.health()
    assert health["status"] == "failed"
    assert health["reason"]
    assert health["remedy"]
    assert service.client.get("/ping").status_code == 503
    assert service.client.get("/health/live").status_code == 503
    assert health["reason"] in chat(service).json()["error"]["message"]
    engine = service.client.get("/info").json()["engine"]
    assert (engine["cause"], engine["restarts"]) == ("bad_flag", 0)
    assert starts(tmp_path) == 1
    service.terminate()
    assert service.exit_code() == 0


def test_failed_start_is_tried_again_after_a_while(start: Start, tmp_path: Path) -> None:
    service = start(FAKE_ENGINE_EXIT_CODE="1", FAKE_ENGINE_BAD_STARTS="1")
    service.wait_for("ready", PATIENCE)
    assert starts(tmp_path) == 2
    assert "reason" not in service.health()
    assert "restarting" in service.phases_until("ready")
    (restarting,) = (
        line for line in service.lines("proxy.engine") if line.get("phase_before") == "restarting"
    )
    assert restarting["seconds"] >= BACK_OFF_SECONDS
    engine = service.client.get("/info").json()["engine"]
    assert (engine["restarts"], engine["last_restart_cause"]) == (1, "unknown")
    assert set(engine["phase_seconds"]) >= {"loading", "warming"}
    assert set(engine["last_phase_seconds"]) == {"checking", "downloading", "loading"}
    assert service.metric("sidecar_engine_restarts_total", cause="unknown") == 1
    assert service.metric("sidecar_engine_restarts_total") == 1


def test_restarts_are_given_up_after_the_last_allowed_one(start: Start, tmp_path: Path) -> None:
    service = start(FAKE_ENGINE_EXIT_CODE="1", MAX_RESTARTS="1")
    service.wait_for("failed", PATIENCE)
    assert "gave up after 1 restart" in service.health()["reason"]
    assert starts(tmp_path) == 2


def test_failure_can_end_the_sidecar(start: Start) -> None:
    service = start(FAKE_ENGINE_EXIT_CODE="1", MAX_RESTARTS="0", ON_ENGINE_FAILURE="exit")
    assert service.exit_code() == 1
    failed = service.lines("proxy.engine")[-1]
    assert (failed["phase"], failed["level"]) == ("failed", "ERROR")


def test_port_of_the_engine_that_is_taken_is_waited_for(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = str(foreign.getsockname()[1])
        service = start(UPSTREAM_PORT=port)
        service.wait_until_listening()

        def waits() -> bool:
            answer = service.client.get("/health")
            health = answer.json()
            return (
                health["phase"] == "restarting"
                and port in health["reason"]
                and "UPSTREAM_PORT" in health["remedy"]
                and "retry-after" in answer.headers
            )

        wait_until(waits, PATIENCE, "why it is not started")
        assert service.client.get("/ping").status_code == 204
    service.wait_for("ready", PATIENCE)
    assert starts(tmp_path) == 1


# The first token


def test_engine_that_dies_of_its_first_request_is_told_by_its_own_words(start: Start) -> None:
    service = start(FAKE_ENGINE_GENERATION="die", FAKE_ENGINE_BAD_STARTS="1", **CHILDREN)
    service.wait_for("ready", PATIENCE)
    (line,) = (line for line in service.lines("proxy.engine") if line.get("phase") == "restarting")
    assert line["cause"] == "crashed"
    assert "crashed" in line["message"]


def test_engine_that_dies_of_its_first_request_and_is_slow_to_go(start: Start) -> None:
    slow = {"FAKE_ENGINE_GENERATION": "die", "FAKE_ENGINE_CRASH_SECONDS": "9"}
    service = start(MAX_RESTARTS="0", **slow)
    service.wait_for("failed", PATIENCE)
    assert "crashed" in service.health()["reason"]
    assert service.client.get("/info").json()["engine"]["cause"] == "crashed"


@on_a_clock("it is warmed three times, for 3 s in all")
def test_engine_that_does_not_generate_is_never_ready(start: Start) -> None:
    service = start(FAKE_ENGINE_GENERATION="fail", MAX_RESTARTS="0")
    service.wait_for("warming", PATIENCE)
    wait_until(lambda: "reason" in service.health(), PATIENCE, "a reason")
    assert service.client.get("/ping").status_code == 204
    assert service.client.get("/health/model").status_code == 200
    service.wait_for("failed", PATIENCE)
    assert "failed to generate a token" in service.health()["reason"]
    assert "ready" not in service.phases()
    assert service.client.get("/health/model").status_code == 503


# The running engine


def test_guard_that_is_killed_takes_the_engine_with_it_and_both_are_replaced(start: Start) -> None:
    service = start(**CHILDREN)
    service.wait_for("ready", PATIENCE)
    before = service.tree()
    (guard,) = (each.pid for each in before if "guard.py" in command_line(each.pid))
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: "restarting" in service.phases(), PATIENCE, "a restart")
    service.wait_for("ready", PATIENCE)
    assert not alive(before)


def test_engine_whose_health_fails_gets_no_requests_until_it_is_back(start: Start) -> None:
    service = start()
    service.wait_for("ready", PATIENCE)
    script = f"{service.engine_url}/__fake/script"
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
        client.post(script, json={"path": "/health", "script": {"status": 503}})
        service.wait_for("degraded", PATIENCE)
        assert service.client.get("/ping").status_code == 503
        assert chat(service).status_code == 503
        client.post(script, json={"path": "/health", "script": None})
    service.wait_for("ready", PATIENCE)
    assert "reason" not in service.health()


def test_engine_that_had_worked_is_started_again_whatever_its_next_start_says(
    start: Start, tmp_path: Path
) -> None:
    """The one that died may still hold its memory: the settings are not to blame."""
    fails_second_time = tmp_path / "bin" / "vllm"
    fails_second_time.parent.mkdir()
    fails_second_time.write_text(
        "#!/bin/sh\n"
        f'echo start >> "{tmp_path}/begun"\n'
        f'if [ "$(wc -l < "{tmp_path}/begun")" -eq 2 ]; then\n'
        f'  export FAKE_ENGINE_EXIT_CODE=1 FAKE_ENGINE_FAIL_LOG="{LOGS}/B_kv_too_big.log"\n'
        f'fi\nexec "{BIN}/vllm" "$@"\n'
    )
    fails_second_time.chmod(0o755)
    path = f"{fails_second_time.parent}:{BIN}:{os.environ['PATH']}"
    service = start(PATH=path, **CHILDREN)
    service.wait_for("ready", PATIENCE)
    os.kill(service.find("VLLM::EngineCore"), signal.SIGKILL)
    wait_until(lambda: service.phases().count("ready") == 2, PATIENCE, "another start")
    engine = service.client.get("/info").json()["engine"]
    assert (engine["restarts"], engine["last_restart_cause"]) == (2, "out_of_memory")


# The end


def test_drain_delay_is_waited_out(start: Start) -> None:
    service = start(DRAIN_DELAY_SECONDS="1")
    service.wait_for("ready", PATIENCE)
    before = time.monotonic()
    service.terminate()
    assert service.exit_code() == 0
    assert time.monotonic() - before >= 1


def test_requests_are_still_taken_during_the_drain_delay_until_a_second_sigterm(
    start: Start,
) -> None:
    service = start(DRAIN_DELAY_SECONDS=FOR_EVER)
    service.wait_for("ready", PATIENCE)
    service.terminate()
    wait_until(
        lambda: service.client.get("/ping").status_code == 503, PATIENCE, "no more readiness"
    )
    assert service.health()["phase"] == "draining"
    assert chat(service).status_code == 200
    service.process.terminate()
    assert service.exit_code() == 0


def test_second_sigterm_cuts_what_runs_and_leaves_nothing(start: Start) -> None:
    service = start(DRAIN_SECONDS=FOR_EVER, **CHILDREN)
    service.wait_for("ready", PATIENCE)
    lines = streamed(service, tokens=100_000, interval_ms=50)
    assert next(lines)
    service.terminate()
    wait_until(lambda: "draining" in service.phases(), PATIENCE, "the drain")
    service.process.terminate()
    *_, error, done = lines
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "cut_off"
    assert done == "data: [DONE]"
    assert service.exit_code() == 0
    service.assert_nothing_is_left(0)
    last = service.lines()[-1]
    assert (last["finished"], last["cut"]) == (0, 1)


@on_a_clock("an engine that ignores SIGTERM is killed after 5 s")
def test_third_sigterm_while_the_engine_is_slow_to_go_leaves_nothing(start: Start) -> None:
    service = start(FAKE_ENGINE_IGNORE_TERM="1", **CHILDREN)
    service.wait_for("ready", PATIENCE)
    for said in ("SIGTERM: draining", "SIGTERM again"):
        service.terminate()
        wait_until(lambda said=said: said in service.text(), PATIENCE, said)  # type: ignore[misc]
    service.process.terminate()
    assert service.exit_code() == 128 + signal.SIGTERM
    service.assert_nothing_is_left()


@pytest.mark.parametrize("phase", ["import", "weights"])
def test_sigterm_during_the_start_ends_it(start: Start, phase: str) -> None:
    service = start(DRAIN_DELAY_SECONDS=FOR_EVER, FAKE_ENGINE_HANG_AT=phase, **CHILDREN)
    service.wait_for("loading", PATIENCE)
    time.sleep(0.5)
    service.terminate()
    assert service.exit_code() == 0
    service.assert_nothing_is_left(0)


def test_sigterm_during_the_back_off_ends_it(start: Start) -> None:
    service = start(FAKE_ENGINE_EXIT_CODE="1", MAX_RESTARTS="1000")
    service.wait_for("restarting", PATIENCE)
    service.terminate()
    assert service.exit_code() == 0
    assert service.phases()[-2:] == ["draining", "stopped"]


def test_sigterm_while_the_hub_is_asked_ends_it(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        service = start(MODEL_NAME="some/model", HF_ENDPOINT=endpoint)
        service.wait_for("checking", PATIENCE)
        asked, _ = silent.accept()  # the child is at work
        with closing(asked):
            service.terminate()
            assert service.exit_code() == 0
        service.assert_nothing_is_left(0)


def test_sigterm_ends_it_also_where_the_volume_does_not_answer(
    start: Start, tmp_path: Path
) -> None:
    kept = tmp_path / "sidecar" / "starts.json"
    kept.parent.mkdir()
    os.mkfifo(kept)  # whoever reads it waits, as on a network volume that has gone
    service = start()
    wait_until(lambda: "hardware: " in service.text(), PATIENCE, "the first look")
    assert service.health()["phase"] == "checking"
    service.terminate()
    assert service.exit_code() == 0
    assert "ending all the same" in service.lines()[-1]["message"]
    service.assert_nothing_is_left(0)


# What ends it before it begins


def test_port_that_is_taken_is_one_line_and_exit_code_1(start: Start) -> None:
    with socket.create_server(("0.0.0.0", 0)) as foreign:
        port = foreign.getsockname()[1]
        service = start(PORT=str(port))
        assert service.exit_code() == 1
        (line,) = service.text().splitlines()
        assert line == f"cannot listen on 0.0.0.0: port {port}: Address already in use"


# Someone else's engine


def test_engine_of_someone_else_is_followed_and_never_ended(start: Start) -> None:
    with FakeEngine("--served-model-name", "theirs", "tiny") as engine:
        service = start(UPSTREAM_URL=engine.url, SERVED_MODEL_NAME="")
        service.wait_for("ready", PATIENCE)
        assert service.health()["model"] == "theirs"
        assert service.client.get("/info").json()["engine"]["url"] == engine.url
        assert not service.tree()
        assert chat(service).status_code == 200
        lines = streamed(service, tokens=20, interval_ms=50)
        assert next(lines)
        service.terminate()
        assert list(lines)[-1] == "data: [DONE]"
        assert service.exit_code() == 0
        assert engine.process.poll() is None


# Secrets


def test_token_of_the_hub_appears_nowhere(start: Start, tmp_path: Path) -> None:
    token = "hf_ThisIsNobodysToken"
    leaking = tmp_path / "leaking.log"
    leaking.write_text(f"GET /api authorization: Bearer {token}\nValueError: {token} is wrong\n")
    service = start(
        HF_TOKEN=f"{token}\n",  # as a secret made of a file has it
        FAKE_ENGINE_FAIL_LOG=str(leaking),
        FAKE_ENGINE_BAD_STARTS="1",
        LOG_LEVEL="debug",
    )
    wait_until(lambda: "restarting" in service.phases(), PATIENCE, "the failed start")
    pages = [service.client.get(path).text for path in ("/health", "/info", "/metrics")]
    service.wait_for("ready", PATIENCE)
    pages += [service.client.get(path).text for path in ("/health", "/info", "/metrics")]
    pages += [command_line(each.pid) for each in service.tree()]
    engine = service.find(f"{sys.executable} {BIN}")
    assert token in Path(f"/proc/{engine}/environ").read_text()
    assert "Bearer ***" in service.text()
    assert not [page for page in [*pages, service.text()] if token in page]
