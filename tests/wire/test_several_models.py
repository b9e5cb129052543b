"""Several models behind one sidecar: what names a model goes to its engine, and to no other."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.engine.service import FORKED, Service
from tests.fake_engine import FakeEngine, x_fake
from tests.measure import measured
from tests.patience import PATIENCE
from tests.wire.client import new_id
from tests.wire.service import until
from tests.wire.several import (
    CHAT,
    MESSAGES,
    Poll,
    assert_whole,
    chat,
    client_of,
    engines_of,
    release,
    several,
    status_of,
    stream,
    wrapped_vllm,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two models, each with a fake engine of its own, which this sidecar has started."""
    folder = tmp_path_factory.mktemp("several")
    with several(folder) as service:
        service.wait_for("ready", PATIENCE)
        until(lambda: status_of(service, "two") == "ready", "the second model")
        yield service


def test_a_request_goes_to_the_model_that_it_names(service: Service) -> None:
    for name, engine in (("one", "one"), ("uno", "one"), ("two", "two")):
        assert chat(service, model=name).json()["model"] == engine
    assert chat(service).json()["model"] == "one", "the first is the default"
    # The name may stand behind everything else.
    late = json.dumps({"messages": MESSAGES, "user": "x" * 2_000_000, "model": "two"})
    with client_of(service) as client:
        answer = client.post(CHAT, content=late, headers={"content-type": "application/json"})
    assert answer.json()["model"] == "two"


def test_a_stream_of_each_runs_beside_the_other(service: Service) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="sk-bob") as client:
        streams = [
            client.completions.create(model=name, prompt="Hello", stream=True)
            for name in ("one", "two")
        ]
        assert [{chunk.model for chunk in stream} for stream in streams] == [{"one"}, {"two"}]


def test_an_unknown_model_is_404_with_the_names_there_are(service: Service) -> None:
    answer = chat(service, model="three")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"] == "There is no model three here. There is: one, uno, two."
    picture = {"type": "image_url", "image_url": {"url": "http://10.0.0.1/picture.png"}}
    messages = [{"role": "user", "content": [picture]}]
    refused = chat(service, model="three", messages=messages)
    assert refused.json()["error"]["code"] == "model_not_found", "nothing is fetched for it"
    with client_of(service) as client:
        anthropic = client.post("/v1/messages", json={"model": "three", "messages": MESSAGES})
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (404, "not_found_error")


def test_a_model_is_only_for_the_keys_that_its_preset_names(service: Service) -> None:
    answer = chat(service, "sk-alice", model="two")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith("There is: one, uno.")
    with client_of(service, "sk-alice") as client:
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["one", "uno"]


def test_all_models_are_listed_with_their_status(service: Service) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="sk-bob") as client:
        models = list(client.models.list())
        assert [each.id for each in models] == ["one", "uno", "two"]
        assert {each.object for each in models} == {"model"}
        assert {each.model_dump()["status"] for each in models} == {"ready"}
        assert client.models.retrieve("two").id == "two"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("three")
    with client_of(service) as client:
        page = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
        assert [each["id"] for each in page["data"]] == ["one", "uno", "two"]
        assert client.post("/v1/models").status_code == 405


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_the_model_of_an_upload_may_come_behind_its_file(
    service: Service, size: int, *, in_chunks: bool
) -> None:
    boundary = "----parts"
    field = 'content-disposition: form-data; name="{}"'
    content = os.urandom(size).replace(b"-", b"+")
    file = b'content-disposition: form-data; name="file"; filename="model"\r\n\r\n' + content
    parts = [file, f"{field.format('model')}\r\n\r\ntwo".encode()]
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    body += f"--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    with client_of(service) as client:
        sent = iter([body]) if in_chunks else body
        answer = client.post("/v1/audio/transcriptions", content=sent, headers=headers)
        assert answer.status_code == 200, answer.text
        lost = body.replace(b"\r\ntwo\r\n", b"\r\nsix\r\n")
        assert (
            client.post("/v1/audio/transcriptions", content=lost, headers=headers).status_code
            == 404
        )
    line = service.access(answer.headers["x-request-id"])
    assert (line["model"], line["bytes_in"]) == ("two", len(body))


def test_what_an_engine_stores_is_asked_of_that_engine(service: Service) -> None:
    with client_of(service) as client:
        answer = client.get("/v1/responses/resp_nobody")
    assert answer.status_code == 404
    assert "gone when it ends" in answer.json()["error"]["message"]


def test_a_session_is_with_the_model_that_its_path_names(service: Service) -> None:
    url = f"ws://127.0.0.1:{service.port}/v1/realtime?model="
    headers = {"authorization": "Bearer sk-bob"}
    requests: list[tuple[str, str]] = []
    for name in ("one", "two"):
        request_id = new_id()
        more = headers | {"x-request-id": request_id}
        with connect(
            url + name, additional_headers=more, proxy=None, open_timeout=PATIENCE
        ) as client:
            assert "session.created" in str(client.recv(PATIENCE))
        requests.append((request_id, name))
    for request_id, name in requests:
        assert service.access(request_id)["model"] == name
    with pytest.raises(InvalidStatus) as refused:
        connect(url + "three", additional_headers=headers, proxy=None, open_timeout=PATIENCE)
    assert refused.value.response.status_code == 404


