"""What a sidecar goes through in a day, in seconds: answers, errors, a leaver, a crash."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx

from tests.engine.service import Service, wait_until
from tests.fake_engine import x_fake
from tests.patience import PATIENCE
from tests.proxy.engine.living import Gate

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_USER = {"role": "user", "content": "Hi"}
_PICTURE = [{"type": "image_url", "image_url": {"url": PIXEL}}, {"type": "text", "text": "What?"}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": [_USER]}
STREAM = CHAT | {"stream": True}
LOOK = STREAM | {"messages": [{"role": "user", "content": _PICTURE}]}
COMPLETION: dict[str, Any] = {"model": "second", "prompt": "Hi", "stream": True}
MESSAGE = {"model": "tiny", "messages": [_USER], "max_tokens": 8}

_CHAT, _COMPLETIONS, _MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
_ORDINARY = (
    *((_CHAT, STREAM), (_CHAT, CHAT), (_CHAT, LOOK)),
    *((_COMPLETIONS, COMPLETION), (_MESSAGES, MESSAGE)),
)


def ordinary(service: Service, seconds: float) -> None:
    """Some of everything, several at a time, for so long."""
    end = time.monotonic() + seconds
    pace: dict[str, Any] = {"tokens": 12, "first_ms": 60, "interval_ms": 20}
    with ThreadPoolExecutor(4) as clients:
        while time.monotonic() < end:
            statuses = clients.map(lambda each: ask(service, *each, **pace), _ORDINARY)
            assert set(statuses) == {200}


def ask(service: Service, path: str, body: dict[str, Any], **fake: Any) -> int:
    """One request, read to its end."""
    return service.client.post(path, json=body, headers=x_fake(**fake)).status_code


def leave(service: Service) -> None:
    """A client that goes away in the middle of a stream."""
    slow = x_fake(tokens=100, interval_ms=50)
    with service.client.stream("POST", _CHAT, json=STREAM, headers=slow) as answer:
        next(answer.iter_bytes())


def errors(service: Service) -> None:
    """Mistakes of clients and of the engine."""
    assert ask(service, _CHAT, CHAT | {"model": "no-such"}) == 404
    assert ask(service, _CHAT, CHAT, status=500) == 500
    assert ask(service, _CHAT, STREAM, error_event_at=3) == 200
    leave(service)


def crash(service: Service, gate: Gate) -> None:
    """The engine, which starts by its gate, dies of a request; while it is down another comes."""
    gate.close()
    words = {"role": "user", "content": "crash"}
    with suppress(httpx.TransportError):
        assert ask(service, _CHAT, CHAT | {"messages": [words]}) >= 500
    wait_until(lambda: service.health()["phase"] != "ready", PATIENCE, "the engine's death")
    assert ask(service, _CHAT, CHAT) == 503
    gate.open()
    service.wait_for("ready", PATIENCE)
