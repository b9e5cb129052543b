"""The server: what it listens on."""

from __future__ import annotations

import socket

import pytest

from proxy.server.listener import listen


def test_equal_ports_are_one_listener_and_a_taken_one_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", (port, port))
    (listener,) = listen("127.0.0.1", (port, port))
    with listener:
        assert listener.getsockname()[1] == port
