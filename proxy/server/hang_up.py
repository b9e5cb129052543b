"""Whether a client has left, of a connection that is not being read, or on which nothing comes."""

from __future__ import annotations

import asyncio
import select
import socket

_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def has_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the other side will send no more, which a paused transport does not see."""
    connection = transport.get_extra_info("socket")
    if connection is None:  # closed meanwhile
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def ask_whether_there(transport: asyncio.Transport) -> None:
    """Have the system ask for an answer when nothing has come for a minute, and end the connection
    when there is none for another: a client whose network is gone says no goodbye."""
    connection = transport.get_extra_info("socket")
    if connection is not None:  # else closed meanwhile
        for level, option, value in _KEEP_ALIVE:
            connection.setsockopt(level, option, value)
