"""What settings mean on the wire: timeouts that end nothing, and addresses of both families."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, STREAM, prompt, request
from tests.wire.service import Sidecar

NEVER = {
    "REQUEST_TIMEOUT": "0",
    "STREAM_IDLE_TIMEOUT": "0",
    "BODY_TIMEOUT": "0",
    "WAITING_TIMEOUT": "0",
    "MEDIA_FETCH_TIMEOUT": "0",
    "MAX_IN_FLIGHT": "1",
    "MAX_WAITING": "1",
}
# Longer than the server's looks at slow clients are apart.
PAUSE_SECONDS = 1.2


def test_a_timeout_of_0_ends_nothing(tmp_path: Path, shared_engine: FakeEngine) -> None:
    with Sidecar(tmp_path, shared_engine, **NEVER) as service:
        service.wait_until_ready()
        fake = {"first_ms": 200, "tokens": 3, "interval_ms": 100}
        assert service.ask(CHAT, prompt(CHAT), fake=fake).status == 200
        streamed = service.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
        assert (streamed.status, streamed.whole) == (200, True)
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        whole = request(CHAT, prompt(CHAT))
        with service.connect() as slow, service.connect() as waiting:
            slow.send(whole[:-10])  # it has the only place
            waiting.send(whole)
            time.sleep(PAUSE_SECONDS)
            slow.send(whole[-10:])
            assert slow.answer().status == 200
            assert waiting.answer().status == 200


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_client_of_a_socket_for_both_families_has_its_own_address_in_the_log(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    with Sidecar(tmp_path, shared_engine, HOST="::") as service:
        service.wait_until_ready()
        answer = service.ask(CHAT, prompt(CHAT))
        assert service.record(answer)["client"] == "127.0.0.1"
