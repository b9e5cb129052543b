"""Name servers that do not answer hold up nobody else."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from proxy.media import dns
from proxy.media.dns import DnsResolver
from tests.patience import PATIENCE

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 80))] * 2


@pytest.mark.parametrize("error", [socket.gaierror(-2, "not known"), UnicodeError("a label")])
async def test_what_the_system_says_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(type(error)):
        await DnsResolver()("example.com", 80)


async def test_so_many_are_asked_at_a_time_also_where_nobody_waits_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end, asked = threading.Event(), []

    def slow(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        end.wait(PATIENCE)
        return FOUND

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(dns, "_THREADS", 2)
    monkeypatch.setattr(dns, "_SECONDS", 0.05)
    resolver = DnsResolver()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await resolver("slow.example", 80)
    assert len(asked) == 2
    end.set()
    monkeypatch.setattr(dns, "_SECONDS", PATIENCE)
    assert await resolver("late.example", 80) == ["1.1.1.1"]
