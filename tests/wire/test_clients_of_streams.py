"""Promise 4, as clients see it that people use: a broken stream raises, a whole one does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from tests.engine.service import PROJECT
from tests.patience import PATIENCE
from tests.peers import installed, peer
from tests.wire.client import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.wire.service import Sidecar

PROGRAMS = PROJECT / "tests" / "engine" / "clients"


class Reader(NamedTuple):
    """A way to read a stream to its end: a client in an environment, and the route that it asks."""

    environment: str
    name: str
    path: str

    def command(self, url: str) -> Sequence[str]:
        match self.environment:
            case "":
                python = sys.executable
            case "node-clients":
                program = PROGRAMS / "read_stream.mjs"
                return ["node", str(program), str(installed("node-clients")), url, self.name]
            case other:
                python = peer(other, "python")
        return [python, str(PROGRAMS / "read_stream.py"), url, self.name]


_OF_BOTH = [
    ("openai-chat", CHAT),
    ("openai-chat-helper", CHAT),
    ("openai-completions", COMPLETIONS),
    ("openai-responses", RESPONSES),
    ("openai-responses-helper", RESPONSES),
    ("anthropic-messages", MESSAGES),
    ("anthropic-messages-helper", MESSAGES),
    ("langchain-chat", CHAT),
    ("langchain-responses", RESPONSES),
]
READERS = [
    Reader("langchain-openai" if name.startswith("langchain") else "", name, path)
    for name, path in _OF_BOTH
]
READERS += [Reader("node-clients", name, path) for name, path in _OF_BOTH]
READERS += [
    Reader("pydantic-ai", "pydantic-ai-chat", CHAT),
    Reader("pydantic-ai", "pydantic-ai-responses", RESPONSES),
    Reader("pydantic-ai", "openai-responses", RESPONSES),  # the SDK before version 3
]
IDS = [f"{reader.environment or 'python'}:{reader.name}" for reader in READERS]


def error_of(reader: Reader, service: Sidecar) -> str | None:
    """What the client raised; None where the stream came to its end as it should."""
    done = subprocess.run(
        reader.command(service.url), capture_output=True, text=True, timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    ending: dict[str, str] = json.loads(done.stdout)
    return ending.get("error")


@pytest.mark.parametrize("reader", READERS, ids=IDS)
def test_a_whole_stream_raises_nothing(service: Sidecar, reader: Reader) -> None:
    assert error_of(reader, service) is None
    assert [each.target for each in service.relayed()] == [reader.path]


@pytest.mark.parametrize("reader", READERS, ids=IDS)
def test_a_broken_stream_raises_and_says_why(service: Sidecar, reader: Reader) -> None:
    service.engine.script(reader.path, die="between_events:5")
    assert "before its answer was whole" in (error_of(reader, service) or "no error")


@pytest.mark.parametrize(
    "reader",
    [reader for reader in READERS if reader.path == RESPONSES],
    ids=lambda reader: f"{reader.environment or 'python'}:{reader.name}",
)
def test_a_stream_that_breaks_before_its_first_event_raises(
    service: Sidecar, reader: Reader
) -> None:
    service.engine.script(reader.path, die="after_headers")
    assert error_of(reader, service)
