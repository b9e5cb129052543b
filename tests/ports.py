"""Ports for servers that are started later: each process of the tests has its own.

A port that the kernel gives out for the asking (32768 and above) may be another one's by the time
the server listens: with many tests at a time that happens.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from itertools import cycle
from pathlib import Path

_FIRST, _LAST, _BLOCK = 12_000, 32_000, 500


def free_ports(count: int) -> list[int]:
    """Ports in a row on 127.0.0.1 that nobody listens on."""
    while True:
        ports = [next(_own_ports()) for _ in range(count)]
        with suppress(OSError), ExitStack() as stack:
            for port in ports:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            if ports[-1] - ports[0] == count - 1:
                return ports


@cache
def _own_ports() -> cycle[int]:
    """Those of a block that is locked until this process ends."""
    for first in range(_FIRST, _LAST, _BLOCK):
        with suppress(OSError):
            name = Path(tempfile.gettempdir(), f"sidecar-tests-ports-{first}")
            lock = os.open(name, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
            else:
                return cycle(range(first, first + _BLOCK))
    raise AssertionError("too many processes of tests run on this machine")
