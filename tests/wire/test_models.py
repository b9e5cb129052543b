"""`/v1/models/{model}` is answered from the engine's list, in the shape of who asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import anthropic
import openai
import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, prompt
from tests.wire.service import Sidecar, ending, fields

SLASHED = "Qwen/Qwen2-VL-7B"
NAMES = ["tiny", SLASHED]
ANTHROPIC = [("anthropic-version", "2023-06-01")]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar before an engine that serves one model under two names."""
    folder: Path = tmp_path_factory.mktemp("models")
    with (
        FakeEngine("--served-model-name", *NAMES) as engine,
        Sidecar(folder, engine) as service,
    ):
        service.wait_until_ready()
        yield service


@pytest.fixture
def openai_client(both: Sidecar) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(both: Sidecar) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=both.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", NAMES)
def test_openais_sdk_retrieves_a_model(openai_client: openai.OpenAI, name: str) -> None:
    assert openai_client.models.retrieve(name).id == name


@pytest.mark.parametrize("name", NAMES)
def test_anthropics_sdk_retrieves_a_model(anthropic_client: anthropic.Anthropic, name: str) -> None:
    model = anthropic_client.models.retrieve(name)
    assert (model.id, model.display_name, model.type) == (name, name, "model")
    assert model.created_at.year > 2000
    assert model.max_input_tokens == 1024


def test_anthropics_sdk_is_told_the_requests_id(both: Sidecar) -> None:
    for path in ("/v1/models", "/v1/models/tiny"):
        answer = both.ask(path, headers=ANTHROPIC)
        assert answer.status == 200
        assert answer.header("request-id") == answer.header("x-request-id")
        assert both.ask(path).all("request-id") == []


def test_anthropics_sdk_lists_the_models(anthropic_client: anthropic.Anthropic) -> None:
    models = list(anthropic_client.models.list(limit=1))
    assert [model.id for model in models] == NAMES
    assert [model.display_name for model in models] == NAMES


def test_who_is_not_of_anthropic_gets_the_engines_own_list(both: Sidecar) -> None:
    assert [card["id"] for card in both.ask("/v1/models").json()["data"]] == NAMES
    assert "object" in both.ask("/v1/models").json()


@pytest.mark.parametrize("written", [SLASHED, quote(SLASHED, safe=""), "Qwen%2fQwen2%2DVL-7B"])
def test_a_name_may_have_slashes_however_they_are_written(both: Sidecar, written: str) -> None:
    answer = both.ask(f"/v1/models/{written}")
    assert (answer.status, answer.json()["id"]) == (200, SLASHED)
    assert answer.json()["object"] == "model"
    line = both.record(answer)
    assert fields(line, "path", "route", "outcome") == (f"/v1/models/{written}", "models", "ok")


def test_a_name_that_is_not_served_is_told_which_are(
    both: Sidecar, openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic
) -> None:
    answer = both.ask("/v1/models/gpt-5")
    assert answer.status == 404
    assert answer.json()["error"] == {
        "message": f"There is no model gpt-5 here. There is: tiny, {SLASHED}.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert ending(both.record(answer)) == (404, "client_error", "client", "model_not_found")
    with pytest.raises(openai.NotFoundError, match="no model gpt-5"):
        openai_client.models.retrieve("gpt-5")
    with pytest.raises(anthropic.NotFoundError) as error:
        anthropic_client.models.retrieve("gpt-5")
    assert isinstance(error.value.body, dict)
    assert error.value.body["error"]["type"] == "not_found_error"
    assert error.value.request_id == error.value.body["request_id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [("{}", 502), ("[", 502), ("[" * 10_000, 502), ('{"data": [{}]}', 502), ('{"data": []}', 404)],
)
def test_a_list_that_is_none_is_the_engines_fault(both: Sidecar, body: str, status: int) -> None:
    both.engine.script("/v1/models", body=body)
    try:
        assert both.ask("/v1/models/tiny").status == status
    finally:
        both.engine.script("/v1/models")


def test_a_model_without_a_name_or_with_odd_numbers_hides_no_other(both: Sidecar) -> None:
    both.engine.script(
        "/v1/models",
        body='{"data": [{"id": null}, {"id": ""}, {"id": 7}, {}, "a",'
        ' {"id": "tiny", "created": 1e30},'
        ' {"id": "b", "created": 99999999999999999, "max_model_len": "x"}]}',
    )
    try:
        assert both.ask("/v1/models/tiny").json() == {"id": "tiny", "created": 1e30}
        listed = both.ask("/v1/models", headers=ANTHROPIC).json()["data"]
        assert [model["id"] for model in listed] == ["tiny", "b"]
        assert both.ask("/v1/models/None").status == 404
    finally:
        both.engine.script("/v1/models")


def test_an_error_of_the_engines_passes_as_it_is(both: Sidecar) -> None:
    both.engine.script("/v1/models", status=418, body='{"error": "x"}')
    try:
        answer = both.ask("/v1/models/tiny", headers=ANTHROPIC)
        assert (answer.status, answer.json()) == (418, {"error": "x"})
        assert ending(both.record(answer))[1] == "client_error"
    finally:
        both.engine.script("/v1/models")


def test_a_connection_goes_on_after_it(both: Sidecar) -> None:
    with both.connect() as client:
        for path in ("/v1/models/tiny", "/v1/models/none", "/v1/models"):
            client.ask(path)
            assert json.loads(client.answer(method="GET").body)
        client.ask(CHAT, prompt(CHAT))
        assert client.answer().status == 200
