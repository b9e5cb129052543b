"""Models loaded, unloaded and pinned by hand, through the whole sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.engine.service import Service
from tests.fake_engine import x_fake
from tests.patience import PATIENCE
from tests.wire.service import until
from tests.wire.several import CHAT, MESSAGES, chat, client_of, engines_of, release, several

OPS = "sk-ops-0123456789"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`one`, served as `uno` too, and `two`, for bob alone."""
    folder = tmp_path_factory.mktemp("steered")
    with several(folder, ADMIN_KEYS=f"ops:{OPS}") as service:
        service.wait_for("ready", PATIENCE)
        until(lambda: row(service, "two")["status"] == "ready", "the second model")
        yield service
        assert OPS not in service.log.read_text()


def row(service: Service, name: str) -> dict[str, Any]:
    with client_of(service, OPS) as client:
        answer: dict[str, Any] = client.get(f"/models/{name}").json()
    return answer


def ordered(service: Service, name: str, action: str) -> httpx.Response:
    with client_of(service, OPS) as client:
        return client.post(f"/models/{name}/{action}")


def listed(service: Service) -> dict[str, str]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="sk-bob") as client:
        return {each.id: each.model_dump()["status"] for each in client.models.list()}


def test_a_model_is_unloaded_and_loaded_by_order(service: Service) -> None:
    assert ordered(service, "two", "unload").status_code == 202
    until(lambda: row(service, "two")["status"] == "unloaded", "the end of its engine")
    assert "two" not in engines_of(service)
    assert listed(service) == {"one": "ready", "uno": "ready", "two": "unloaded"}
    assert service.client.get("/health").status_code == 200
    answer = ordered(service, "two", "load")
    assert (answer.status_code, answer.json()["name"]) == (202, "two")
    until(lambda: row(service, "two")["status"] == "ready", "its load")
    assert chat(service, model="two").json()["model"] == "two"
    lines = ["two: unload ordered by ops", "two: load ordered by ops"]
    until(lambda: orders(service) == lines, "the lines of both orders")


def orders(service: Service) -> list[str]:
    lines = [line["message"] for line in service.lines("proxy.pool")]
    return [line for line in lines if line.endswith("ordered by ops")]


def test_a_request_for_an_unloaded_model_loads_it_again(service: Service) -> None:
    ordered(service, "two", "unload")
    until(lambda: row(service, "two")["status"] == "unloaded", "the end of its engine")
    assert chat(service, model="two").json()["model"] == "two"
    assert row(service, "two")["status"] == "ready"


def test_what_runs_is_finished_before_its_model_is_unloaded(service: Service) -> None:
    body = {"model": "two", "messages": MESSAGES, "stream": True, "max_tokens": 30}
    with (
        client_of(service) as client,
        client.stream("POST", CHAT, json=body, headers=x_fake(tokens=30, hold_at=3)) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        assert ordered(service, "two", "unload").json()["in_flight"] == 1
        release(service, "two")
        assert "data: [DONE]" in list(lines)
    until(lambda: row(service, "two")["status"] == "unloaded", "the end of its engine")
    ordered(service, "two", "load")
    until(lambda: row(service, "two")["status"] == "ready", "its load")


def test_a_pin_loads_a_model_and_keeps_it(service: Service) -> None:
    ordered(service, "two", "unload")
    until(lambda: row(service, "two")["status"] == "unloaded", "the end of its engine")
    assert ordered(service, "two", "pin").json()["pinned"] is True
    until(lambda: row(service, "two")["status"] == "ready", "its load")
    assert ordered(service, "two", "unload").status_code == 409
    assert ordered(service, "two", "unpin").json()["pinned"] is False


def test_an_ordinary_key_orders_nothing(service: Service) -> None:
    for key in ("sk-bob", "sk-alice", "sk-nobody"):
        with client_of(service, key) as client:
            answer = client.post("/models/one/unload")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert row(service, "one")["status"] == "ready"
    assert chat(service, OPS, model="one").status_code == 401
