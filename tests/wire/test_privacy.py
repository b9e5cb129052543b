"""What was asked and answered is nobody's business: no log, page or error holds it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire import secrets
from tests.wire.client import CHAT, COMPLETIONS, MESSAGES, RESPONSES, STREAM, new_id, prompt
from tests.wire.service import Sidecar

LEAKS = re.compile(
    rb"Traceback|File \"|site-packages|\.py\b|/tmp/|/home/|/usr/|/srv/|/proc/|0x[0-9a-f]{6}"
)
ANSWERS = {"text": secrets.ANSWER, "tokens": 3}
KEYS = [
    ("authorization", f"Bearer {secrets.KEY}"),
    ("x-api-key", secrets.KEY),
    ("cookie", f"session={secrets.KEY}"),
    ("proxy-authorization", f"Basic {secrets.KEY}"),
]


def with_image(url: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


def bodies() -> Iterator[tuple[str, Any]]:
    """One of each kind, with the words wherever there is room for words."""
    word = secrets.PROMPT
    turns = [
        {"role": "system", "content": word},
        {"role": "user", "name": word, "content": [{"type": "text", "text": word}]},
        {"role": "assistant", "tool_calls": [{"id": word, "function": {"arguments": word}}]},
        {"role": "tool", "tool_call_id": word, "content": word},
    ]
    tools = [{"type": "function", "function": {"name": word, "description": word}}]
    yield CHAT, {"messages": turns, "tools": tools, "user": word, "metadata": {word: word}}
    yield CHAT, {"messages": turns, **STREAM}
    yield CHAT, with_image("data:image/png;base64," + word)
    yield CHAT, with_image(f"http://127.0.0.1:1/{secrets.QUERY}?{secrets.QUERY}")
    yield CHAT, with_image(f"http://{secrets.QUERY}@127.0.0.1/")
    yield CHAT, with_image(f"file:///{secrets.QUERY}")
    yield CHAT, {"messages": word}
    yield CHAT, {"messages": [{"content": {word: word}}], "stream": word}
    yield COMPLETIONS, {"prompt": word, "suffix": word, **STREAM}
    yield MESSAGES, {"system": word, "messages": turns[1:2], "max_tokens": 3, **STREAM}
    yield RESPONSES, {"input": word, "instructions": word, **STREAM}
    yield "/tokenize", {"prompt": word}
    yield "/v1/embeddings", {"input": [word]}
    yield "/v1/nothing", {"input": word}
    for broken in (b'{"messages": "%b', b"%b", b'{"messages": [NaN, "%b"]}', b'\xff{"x":"%b"}'):
        yield CHAT, broken % word.encode()


@pytest.fixture(scope="module")
def watched(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sidecar, Path]]:
    """A sidecar that logs all it can, and its other log."""
    folder = tmp_path_factory.mktemp("watched")
    file = folder / "sidecar.log"
    with Sidecar(folder, shared_engine, LOG_FILE=str(file), MEDIA_FETCH_TIMEOUT="1") as service:
        service.wait_until_ready()
        yield service, file


def assert_nothing_told(service: Sidecar, file: Path) -> None:
    service.page()  # what was asked before has been logged when this is answered
    for log in (service.log, file):
        assert log.stat().st_size > 0
        assert secrets.found_in(log) == []
    for path in ("/metrics", "/info", "/health"):
        answer = service.client.get(path)
        assert not [word for word in secrets.ALL if word in answer.text], path


@pytest.mark.parametrize(
    "fake",
    [
        {},
        {"die": "inside_event:2"},
        {"error_event_at": 1},
        {"die": "before_headers"},
        {"status": 500},
    ],
)
def test_nothing_that_was_asked_or_answered_is_told(
    watched: tuple[Sidecar, Path], fake: dict[str, Any]
) -> None:
    service, file = watched
    answered = 0
    for path, body in bodies():
        query = f"?key={secrets.KEY}&{secrets.QUERY}"
        request_id = new_id()
        with service.connect() as client:
            fakes = {**ANSWERS, **fake}
            client.ask(path + query, body, headers=KEYS, fake=fakes, request_id=request_id)
            answered += secrets.ANSWER.encode() in client.answer().body
        service.record(request_id)
    assert answered >= 3 or fake
    assert_nothing_told(service, file)


def test_nothing_of_a_session_is_told(watched: tuple[Sidecar, Path]) -> None:
    service, file = watched
    headers = {**dict(KEYS), "x-request-id": new_id()}
    url = f"ws://127.0.0.1:{service.port}/v1/realtime?key={secrets.KEY}"
    with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE) as client:
        client.recv(PATIENCE)
        for message in (secrets.PROMPT, secrets.PROMPT.encode()):
            client.send(message)
            assert client.recv(PATIENCE) == message
    service.record(headers["x-request-id"])
    assert_nothing_told(service, file)


def test_the_words_would_be_found() -> None:
    """The check can fail: it finds what a log holds in any of the usual forms."""
    folder = Path(__file__).parent
    assert secrets.found_in(folder / "secrets.py")


ERRORS: list[tuple[str, Any, dict[str, Any]]] = [
    *((path, b"{", {"garbage": "before_headers"}) for path in (CHAT, MESSAGES, RESPONSES)),
    *((path, {"messages": 1}, {"die": "before_headers"}) for path in (CHAT, MESSAGES, RESPONSES)),
    (CHAT, with_image("file:///etc/passwd"), {}),
    (CHAT, with_image("http://127.0.0.1:1/"), {}),
    ("/etc/passwd", None, {}),
    ("/v1/models/..%2f..%2fetc%2fpasswd", None, {}),
    ("/info/x", {}, {}),
    ("/info", {}, {}),
]


@pytest.mark.parametrize(("path", "body", "fake"), ERRORS)
def test_an_error_of_ours_holds_no_file_of_the_server_and_no_traceback(
    service: Sidecar, path: str, body: Any, fake: dict[str, Any]
) -> None:
    answer = service.ask(path, body, fake=fake)
    assert answer.all("x-proxy-error")
    assert answer.status >= 400
    assert not LEAKS.search(answer.body), answer.body
    assert set(answer.json()) <= {"error", "type", "request_id"}


def test_an_error_names_no_address_of_the_engine(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT), fake={"die": "before_headers"})
    assert answer.status == 502
    text = json.dumps([answer.headers, answer.body.decode()])
    assert "127.0.0.1" not in text
    assert not re.search(rf"\b{service.engine.port}\b", text)
