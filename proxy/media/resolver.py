"""Asks the system where a host is."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

# A name server that does not answer holds a thread for many seconds: not one of the threads that
# the rest of the sidecar uses.
_THREADS = 32
_SECONDS = 10.0


class Resolver:
    """One question for each call, and nothing kept of the answers."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order.

        Raises:
            OSError, UnicodeError: it has none, or is none, or nobody told in time.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_SECONDS):
            found = await loop.run_in_executor(self._threads, _ask, host, port)
        return list(dict.fromkeys(found))


def _ask(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
