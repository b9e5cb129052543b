"""Who asks in Anthropic's words is answered in them; and paths that are written otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, MESSAGES, STREAM, Pairs, new_id, prompt
from tests.wire.service import Sidecar, ending, until

VERSION: Pairs = [("anthropic-version", "2023-06-01")]


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/messages/x/y", "/v1/messages//"])
def test_a_path_below_messages_that_does_not_exist_is_told_in_anthropics_shape(
    service: Sidecar, path: str
) -> None:
    bodies: list[Any] = [None, {"requests": []}]
    for body in bodies:
        answer = service.ask(path, body)
        assert answer.status == 404
        assert answer.json() == {
            "type": "error",
            "error": {"type": "not_found_error", "message": answer.json()["error"]["message"]},
            "request_id": answer.request_id,
        }
        assert path in answer.json()["error"]["message"]
        assert answer.header("request-id") == answer.header("x-request-id") == answer.request_id
        assert ending(service.record(answer)) == (404, "client_error", "client", "unknown_route")


@pytest.mark.parametrize("path", ["/v1/files", "/v1/complete", "/v1/organizations/usage"])
def test_so_is_any_other_path_to_a_client_of_anthropics(service: Sidecar, path: str) -> None:
    assert service.ask(path, headers=VERSION).json()["error"]["type"] == "not_found_error"
    assert service.ask(path).json()["error"]["code"] == "unknown_route"


def test_a_route_of_openais_stays_openais(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT), headers=VERSION, fake={"die": "before_headers"})
    assert answer.json()["error"]["code"] == "engine_died"
    assert answer.all("request-id") == []


@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/count_tokens"])
@pytest.mark.parametrize(
    "fake", [{}, {"die": "before_headers"}, {"status": 400}], ids=["ok", "ours", "the engine's"]
)
def test_answers_of_messages_have_the_id_where_anthropics_sdks_look(
    service: Sidecar, path: str, fake: Any
) -> None:
    service.engine.script(path, **fake)
    request_id = new_id()
    answer = service.ask(path, prompt(MESSAGES), request_id=request_id)
    assert answer.header("request-id") == answer.header("x-request-id") == request_id


def test_anthropics_sdk_knows_the_id(service: Sidecar) -> None:
    with anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "max_tokens": 3, "messages": prompt(MESSAGES)["messages"]}
        message = client.messages.create(**asked)
        assert service.record(message._request_id or "")["route"] == "messages"
        with client.messages.stream(**asked) as stream:
            stream.get_final_message()
            assert service.record(stream.request_id or "")["stream"]
        with pytest.raises(anthropic.NotFoundError) as error:
            client.messages.batches.list()
        assert service.record(error.value.request_id or "")["status"] == 404


def test_an_id_of_the_engines_own_is_left_as_it_is(service: Sidecar) -> None:
    fake = {"headers": [("request-id", "theirs")]}
    answer = service.ask(MESSAGES, prompt(MESSAGES, STREAM), fake=fake)
    assert answer.all("request-id") == ["theirs"]


PROBES = [("HEAD", "/"), ("GET", "/"), ("GET", "/favicon.ico"), ("GET", "/robots.txt")]
PROBES += [("GET", "/v1"), ("GET", "/v1/"), ("HEAD", "/v1")]


@pytest.mark.parametrize(("method", "path"), PROBES)
def test_what_browsers_and_tools_ask_by_themselves_is_a_line_at_debug_only(
    service: Sidecar, method: str, path: str
) -> None:
    answer = service.ask(path, method=method)
    assert (answer.status, answer.whole) == (404, True)
    until(lambda: service.records(answer.request_id), "its line")
    assert service.record(answer)["level"] == "DEBUG"
    assert service.relayed() == []


def test_any_other_path_that_does_not_exist_is_a_line_as_any(service: Sidecar) -> None:
    for path in ("/v1/chat", "/favicon.ico.php", "//"):
        assert service.record(service.ask(path))["level"] == "INFO"


SLASHED = [(CHAT, prompt(CHAT)), (MESSAGES, prompt(MESSAGES)), ("/v1/models", None)]
SLASHED += [("/v1/models/tiny", None), ("/chat/completions", prompt(CHAT)), ("/version", None)]
SLASHED += [("/tokenize", {"prompt": "a"}), ("/v1/messages/count_tokens", prompt(MESSAGES))]
SLASHED += [("/generate", {"prompt": "a"}), ("/generate_vllm", {"prompts": ["a"]})]


@pytest.mark.parametrize(("path", "body"), SLASHED, ids=[path for path, _ in SLASHED])
def test_a_slash_at_the_end_of_a_route_is_none(service: Sidecar, path: str, body: Any) -> None:
    bare, slashed = (service.ask(f"{each}?a=b", body) for each in (path, f"{path}/"))
    assert (slashed.status, bare.status) == (200, 200)
    assert not any("/?" in each.target for each in service.relayed())
    assert service.record(slashed)["route"] == service.record(bare)["route"]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics", "/info"])
def test_nor_at_the_end_of_a_page(service: Sidecar, path: str) -> None:
    assert (service.ask(f"{path}/").status, service.ask(path).status) == (200, 200)
    assert service.ask(f"{path}//").status == 404


PAGES = ["/health", "/livez", "/ping", "/info", "/info/requests", "/metrics", "/metrics/engine"]
PAGES += ["/dashboard", "/dashboard/page.js", "/openapi.json", "/models", "/models/tiny"]


@pytest.mark.parametrize("path", PAGES)
def test_head_of_a_page_is_its_head(service: Sidecar, path: str) -> None:
    head, whole = service.ask(path, method="HEAD"), service.ask(path, method="GET")
    assert (head.status, head.body) == (whole.status, b"") == (200, b"")
    assert head.all("content-type") == whole.all("content-type")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses/resp_1", "/version", "/nope"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_without_a_body_holds_no_text(service: Sidecar, path: str, method: str) -> None:
    assert "modalities" not in service.record(service.ask(path, method=method))


def test_a_path_of_the_operators_with_a_slash_is_sent_with_it(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    with Sidecar(tmp_path, shared_engine, EXTRA_ROUTES="/docs/,/load") as service:
        service.wait_until_ready()
        for asked, sent in [("/docs/", "/docs/"), ("/load/", "/load"), ("/load", "/load")]:
            (seen,) = service.seen(service.ask(asked))
            assert seen.target == sent
        assert [service.ask(path).status for path in ("/docs", "/load//", "/")] == [404, 404, 404]
