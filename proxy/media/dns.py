"""Asks the operating system for the addresses of a host."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

# A name server that does not answer holds a thread for many seconds: not one of the threads that
# the rest of the sidecar uses. The end of the process waits for none of them for long (`serve`).
_THREADS = 32
_SECONDS = 10.0


class DnsResolver:
    """One question for each call, and nothing kept of the answers."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "dns")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order.

        Raises:
            OSError, UnicodeError: it has no address, is no host, or the answer took too long.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_SECONDS):
            try:
                ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
                entries = await loop.run_in_executor(self._threads, ask)
            except RuntimeError as error:  # there can be no more threads
                raise OSError(str(error)) from None
        return list(dict.fromkeys(str(address[0]) for *_, address in entries))
