"""Whether a client has left, of a connection that is not being read."""

from __future__ import annotations

import asyncio
import select


def has_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the other side will send no more, which a paused transport does not see."""
    connection = transport.get_extra_info("socket")
    if connection is None:  # closed meanwhile
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
