"""A second descriptor of a socket: it reads on where a write that failed has closed the first."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

_READ_BYTES = 64 * 1024


class Spare:
    """An engine that refuses a body answers, and closes before it has read the body. Its
    answer waits in the socket while our next write fails."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """`transport` is open."""
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
        self._socket = socket.socket(fileno=descriptor)

    def rest(self) -> Iterator[bytes]:
        """What has not been read yet; the descriptor is closed after it."""
        with self._socket, suppress(OSError):
            while data := self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                yield data
