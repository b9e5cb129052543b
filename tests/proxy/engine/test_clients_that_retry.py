"""The engine is killed under clients as they are out of the box: they ask again when it is back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from proxy.errors import MAX_HEEDED_SECONDS
from tests.engine.service import Service
from tests.fake_engine import BIN
from tests.patience import PATIENCE, on_a_clock
from tests.proxy.engine.living import Start, chat
from tests.readers import Program, Reader

# Longer than all the time that these clients try again for where nobody tells them how long: 3 s.
START_SECONDS = 8
START = {"FAKE_ENGINE_PHASE_SECONDS": f"weights={START_SECONDS}"}
READERS = [
    Reader("", "openai-chat", "/v1/chat/completions"),
    Reader("", "anthropic-messages", "/v1/messages"),
    Reader("pydantic-ai", "pydantic-ai-chat", "/v1/chat/completions"),
    Reader("node-clients", "openai-chat", "/v1/chat/completions"),
    Reader("node-clients", "anthropic-messages", "/v1/messages"),
]


def kill_engine(service: Service) -> None:
    before = service.phases().count("loading")
    service.kill(service.find(f"{sys.executable} {BIN}"))
    assert service.phases().count("loading") == before, "it is not back already"


@on_a_clock("the engine is back after 9 s, and clients choose when they try again")
def test_a_start_as_long_as_the_last_one_is_waited_for(start: Start) -> None:
    service = start(**START)
    service.wait_for("ready", PATIENCE)
    kill_engine(service)

    def read(reader: Reader) -> str | None:
        with Program(reader.environment, service.url, retries=True) as program:
            return program.read(reader.name)

    with ThreadPoolExecutor(len(READERS)) as clients:
        errors = list(clients.map(read, READERS))
    assert errors == [None] * len(READERS)
    refused = [line for line in service.lines("proxy.access") if line["status"] != 200]
    assert {line["error_source"] for line in refused} == {"upstream"}
    assert 1 <= len(refused) <= len(READERS), "the first retry of each finds it"


@on_a_clock("the engine is started again 1 s after its death")
def test_whoever_comes_before_the_death_is_noticed_is_told_the_same(start: Start) -> None:
    service = start(**START)
    service.wait_for("ready", PATIENCE)
    kill_engine(service)
    refused = chat(service)
    assert refused.status_code == 503
    assert START_SECONDS < int(refused.headers["retry-after"]) <= MAX_HEEDED_SECONDS
