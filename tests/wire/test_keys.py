"""API keys of a sidecar that runs: who gets past, and what the engine gets to see of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.engine.service import PROJECT
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, STREAM, Pairs, new_id, prompt, request
from tests.wire.service import Sidecar, ending, until

ALICE, BOB = "sk-alice-0123456789abcdef", "sk-bob-0123456789abcdef"
BEARER: Pairs = [("authorization", f"Bearer {ALICE}")]
BEHIND_RUNPOD: Pairs = [("Authorization", "Bearer rpa_RUNPODS"), ("X-API-Key", ALICE)]
WRONG: Pairs = [("authorization", "Bearer sk-wrong")]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"bob:{BOB}\n")
    return path


@pytest.fixture(scope="module")
def private(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory, keys_file: Path
) -> Iterator[Sidecar]:
    environ = {"API_KEYS": f"alice:{ALICE}", "API_KEYS_FILE": str(keys_file)}
    with Sidecar(tmp_path_factory.mktemp("private"), shared_engine, **environ) as service:
        service.wait_until_ready()
        service.client.headers["x-api-key"] = ALICE  # for what the tests look up themselves
        yield service
        assert not [text for text in (ALICE, BOB) if text in service.log.read_text()]


@pytest.mark.parametrize("headers", [BEARER, BEHIND_RUNPOD])
def test_a_good_key_gets_an_answer_and_ends_at_the_sidecar(
    private: Sidecar, headers: Pairs
) -> None:
    answer = private.ask(CHAT, prompt(CHAT, STREAM), headers=headers)
    assert answer.status == 200
    assert answer.data()[-1] == "[DONE]"
    line = private.record(answer)
    assert (line["key"], line["outcome"]) == ("alice", "ok")
    (received,) = private.seen(answer)
    assert received.header("authorization") == received.header("x-api-key") == []


@pytest.mark.parametrize("headers", [[], WRONG])
def test_without_one_the_engine_hears_nothing(private: Sidecar, headers: Pairs) -> None:
    answer = private.ask(CHAT, prompt(CHAT), headers=headers)
    assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert ending(private.record(answer)) == (401, "rejected", "client", "invalid_api_key")
    assert private.seen(answer) == []


def test_a_refusal_does_not_wait_for_the_body(private: Sidecar) -> None:
    with private.connect() as client:
        head = request(CHAT, b"", headers=[*WRONG, ("content-length", "1000000")])
        client.send(head)
        assert client.answer().status == 401


def test_after_a_refusal_the_connection_serves_on(private: Sidecar) -> None:
    with private.connect() as client:
        client.send(request(CHAT, prompt(CHAT), headers=WRONG))
        assert client.answer().status == 401
        client.send(request(CHAT, prompt(CHAT), headers=BEARER))
        assert client.answer().status == 200


def test_a_websocket_session_needs_a_key_too(private: Sidecar) -> None:
    url, request_id = f"ws://127.0.0.1:{private.port}/v1/realtime?model=tiny", new_id()
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(
            url,
            additional_headers={"x-request-id": request_id},
            proxy=None,
            open_timeout=PATIENCE,
        ),
    ):
        pass
    assert refused.value.response.status_code == 401
    assert b"invalid_api_key" in (refused.value.response.body or b"")
    assert ending(private.record(request_id)) == (401, "rejected", "client", "invalid_api_key")
    headers = {"x-request-id": (request_id := new_id()), "authorization": f"Bearer {ALICE}"}
    with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE) as client:
        assert "session.created" in str(client.recv(PATIENCE))
        (received,) = private.seen(request_id)
        assert received.header("authorization") == []
    assert private.record(request_id)["key"] == "alice"


def test_probes_need_none(private: Sidecar) -> None:
    assert [private.ask(path).status for path in ("/ping", "/health", "/livez")] == [200] * 3
    assert [private.ask(path).status for path in ("/info", "/metrics")] == [401] * 2


def test_tokens_are_counted_by_key(private: Sidecar) -> None:
    before = private.value("sidecar_key_tokens_total", key="alice")
    line = private.record(private.ask(CHAT, prompt(CHAT), headers=BEARER))
    used = line["prompt_tokens"] + line["completion_tokens"]
    assert private.value("sidecar_key_tokens_total", key="alice") == before + used


def test_keys_of_the_file_come_and_go_without_a_restart(private: Sidecar, keys_file: Path) -> None:
    def status(key: str) -> int:
        return private.ask("/v1/models", headers=[("x-api-key", key)]).status

    assert status(BOB) == 200
    new = keys_file.with_suffix(".new")
    new.write_text("carol:sk-carol-0123456789")
    new.replace(keys_file)
    until(lambda: status("sk-carol-0123456789") == 200, "carol's key")
    assert (status(BOB), status(ALICE)) == (401, 200)


def test_the_command_makes_a_key_that_works(tmp_path: Path, shared_engine: FakeEngine) -> None:
    command = [sys.executable, "-m", "proxy", "keys"]
    made = subprocess.run(
        [*command, "dora"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout.strip()
    with Sidecar(tmp_path, shared_engine, API_KEYS=made) as service:
        service.wait_until_ready()
        headers = [("authorization", "Bearer " + made.removeprefix("dora:"))]
        assert service.record(service.ask("/v1/models", headers=headers))["key"] == "dora"
    for wrong in (["a b"], ["a", "b"], ["--label"]):
        refused = subprocess.run(
            [*command, *wrong], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE
        )
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"API_KEYS": "alice:sk-hush hush"}, "API_KEYS=***: number 1"),
        ({"API_KEYS_FILE": "/nowhere/keys"}, "API_KEYS_FILE='/nowhere/keys': "),
    ],
)
def test_wrong_keys_end_the_start_with_2(
    tmp_path: Path, shared_engine: FakeEngine, environ: dict[str, str], says: str
) -> None:
    with Sidecar(tmp_path, shared_engine, **environ) as service:
        assert service.process.wait(PATIENCE) == 2
        (line,) = service.log.read_text().splitlines()
    assert line.startswith(says)
    assert "hush" not in line
