"""Connections in numbers: many that are idle, and more than there are descriptors for."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.wire.client import CHAT, STREAM, Client, prompt, request
from tests.wire.service import Sidecar, ending, until

IDLE = 5000
# Of one that has asked something; 5.5 KiB were measured.
IDLE_KIB = 12
FEW = 12


@pytest.fixture
def many_files() -> Iterator[None]:
    """So many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * IDLE:
        pytest.skip(f"this process may have {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * IDLE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def few_files(service: Sidecar) -> Iterator[None]:
    """The sidecar may open a few more, and then none."""
    pid = service.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + FEW, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_5000_idle_connections_are_kept_take_little_and_hold_up_nobody(
    own_service: Sidecar,
) -> None:
    service = own_service
    assert service.ask(CHAT, prompt(CHAT, STREAM)).whole
    before, files = service.memory_mib(), service.open_files()
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(IDLE)]
        for client in clients:
            client.send(request("/livez"))
        for client in clients:
            assert client.answer(method="GET").status == 200
        assert service.open_files() >= IDLE
        assert service.memory_mib() - before < IDLE * IDLE_KIB / 1024
        for _ in range(5):
            assert service.ask(CHAT, prompt(CHAT, STREAM)).data()[-1] == "[DONE]"
        for client in clients[::100]:  # none of them was closed meanwhile
            client.send(request("/livez"))
            assert client.answer(method="GET").status == 200
    until(lambda: service.open_files() <= files + FEW, "closed connections")


def test_without_a_descriptor_it_serves_whom_it_has_and_afterwards_everybody(
    own_service: Sidecar,
) -> None:
    service = own_service
    with service.connect() as old, ExitStack() as stack:
        streamed = old.ask(CHAT, prompt(CHAT, STREAM), fake={"tokens": 100, "interval_ms": 20})
        old.head()
        for _ in range(2):  # and back again
            with few_files(service):
                clients = [Client(service.port, seconds=5) for _ in range(3 * FEW)]
                served = 0
                for client in clients:
                    stack.enter_context(client)
                    with suppress(OSError, Exception):
                        client.send(request("/livez"))
                        served += client.answer(method="GET").status == 200
                assert 0 < served < len(clients)
                for client in clients:
                    client.close()
                until(lambda: _answers(service), "an answer, though the limit is as low as before")
        while old.chunk():
            pass
    assert ending(service.record(streamed)) == (200, "ok", None, None)
    assert service.ask(CHAT, prompt(CHAT)).status == 200
    assert not [line for line in service.other_lines() if "Traceback" in line]


def test_a_request_for_which_no_descriptor_is_left_is_told_and_the_engine_not_blamed(
    own_service: Sidecar,
) -> None:
    service = own_service
    with ExitStack() as stack:
        old = stack.enter_context(service.connect())
        old.send(request("/livez"))
        assert old.answer(method="GET").status == 200
        with few_files(service):
            for _ in range(FEW):
                stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            until(lambda: _full(service), "no descriptor left")
            request_ids = [old.ask(CHAT, prompt(CHAT)) for _ in range(4)]
            answers = [old.answer() for _ in request_ids]
        for answer in answers:
            assert (answer.status, answer.header("x-proxy-error")) == (503, "proxy overloaded")
            assert "raise its limit" in answer.json()["error"]["message"]
        for request_id in request_ids:
            assert ending(service.record(request_id)) == (503, "rejected", "proxy", "overloaded")
        for _ in range(2):
            assert service.ask(CHAT, prompt(CHAT)).status == 200


def _answers(service: Sidecar) -> bool:
    with suppress(Exception), Client(service.port, seconds=5) as client:
        client.send(request("/livez"))
        return client.answer(method="GET").status == 200
    return False


def _full(service: Sidecar) -> bool:
    limit, _ = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
    return service.open_files() >= limit - 1
