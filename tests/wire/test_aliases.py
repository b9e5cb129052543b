"""The paths without `/v1` are the same routes: same bytes, same usage, same line in the log."""

from __future__ import annotations

import pytest

from tests.wire.client import CHAT, COMPLETIONS, RESPONSES, STREAM, prompt
from tests.wire.service import Sidecar, fields
from tests.wire.streams import nameless, steady

ALIASES = {CHAT: "/chat/completions", COMPLETIONS: "/completions", RESPONSES: "/responses"}
ROUTE = {CHAT: "chat", COMPLETIONS: "completions", RESPONSES: "responses"}


@pytest.mark.parametrize("path", ALIASES)
def test_an_alias_is_answered_by_the_route_it_stands_for(service: Sidecar, path: str) -> None:
    body = prompt(path, {"max_tokens": 3})
    answer = service.ask(f"{ALIASES[path]}?a=b", body)
    assert (answer.status, steady(answer.body)) == (
        200,
        steady(service.ask_engine(path, body, request_id=answer.request_id).body),
    )
    (seen,) = [each for each in service.relayed() if "?" in each.target]
    assert seen.target == f"{path}?a=b"
    line = service.record(answer)
    assert fields(line, "path", "route") == (ALIASES[path], ROUTE[path])
    assert fields(line, "prompt_tokens", "completion_tokens") == (14, 3)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_the_usage_of_a_stream_is_known_there_too(service: Sidecar, path: str) -> None:
    body = prompt(path, STREAM, {"max_tokens": 3})
    answer, other = service.ask(ALIASES[path], body), service.ask(path, body)
    assert nameless(answer.body).count(b"data: ") == nameless(other.body).count(b"data: ")
    assert not any(event != "[DONE]" and event.get("usage") for event in answer.data())
    assert fields(service.record(answer), "prompt_tokens", "completion_tokens") == (14, 3)