def test_what_names_no_model_is_the_defaults(service: Service) -> None:
    with client_of(service) as client:
        assert client.get("/version").status_code == 200
        assert client.post("/tokenize", json={"prompt": "Hello"}).status_code == 200


def test_each_model_is_seen(service: Service) -> None:
    with client_of(service) as client:
        assert client.get("/health/model?model=two").json()["status"] == "ready"
        assert client.get("/health/model?model=three").status_code == 404
        assert client.get("/metrics/engine?model=two").status_code == 200
        info = client.get("/info").json()
        page = client.get("/metrics").text
    assert info["models"]["two"]["model"]["served_names"] == ["two"]
    assert 'sidecar_model_state{model="two",state="ready"} 1.0' in page
    assert 'sidecar_engine_state{model="one",phase="ready"} 1.0' in page
    assert 'sidecar_requests_waiting{model="two"} 0.0' in page
    lines = [line for line in service.lines() if line["logger"] == "proxy.engine"]
    assert {line.get("model") for line in lines} == {"one", "two"}
    assert {line["model"] for line in lines if line["message"].startswith("hardware")} == {
        "one",
        "two",
    }


def test_one_engine_that_is_killed_under_load_of_the_other_cuts_none_of_its_streams(
    service: Service,
) -> None:
    with ThreadPoolExecutor(20) as threads, Poll(service) as poll:
        begun = threading.Barrier(21)
        others = [threads.submit(stream, service, "one", begun.wait, hold_at=3) for _ in range(16)]
        lost = [threads.submit(stream, service, "two", begun.wait, stall_at=3) for _ in range(4)]
        begun.wait(PATIENCE)
        os.kill(engines_of(service)["two"], signal.SIGKILL)
        until(lambda: restarted(service) == {"two"}, "the death")
        release(service, "one")
        # A request for the one that is gone waits for it.
        assert chat(service, model="two").json()["model"] == "two"
        for each in others:
            assert_whole(each.result(PATIENCE))
        for each in lost:
            text = each.result(PATIENCE)
            assert '"code":"engine_died"' in text.replace(" ", "")
    assert {status for _, status in poll.statuses} == {200}

    def has_waited() -> bool:
        return any("model_wait_ms" in line for line in service.lines("proxy.access"))

    until(has_waited, "the line of the request that has waited")
    assert restarted(service) == {"two"}


def restarted(service: Service) -> set[str]:
    return {line["model"] for line in service.lines() if line.get("phase") == "restarting"}


def test_a_model_in_a_crash_loop_beside_one_that_serves(tmp_path: Path) -> None:
    broken = wrapped_vllm(tmp_path, "two", FAKE_ENGINE_EXIT_CODE="1")
    with (
        several(tmp_path, **broken, MAX_RESTARTS="2") as service,
        ThreadPoolExecutor(2) as threads,
    ):
        service.wait_for("ready", PATIENCE)
        with Poll(service) as poll:
            waiting = threads.submit(chat, service, model="two")
            running = threads.submit(stream, service, "one")
            served = 0
            while not waiting.done():
                assert chat(service, model="one").json()["model"] == "one"
                served += 1
            assert served > 1
            for refused in (waiting.result(), chat(service, model="two")):
                assert refused.status_code == 503
                error = refused.json()["error"]
                assert error["code"] == "engine_failed"
                assert "exit code 1" in error["message"]
            assert status_of(service, "two") == "failed"
            assert_whole(running.result(PATIENCE))
            assert chat(service, model="one").status_code == 200
        assert {status for _, status in poll.statuses} == {200}
        assert "reason" not in service.health()


def test_sigterm_ends_all_engines_and_lets_what_runs_finish(tmp_path: Path) -> None:
    with several(tmp_path) as service:
        service.wait_until_listening()
        until(lambda: status_of(service, "two") == "ready", "both models")
        engines = set(engines_of(service).values())
        with client_of(service) as client:
            body = {"model": "two", "messages": MESSAGES, "stream": True}
            with client.stream("POST", CHAT, json=body, headers=x_fake(hold_at=3)) as stream:
                lines = stream.iter_lines()
                next(lines)
                service.terminate()
                until(lambda: "draining" in service.text(), "the beginning of the end")
                release(service, "two")
                assert "data: [DONE]" in list(lines)
        assert service.exit_code(PATIENCE) == 0
        assert len(engines) == 2
        assert not [pid for pid in engines if Path(f"/proc/{pid}").exists()]


def test_engines_of_others_are_routed_by_name(tmp_path: Path) -> None:
    with (
        FakeEngine("--served-model-name", "one") as one,
        FakeEngine("--served-model-name", "two") as two,
        Service(
            tmp_path,
            FORKED,
            UPSTREAM_URL=f"one={one.url},two={two.url}",
            HOST="127.0.0.1",
            **measured(),
        ) as service,
    ):
        service.wait_until_listening()
        until(lambda: status_of(service, "two") == "ready", "both engines")
        for name in ("one", "two"):
            assert chat(service, model=name).json()["model"] == name
        two.stop()
        assert chat(service, model="one").json()["model"] == "one"
