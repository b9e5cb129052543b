"""Promise 4, as clients see it that people use: a broken stream raises, a whole one does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.readers import Program, Reader
from tests.wire.client import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.wire.service import Sidecar

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


Read = Callable[[Reader], str | None]


@pytest.fixture(scope="module")
def read(shared_service: Sidecar) -> Iterator[Read]:
    """Reads a stream of the sidecar; each environment is started once."""
    programs: dict[str, Program] = {}
    with ExitStack() as stack:

        def read(reader: Reader) -> str | None:
            if reader.environment not in programs:
                program = Program(reader.environment, shared_service.url)
                programs[reader.environment] = stack.enter_context(program)
            return programs[reader.environment].read(reader.name)

        yield read


@pytest.mark.parametrize("reader", READERS, ids=IDS)
def test_a_whole_stream_raises_nothing(service: Sidecar, read: Read, reader: Reader) -> None:
    assert read(reader) is None
    assert [each.target for each in service.relayed()] == [reader.path]


@pytest.mark.parametrize("reader", READERS, ids=IDS)
def test_a_broken_stream_raises_and_says_why(service: Sidecar, read: Read, reader: Reader) -> None:
    service.engine.script(reader.path, die="between_events:5")
    assert "before its answer was whole" in (read(reader) or "no error")


@pytest.mark.parametrize(
    "reader",
    [reader for reader in READERS if reader.path == RESPONSES],
    ids=lambda reader: f"{reader.environment or 'python'}:{reader.name}",
)
def test_a_stream_that_breaks_before_its_first_event_raises(
    service: Sidecar, read: Read, reader: Reader
) -> None:
    service.engine.script(reader.path, die="after_headers")
    assert read(reader)
