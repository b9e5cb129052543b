"""The engine is killed under clients as they are out of the box: they ask again when it is back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import anthropic
import openai
import pytest

from proxy.errors import MAX_HEEDED_SECONDS
from tests.engine.service import Service
from tests.fake_engine import BIN
from tests.patience import PATIENCE
from tests.proxy.engine.living import Start, chat

# Longer than all the time that these clients try again for where nobody tells them how long: 3 s.
START = {"FAKE_ENGINE_PHASE_SECONDS": "weights=6"}


def ask_openai(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "A"}])


def ask_anthropic(url: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key="none") as client:
        client.messages.create(
            model="tiny", max_tokens=8, messages=[{"role": "user", "content": "A"}]
        )


def kill_engine(service: Service) -> None:
    before = service.phases().count("loading")
    pid = service.find(f"{sys.executable} {BIN}")
    os.kill(pid, signal.SIGKILL)
    assert service.phases().count("loading") == before, "it is not back already"


@pytest.mark.parametrize("ask", [ask_openai, ask_anthropic])
def test_a_start_as_long_as_the_last_one_is_waited_for(
    start: Start, ask: Callable[[str], None]
) -> None:
    service = start(**START)
    service.wait_for("ready", PATIENCE)
    kill_engine(service)
    ask(service.url)
    tries = [line for line in service.lines("proxy.access") if line["status"] != 200]
    assert {line["error_source"] for line in tries} == {"upstream"}
    assert 1 <= len(tries) <= 2


def test_whoever_comes_before_the_death_is_noticed_is_told_the_same(start: Start) -> None:
    service = start(**START)
    service.wait_for("ready", PATIENCE)
    kill_engine(service)
    refused = chat(service)
    assert refused.status_code == 503
    assert 6 < int(refused.headers["retry-after"]) <= MAX_HEEDED_SECONDS
